//! A client's place on a lane.

use std::{fmt, sync::Arc};

use crate::{Cursor, Filter, Follower, Hub, hub::Read, lanes::LaneKey};

/// A client's place on a lane, and how far in the stream it has come. Leaves the lane when dropped.
pub struct Berth {
    hub: Arc<Hub>,
    lane: LaneKey,
    filter: Filter,
    cursor: Cursor,
}

impl Berth {
    pub(crate) fn new(hub: Arc<Hub>, lane: LaneKey, filter: Filter, cursor: Cursor) -> Self {
        Self {
            hub,
            lane,
            filter,
            cursor,
        }
    }

    /// Up to where the client has everything its filter matches, if it has taken all that
    /// was handed out so far.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// What it is subscribed to.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Its lane.
    pub fn lane(&self) -> LaneKey {
        self.lane
    }

    /// What the lane brings from now on.
    pub fn follow(&self) -> Follower {
        Follower::new(Arc::clone(&self.hub), self.hub.queue(self.lane))
    }

    /// Says that the client was handed everything up to and including this number, or that it is
    /// gone.
    pub fn advance(&mut self, seq: u64) {
        self.cursor.seq = self.cursor.seq.max(seq);
    }

    /// Reads what follows in the ring, up to a number. The cursor is behind it then.
    pub fn read(&mut self, up_to: u64) -> Read {
        loop {
            let at = self.cursor.seq;
            let read = self.hub.read_ring(self.lane, &self.filter, at, up_to);
            let Read::Piece(piece) = &read else {
                return read;
            };
            self.cursor.seq = piece.to;
            if piece.events > 0 {
                return read;
            }
        }
    }

    /// Whether its hub is open, and so another stream has taken the place of one that was closed.
    pub fn is_replaced(&self) -> bool {
        self.hub.head().is_some()
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.hub.leave(self.lane);
    }
}

impl fmt::Debug for Berth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Berth")
            .field("filter", &self.filter)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}
