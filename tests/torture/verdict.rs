//! Whether what clients saw is what was committed.

use std::collections::HashSet;

use super::client::Seen;
use crate::harness::{Committed, check_order};

/// The stream, as it stands in the database.
pub(super) type Table = Vec<(u64, String)>;

/// Compares all sides. Panics at the first difference.
pub(super) fn check(table: &Table, seen: &[Seen], ledger: &[Committed]) {
    assert!(
        table.iter().map(|(seq, _)| *seq).eq(1..=table.len() as u64),
        "numbers have no holes"
    );
    let names: Vec<&str> = table.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(
        names.iter().collect::<HashSet<_>>().len(),
        names.len(),
        "each has one number"
    );

    for (number, client) in seen.iter().enumerate() {
        for (at, (name, expected)) in client.events.iter().zip(&names).enumerate() {
            assert_eq!(name, expected, "client {number} at {}", at + 1);
        }
        assert_eq!(
            client.events.len(),
            names.len(),
            "client {number} has seen all"
        );
    }

    check_order(&names, ledger);
}

/// The verdict must be able to say no.
#[test]
fn it_notices_what_is_skipped_repeated_or_swapped() {
    let table: Table = (1..=50).map(|seq| (seq, format!("n{seq}"))).collect();
    let seen = |change: fn(&mut Vec<String>)| {
        let mut events: Vec<String> = table.iter().map(|(_, name)| name.clone()).collect();
        change(&mut events);
        [Seen {
            events,
            connections: 1,
        }]
    };
    let notices = |seen: [Seen; 1]| std::panic::catch_unwind(|| check(&table, &seen, &[])).is_err();
    assert!(!notices(seen(|_| {})));
    assert!(notices(seen(|events| drop(events.remove(20)))));
    assert!(notices(seen(|events| events.insert(20, "n20".to_owned()))));
    assert!(notices(seen(|events| events.swap(20, 21))));
    assert!(notices(seen(|events| events.truncate(49))));

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
    let names: Vec<&str> = table.iter().map(|(_, name)| name.as_str()).collect();
    let notices =
        |ledger: &[Committed]| std::panic::catch_unwind(|| check_order(&names, ledger)).is_err();
    assert!(!notices(&ordered));
    assert!(notices(&too_late));
    assert!(notices(&torn));
}
