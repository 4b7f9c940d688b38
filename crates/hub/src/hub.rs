//! The hub itself, and its lock.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use crate::{
    Ancestor, Berth, Cursor, Epoch, Filter, Follower, Frame, Retain, Ring, Subscription, Topic,
    lanes::{Lane, LaneKey, Lanes, Queue},
    pieces::Pieces,
    ring::Piece,
};

/// Bytes handed out in one piece while a subscription replays, unless one frame is larger.
const PIECE_BYTES: usize = 64 * 1024;

/// How much of the stream is kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frames in the ring. Default: 65,536, ten minutes at 100 events a second.
    pub ring_frames: usize,
    /// Bytes of the frames in the ring. Default: 64 MiB.
    pub ring_bytes: usize,
}

/// Where events are published and subscribed to. See the crate's documentation.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    /// A std lock: held for microseconds, never across an await. It guards the ring and
    /// the lanes together, so that who joins a lane knows the head it joined at.
    state: RwLock<State>,
    pieces: Pieces,
    /// The head up to which all lanes have been sent what is theirs. Behind the ring's
    /// head only while `publish` sends.
    sent: AtomicU64,
    /// How often a subscription lagged behind its lane.
    lags: AtomicU64,
}

/// What of the stream is in memory.
#[derive(Clone, Copy, Debug)]
pub struct Coverage {
    /// Number of the event before the oldest.
    pub floor: u64,
    /// How many events.
    pub events: u64,
    /// What they take in memory, as they are encoded.
    pub bytes: usize,
    /// When the oldest of them was captured; `None` if there is none.
    pub since: Option<SystemTime>,
}

#[derive(Debug)]
struct State {
    /// `None` before the stream is open, and once the hub is closed.
    epoch: Option<Epoch>,
    /// The epochs that this one continues, oldest first.
    ancestors: Vec<Ancestor>,
    ring: Ring,
    lanes: Lanes,
    /// The last event of each topic that has a state.
    states: BTreeMap<Topic, Frame>,
}

/// The hub does not know the stream yet, or is closed.
#[derive(Debug, PartialEq, Eq)]
pub struct NotOpen;

/// Where a cursor stands in the present stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this position: all before it is the same in both.
    Here(Cursor),
    /// After this position, in numbers that were given again since: what the client has of
    /// them is not part of this stream.
    After(Cursor),
    /// It is of a stream that has nothing to do with this one.
    Nowhere,
}

/// Where the last n events of a filter begin, as far as the ring can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// Just after this number.
    To(u64),
    /// Before the ring: so many of them are still to be found at or below this number.
    Beyond {
        /// How many more.
        missing: usize,
        /// The ring's floor.
        floor: u64,
    },
}

/// What a client finds in the ring.
#[derive(Debug)]
pub enum Read {
    /// What comes next.
    Piece(Piece),
    /// Nothing; it has all there is.
    CaughtUp,
    /// Its position is no longer in the ring.
    BeforeRing {
        /// The position after which the ring begins.
        floor: u64,
        /// The position with which it ends.
        head: u64,
    },
    /// The stream it belongs to is no longer open.
    Closed,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            ring_frames: 65_536,
            ring_bytes: 64 * 1024 * 1024,
        }
    }
}

// === impl Hub ===

impl Hub {
    /// A hub that is not open yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        let state = State {
            epoch: None,
            ancestors: Vec::new(),
            ring: Ring::new(0, limits.ring_frames, limits.ring_bytes),
            lanes: Lanes::default(),
            states: BTreeMap::new(),
        };
        Arc::new(Self {
            limits,
            state: RwLock::new(state),
            pieces: Pieces::new(),
            sent: AtomicU64::new(0),
            lags: AtomicU64::new(0),
        })
    }

    /// Opens a stream whose ring holds these frames, the newest of which has the number
    /// `head`, and whose topics have these states. Subscriptions to another stream end; their
    /// clients come back with cursors that tell the difference.
    ///
    /// # Panics
    /// If the frames have holes or do not end at `head`.
    pub fn open(
        &self,
        epoch: Epoch,
        ancestors: Vec<Ancestor>,
        head: u64,
        recent: Vec<Frame>,
        states: Vec<Frame>,
    ) {
        let floor = recent.first().map_or(head, |oldest| oldest.seq - 1);
        let mut ring = Ring::new(floor, self.limits.ring_frames, self.limits.ring_bytes);
        for frame in recent {
            ring.push(frame);
        }
        assert_eq!(ring.head(), head, "the ring ends at the head");

        let mut state = self.write();
        let old_lanes = state.begin(Some(epoch));
        state.ancestors = ancestors;
        state.ring = ring;
        let by_topic = states.into_iter().map(|frame| (frame.topic.clone(), frame));
        state.states = by_topic.collect();
        self.sent.store(head, Ordering::Release);
        drop(state);
        drop(old_lanes);
    }

    /// Ends all subscriptions, and lets nobody subscribe any more.
    pub fn close(&self) {
        let lanes = self.write().begin(None);
        drop(lanes);
    }

    /// Appends a batch to the stream and sends it to whom it is for. Calls come from one
    /// task, in the stream's order.
    ///
    /// # Panics
    /// If the batch does not continue the stream.
    pub fn publish(&self, frames: Vec<Frame>) {
        let Some(last) = frames.last().map(|frame| frame.seq) else {
            return;
        };
        let mut state = self.write();
        let sends = state.lanes.sort(&frames);
        for frame in frames {
            state.keep(&frame);
            state.ring.push(frame);
        }
        drop(state);

        for (queue, batch) in sends {
            // An error says that the last subscription has just left. Nothing is lost.
            let _: Result<usize, _> = queue.send(batch);
        }
        self.sent.store(last, Ordering::Release);
    }

    /// Subscribes from a position of the present stream on, or from now on.
    ///
    /// # Errors
    /// If the hub is not open, or no longer in the cursor's epoch.
    pub fn subscribe(
        self: &Arc<Self>,
        filter: Filter,
        from: Option<Cursor>,
    ) -> Result<Subscription, NotOpen> {
        let mut state = self.write();
        let epoch = state.epoch.ok_or(NotOpen)?;
        if from.is_some_and(|cursor| cursor.epoch != epoch) {
            return Err(NotOpen);
        }
        let seq = from.map_or(state.ring.head(), |cursor| cursor.seq);
        let (lane, filter, queue) = state.lanes.join(filter);
        drop(state);
        let berth = Berth::new(Arc::clone(self), lane, filter, Cursor { epoch, seq });
        let follower = Follower::new(Arc::clone(self), queue);
        Ok(Subscription::new(berth, follower))
    }

    /// The states of a filter's topics, as they are known at a position: those from after it
    /// come with the stream. By topic, in the filter's form.
    pub fn states(&self, filter: &Filter, at: Cursor) -> Vec<Frame> {
        let state = self.read();
        if state.epoch != Some(at.epoch) {
            return Vec::new();
        }
        let mut found = BTreeMap::new();
        for pattern in filter.patterns() {
            let prefix = pattern.prefix();
            let from = (Bound::Included(prefix), Bound::Unbounded);
            let near = state.states.range::<str, _>(from);
            let near = near.take_while(|(topic, _)| topic.as_str().starts_with(prefix));
            let due = near.filter(|(topic, frame)| {
                pattern.matches(topic) && filter.has_name(&frame.name) && frame.seq <= at.seq
            });
            found.extend(due);
        }
        found.into_values().cloned().collect()
    }

    /// The newest position, as far as it has been handed to everybody.
    pub fn head(&self) -> Option<Cursor> {
        let epoch = self.read().epoch?;
        Some(Cursor {
            epoch,
            seq: self.sent(),
        })
    }

    /// Where a cursor stands in the present stream, whichever it is from.
    ///
    /// # Errors
    /// If the hub is not open.
    pub fn place(&self, cursor: Cursor) -> Result<Place, NotOpen> {
        let state = self.read();
        let epoch = state.epoch.ok_or(NotOpen)?;
        if cursor.epoch == epoch {
            return Ok(Place::Here(cursor));
        }
        let mut later = state
            .ancestors
            .iter()
            .skip_while(|ancestor| ancestor.epoch != cursor.epoch);
        let Some(own) = later.next() else {
            return Ok(Place::Nowhere);
        };
        // A later epoch may have begun even before that.
        let until = later.fold(own.until, |until, ancestor| until.min(ancestor.until));
        let here = Cursor {
            epoch,
            seq: cursor.seq.min(until),
        };
        Ok(if cursor.seq <= until {
            Place::Here(here)
        } else {
            Place::After(here)
        })
    }

    /// What is in memory for those who come back.
    pub fn coverage(&self) -> Coverage {
        let ring = &self.read().ring;
        Coverage {
            floor: ring.floor(),
            events: ring.head() - ring.floor(),
            bytes: ring.bytes(),
            since: ring.begins_at(),
        }
    }

    /// How often a subscription fell so far behind its lane that it had to replay from the ring.
    pub fn lags(&self) -> u64 {
        self.lags.load(Ordering::Relaxed)
    }

    pub(crate) fn note_lag(&self) {
        self.lags.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the last `count` events of a filter begin.
    pub fn rewind(&self, filter: &Filter, count: usize) -> Rewind {
        let state = self.read();
        let floor = state.ring.floor();
        if count == 0 {
            return Rewind::To(state.ring.head());
        }
        let frames = state.ring.after(floor).into_iter().flatten();
        let mut missing = count;
        for frame in frames
            .rev()
            .filter(|frame| filter.matches(&frame.topic, &frame.name))
        {
            missing -= 1;
            if missing == 0 {
                return Rewind::To(frame.seq - 1);
            }
        }
        Rewind::Beyond { missing, floor }
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.read().lanes.subscriptions()
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.read().lanes.len()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// What a lane brings from now on; nothing, if it is gone.
    pub(crate) fn queue(&self, lane: LaneKey) -> Queue {
        self.read().lanes.queue(lane)
    }

    /// Reads on from a position, up to another.
    pub(crate) fn read_ring(&self, lane: LaneKey, filter: &Filter, from: u64, up_to: u64) -> Read {
        let state = self.read();
        if !state.lanes.has(lane) {
            return Read::Closed;
        }
        let end = state.ring.head().min(up_to);
        if from >= end {
            return Read::CaughtUp;
        }
        let make = || state.ring.piece(filter, from, end, PIECE_BYTES);
        match self.pieces.get(lane, from, end, make) {
            Some(piece) => Read::Piece(piece),
            None => Read::BeforeRing {
                floor: state.ring.floor(),
                head: state.ring.head(),
            },
        }
    }

    pub(crate) fn leave(&self, lane: LaneKey) {
        self.write().lanes.leave(lane);
    }

    // A panic while the lock is held is a broken invariant and ends the publishing task.
    // What is in memory is still what was committed to it, so others may go on reading.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn keep(&mut self, frame: &Frame) {
        match frame.retain {
            Retain::No => {}
            Retain::Set => {
                self.states.insert(frame.topic.clone(), frame.clone());
            }
            Retain::Clear => {
                self.states.remove(&frame.topic);
            }
        }
    }

    /// Begins anew, without lanes. Returns the old ones: to drop their senders wakes every
    /// subscription, and is better done without the lock.
    fn begin(&mut self, epoch: Option<Epoch>) -> Vec<Lane> {
        self.epoch = epoch;
        self.lanes.end()
    }
}

// === impl NotOpen ===

impl fmt::Display for NotOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream is not open")
    }
}

impl std::error::Error for NotOpen {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_of_ancestors() {
        let epoch = Epoch::new;
        let cursor = |number, seq| Cursor {
            epoch: epoch(number),
            seq,
        };
        let hub = Hub::new(Limits::default());
        assert_eq!(hub.place(cursor(4, 1)), Err(NotOpen));
        // The third began before the place where the second did.
        let ancestors = [(1, 100), (2, 80), (3, 120)];
        let ancestors = ancestors.map(|(number, until)| Ancestor {
            epoch: epoch(number),
            until,
        });
        hub.open(epoch(4), ancestors.to_vec(), 130, Vec::new(), Vec::new());
        for (asked, expected) in [
            (cursor(4, 125), Place::Here(cursor(4, 125))),
            (cursor(4, 999), Place::Here(cursor(4, 999))),
            (cursor(3, 120), Place::Here(cursor(4, 120))),
            (cursor(3, 121), Place::After(cursor(4, 120))),
            (cursor(2, 80), Place::Here(cursor(4, 80))),
            (cursor(2, 81), Place::After(cursor(4, 80))),
            (cursor(1, 80), Place::Here(cursor(4, 80))),
            (cursor(1, 90), Place::After(cursor(4, 80))),
            (cursor(9, 5), Place::Nowhere),
        ] {
            assert_eq!(hub.place(asked), Ok(expected), "{asked}");
        }
    }
}
