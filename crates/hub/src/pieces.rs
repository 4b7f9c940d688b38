//! Pieces of the stream that clients who come back together share.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
};

use crate::{lanes::LaneKey, ring::Piece};

/// Pieces that are remembered, in all at most so many times the bytes of one.
const SLOTS: usize = 256;

/// The pieces that were put together lately. Thousands of clients that were cut off at the same
/// time come back with the same few cursors: they are handed the same bytes.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// Each under a lock of its own, which is taken after the hub's.
    slots: Vec<Mutex<Option<Entry>>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Entry {
    lane: LaneKey,
    from: u64,
    /// Up to where there was anything to put together.
    end: u64,
    piece: Piece,
}

impl Pieces {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The piece of a lane after a position, up to an end. Put together if nobody has had it yet, or if
    /// another end cut it short.
    pub(crate) fn get(
        &self,
        lane: LaneKey,
        from: u64,
        end: u64,
        make: impl FnOnce() -> Option<Piece>,
    ) -> Option<Piece> {
        let hash = self.hasher.hash_one((lane, from));
        let nth = usize::try_from(hash % SLOTS as u64).expect("it is small");
        // Who panicked while making a piece has put none there.
        let mut slot = self.slots[nth]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = &*slot
            && (entry.lane, entry.from) == (lane, from)
            && (entry.end == end || entry.piece.to < entry.end.min(end))
        {
            return Some(entry.piece.clone());
        }
        let piece = make()?;
        *slot = Some(Entry {
            lane,
            from,
            end,
            piece: piece.clone(),
        });
        Some(piece)
    }
}
