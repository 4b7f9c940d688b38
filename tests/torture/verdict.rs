//! Whether what clients saw is what was committed.

use std::collections::HashSet;

use super::client::{Interest, Seen};
use crate::harness::{Committed, check_order};

/// The stream, as it stands in the database: numbers, topics and names.
pub(super) type Table = Vec<(u64, String, String)>;

/// Compares all sides. Panics at the first difference.
pub(super) fn check(table: &Table, seen: &[Seen], ledger: &[Committed]) {
    assert!(
        table
            .iter()
            .map(|(seq, ..)| *seq)
            .eq(1..=table.len() as u64),
        "numbers have no holes"
    );
    let names: Vec<&str> = table.iter().map(|(_, _, name)| name.as_str()).collect();
    assert_eq!(
        names.iter().collect::<HashSet<_>>().len(),
        names.len(),
        "each has one number"
    );

    for (number, client) in seen.iter().enumerate() {
        let wanted: Vec<_> = table
            .iter()
            .filter(|(_, topic, _)| client.interest.wants(topic))
            .map(|(seq, _, name)| (*seq, name.as_str()))
            .collect();
        assert!(!wanted.is_empty(), "client {number} had something to see");
        for (event, expected) in client.events.iter().zip(&wanted) {
            assert_eq!(&(event.0, event.1.as_str()), expected, "client {number}");
        }
        assert_eq!(
            client.events.len(),
            wanted.len(),
            "client {number} has seen all"
        );
    }

    check_order(&names, ledger);
}

/// The verdict must be able to say no.
#[test]
fn it_notices_what_is_skipped_repeated_or_swapped() {
    let topic = |seq| if seq % 2 == 0 { "events" } else { "tenant.1" };
    let table: Table = (1..=50)
        .map(|seq| (seq, topic(seq).to_owned(), format!("n{seq}")))
        .collect();
    let seen = |interest: Interest, change: fn(&mut Vec<(u64, String)>)| {
        let mut events = table
            .iter()
            .filter(|(_, topic, _)| interest.wants(topic))
            .map(|(seq, _, name)| (*seq, name.clone()))
            .collect();
        change(&mut events);
        [Seen {
            interest,
            events,
            connections: 1,
        }]
    };
    let notices = |seen: [Seen; 1]| std::panic::catch_unwind(|| check(&table, &seen, &[])).is_err();
    for interest in [Interest::All, Interest::Events, Interest::Tenants] {
        assert!(!notices(seen(interest, |_| {})));
        assert!(notices(seen(interest, |events| drop(events.remove(20)))));
        assert!(notices(seen(interest, |events| {
            events.insert(20, events[19].clone());
        })));
        assert!(notices(seen(interest, |events| events.swap(20, 21))));
        assert!(notices(seen(interest, |events| drop(events.pop()))));
        assert!(notices(seen(interest, |events| events[20].0 += 1)));
    }
    assert!(
        notices(seen(Interest::Tenant(2), |_| {})),
        "nothing to see is no proof"
    );

    let committed = |name: &str, inserted, at| Committed {
        rows: vec![(name.to_owned(), inserted)],
        at,
    };
    let ordered = [committed("n5", 1, 2), committed("n10", 3, 4)];
    let too_late = [committed("n5", 5, 6), committed("n10", 1, 2)];
    let torn = [Committed {
        rows: vec![("n5".to_owned(), 1), ("n10".to_owned(), 2)],
        at: 3,
    }];
    let lost = [committed("n51", 1, 2)];
    let names: Vec<&str> = table.iter().map(|(_, _, name)| name.as_str()).collect();
    let notices =
        |ledger: &[Committed]| std::panic::catch_unwind(|| check_order(&names, ledger)).is_err();
    assert!(!notices(&ordered));
    assert!(notices(&too_late));
    assert!(notices(&torn));
    assert!(notices(&lost));
}
