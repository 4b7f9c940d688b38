//! A client that inserts: per event an id, a transaction id, then a look at the cell.

use crate::{
    Mistake,
    postgres::{Event, Postgres, Until},
};

/// One connection, one transaction after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    /// How many transactions have ended.
    pub ended: u8,
    /// How many events the open one has inserted.
    pub inserted: u8,
    /// Its transaction id, once it has one.
    pub xid: Option<u8>,
    /// Whether it is between the row and the trigger (or the other way, by mistake).
    pub is_inserting: bool,
    /// Whether its commit will ring.
    pub rings: bool,
}

/// What it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The row, or what the trigger does after it.
    Insert,
    /// Commit.
    Commit,
    /// Roll back.
    Abort,
}

impl Writer {
    /// What it can do, if its transactions insert that many events.
    pub fn steps(&self, transactions: &[u8], aborts: bool) -> Vec<Step> {
        match transactions.get(usize::from(self.ended)) {
            None => vec![],
            Some(&events) if self.is_inserting || self.inserted < events => vec![Step::Insert],
            Some(_) if aborts => vec![Step::Commit, Step::Abort],
            Some(_) => vec![Step::Commit],
        }
    }

    /// Takes a step. Returns whether it rang.
    pub fn step(&mut self, step: Step, mistake: Option<Mistake>, postgres: &mut Postgres) -> bool {
        match step {
            Step::Insert => {
                let is_trigger_first = mistake == Some(Mistake::CellBeforeXid);
                if self.is_inserting == is_trigger_first {
                    self.insert_row(postgres);
                } else {
                    self.rings |= postgres.until != Until::Later;
                }
                self.inserted += u8::from(self.is_inserting);
                self.is_inserting = !self.is_inserting;
                false
            }
            Step::Commit | Step::Abort => {
                let xid = self.xid.expect("it has inserted");
                if step == Step::Commit {
                    postgres.committed.insert(xid);
                }
                postgres.end(xid);
                let rings = self.rings && step == Step::Commit;
                *self = Self {
                    ended: self.ended + 1,
                    ..Self::default()
                };
                rings
            }
        }
    }

    fn insert_row(&mut self, postgres: &mut Postgres) {
        let xid = *self.xid.get_or_insert_with(|| postgres.draw_xid());
        postgres.events.push(Event {
            xid,
            after: postgres.committed,
        });
    }
}
