//! What writers know of what they committed, and what follows from it for the order.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// A transaction whose COMMIT was answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    /// Its rows' names, in order, each with the time before its INSERT was sent.
    pub(crate) rows: Vec<(String, u64)>,
    /// The time after the answer.
    pub(crate) at: u64,
}

/// Ticks once for each thing that is noted, and so tells what came first.
pub(crate) fn now() -> u64 {
    static CLOCK: AtomicU64 = AtomicU64::new(1);
    CLOCK.fetch_add(1, Ordering::SeqCst)
}

/// The stream, by names that are each in it once, keeps transactions together and what was
/// over before what began after it. It may hold events that the ledger knows nothing of.
pub(crate) fn check_order(names: &[&str], ledger: &[Committed]) {
    let position: HashMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(at, &name)| (name, at))
        .collect();
    let mut facts = vec![None; names.len()];
    for transaction in ledger {
        let rows = &transaction.rows;
        let at: Vec<usize> = rows
            .iter()
            .map(|(name, _)| position[name.as_str()])
            .collect();
        assert!(
            at.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "together, as inserted: {transaction:?}"
        );
        for (place, (_, inserted)) in at.iter().zip(rows) {
            facts[*place] = Some((*inserted, transaction.at));
        }
    }
    // Backwards, with the earliest commit of all that come later in the stream: none of them
    // may have been over before this row's INSERT began.
    let mut earliest_commit = u64::MAX;
    for (at, fact) in facts.into_iter().enumerate().rev() {
        let Some((inserted, committed)) = fact else {
            continue;
        };
        assert!(
            earliest_commit > inserted,
            "something after {} was committed before it began",
            names[at]
        );
        earliest_commit = earliest_commit.min(committed);
    }
}
