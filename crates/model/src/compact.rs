//! Makes equal what is equal but for its numbers.
//!
//! Transaction ids and event ids are only ever compared. So those nobody will ask for again
//! are forgotten, and the others moved together. Without this, each time that a hub has woken
//! up and slept again would be a state of its own.

use crate::{
    State,
    hub::{Hub, Mode, Next},
    postgres::{Snapshot, Xids},
};

/// Where each transaction id goes. A bound ("all below this") goes where the next one that
/// counts goes.
struct Places(Xids);

impl Places {
    fn of(&self, xid: u8) -> u8 {
        1 + self.0.below(xid).len()
    }

    fn of_all(&self, xids: Xids) -> Xids {
        let mut placed = Xids::default();
        for xid in xids.iter().filter(|&xid| self.0.has(xid)) {
            placed.insert(self.of(xid));
        }
        placed
    }

    fn of_snapshot(&self, snapshot: Snapshot) -> Snapshot {
        Snapshot {
            xmax: self.of(snapshot.xmax),
            xip: self.of_all(snapshot.xip),
        }
    }

    fn move_hub(&self, hub: &mut Hub) {
        hub.looked = hub.looked.map(|looked| self.of_snapshot(looked));
        if let Mode::Lapsing { fence } = &mut hub.mode {
            *fence = self.of(*fence + 1) - 1;
        }
        match &mut hub.next {
            Next::Look(.., looked) => *looked = self.of_snapshot(*looked),
            Next::Number(.., Some((_, looked, now))) => {
                *looked = self.of_snapshot(*looked);
                *now = self.of_snapshot(*now);
            }
            Next::Commit(.., now, xid) => {
                *now = self.of_snapshot(*now);
                *xid = self.of(*xid);
            }
            Next::Settle(.., ended_below) => *ended_below = self.of(*ended_below),
            Next::Lapsed(Some(fence)) => *fence = self.of(*fence + 1) - 1,
            _ => {}
        }
    }
}

/// Does it.
pub(crate) fn compact(state: &mut State) {
    let postgres = &mut state.postgres;
    let is_kept = |xid| postgres.running.has(xid) || postgres.committed.has(xid);

    // Rolled-back rows take no part any more.
    for id in (0..postgres.events.len()).rev() {
        if !is_kept(postgres.events[id].xid) {
            postgres.events.remove(id);
            for (_, event) in &mut postgres.stream {
                *event -= u8::from(usize::from(*event) > id);
            }
        }
    }

    let mut kept = postgres.running;
    postgres
        .events
        .iter()
        .for_each(|event| kept.insert(event.xid));
    let places = Places(kept);
    for event in &mut postgres.events {
        event.xid = places.of(event.xid);
        event.after = places.of_all(event.after);
    }
    postgres.next_xid = places.of(postgres.next_xid);
    postgres.newest_ended = places.of(postgres.newest_ended + 1) - 1;
    postgres.running = places.of_all(postgres.running);
    postgres.committed = places.of_all(postgres.committed);
    postgres.seen = places.of_snapshot(postgres.seen);
    for writer in &mut state.writers {
        writer.xid = writer.xid.map(|xid| places.of(xid));
    }
    for hub in &mut state.hubs {
        places.move_hub(hub);
    }
}
