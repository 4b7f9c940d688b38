//! Clients of one lane that have all there is, written to by one task.
//!
//! Who is caught up needs nothing of its own but a socket and a position. So up to 32 clients of
//! a lane share a task, what follows the lane, and a clock: an event wakes that task once, and it hands
//! the same bytes to one socket after the other. Their heartbeats come to be sent together, too. With a
//! task for each client, there is more of it in memory, and less of that in the processor's cache when
//! its turn comes.
//!
//! Who has not taken all of one piece when the next comes reads on from the hub's ring, from where it
//! is. Who is further behind than that goes on by itself (`direct`), and comes back.

use bytes::Bytes;
use hub::{Follower, LaneKey, News, Read};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    Settings,
    body::{CaughtUp, End},
    control,
    groups::{Entrance, Groups},
    outlet::{JOINED, Joined, Outlet},
    streams::{Closed, Source},
};

/// Some clients of a lane.
pub(crate) struct Group {
    groups: Arc<Groups>,
    entrance: Arc<Entrance>,
    lane: LaneKey,
    members: Vec<Member>,
    follower: Follower,
    /// Where those are who have all that the lane has brought; unknown at first, and when it had to
    /// drop something.
    position: Option<u64>,
    /// When the first of them is due for something, whatever the lane brings.
    alarm: Pin<Box<Sleep>>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Member {
    outlet: Outlet,
    stream: CaughtUp,
    /// Whether the last word is said, and it is over when that is written.
    has_ended: bool,
}

/// What there is for the members when the task is woken.
#[derive(Debug)]
struct Turn {
    /// For those who are here, ...
    from: Option<u64>,
    /// ... these bytes bring them up to here.
    to: u64,
    bytes: Bytes,
    events: u32,
    /// When the newest of the events was captured.
    at: SystemTime,
    now: Instant,
    is_last: bool,
}

/// How a member is left after its turn.
enum Fate {
    /// It waits.
    Waits,
    /// It could be given more at once.
    Hungry,
    /// It is gone.
    Gone,
    /// What it needs is no longer in the ring.
    Behind,
}

// === impl Group ===

impl Group {
    /// A group with its first client. Done when the last has left.
    pub(crate) fn new(groups: Arc<Groups>, entrance: Arc<Entrance>, first: Member) -> Self {
        let berth = &first.stream.berth;
        Self {
            lane: berth.lane(),
            follower: berth.follow(),
            position: None,
            alarm: Box::pin(sleep_until(first.stream.heartbeat)),
            members: vec![first],
            groups,
            entrance,
        }
    }

    /// Takes what the lane has brought, up to a bound.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> (Turn, bool) {
        let mut turn = Turn {
            from: self.position,
            to: 0,
            bytes: Bytes::new(),
            events: 0,
            at: SystemTime::UNIX_EPOCH,
            now: Instant::now(),
            is_last: false,
        };
        let mut joined = Joined::default();
        let has_more = loop {
            if joined.len() >= JOINED {
                break true;
            }
            match self.follower.poll_next(cx) {
                News::Batch(batch) if Some(batch.last_seq) <= self.position => {}
                News::Batch(batch) => {
                    self.position = Some(batch.last_seq);
                    joined.push(batch.bytes);
                    turn.events += batch.events;
                    turn.at = batch.at;
                }
                // What is missing they find in the ring, each from where it is.
                News::Lagged => {
                    (turn.from, self.position) = (None, None);
                    (joined, turn.events) = (Joined::default(), 0);
                }
                News::UpTo(seq) => {
                    self.position = self.position.max(Some(seq));
                    break false;
                }
                News::Closed => {
                    turn.is_last = true;
                    break false;
                }
            }
        };
        turn.to = self.position.unwrap_or(0);
        turn.bytes = joined.finish();
        (turn, has_more)
    }

    /// Ready when something is due.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(first) = self.members.iter().filter_map(Member::due).min() else {
            return Poll::Pending;
        };
        if self.alarm.deadline() != first {
            self.alarm.as_mut().reset(first);
        }
        self.alarm.as_mut().poll(cx)
    }
}

impl Future for Group {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let group = &mut *self;
        let groups = Arc::clone(&group.groups);
        let settings = groups.app().settings;
        group.members.extend(group.entrance.take(cx.waker()));
        let (turn, mut is_hungry) = group.poll_news(cx);
        let before = group.members.len();
        let mut nth = 0;
        while let Some(member) = group.members.get_mut(nth) {
            match member.poll(cx, &turn, &settings) {
                Fate::Waits => nth += 1,
                Fate::Hungry => {
                    is_hungry = true;
                    nth += 1;
                }
                Fate::Gone => drop(group.members.swap_remove(nth)),
                Fate::Behind => {
                    let Member { outlet, stream, .. } = group.members.swap_remove(nth);
                    groups.part(outlet, stream);
                }
            }
        }
        let left = before - group.members.len();
        if left > 0 && groups.leave(group.lane, &group.entrance, left) {
            return Poll::Ready(());
        }
        if is_hungry || group.poll_alarm(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

// === impl Member ===

impl Member {
    pub(crate) fn new(outlet: Outlet, stream: CaughtUp) -> Self {
        Self {
            outlet,
            stream,
            has_ended: false,
        }
    }

    pub(crate) fn lane(&self) -> LaneKey {
        self.stream.berth.lane()
    }

    /// When it is to be looked after next, if it does not wait to be written to.
    fn due(&self) -> Option<Instant> {
        let CaughtUp {
            heartbeat, expires, ..
        } = self.stream;
        let due = expires.map_or(heartbeat, |expires| expires.min(heartbeat));
        (self.outlet.is_done() && !self.has_ended).then_some(due)
    }

    /// Gives it what it is to have, for as long as it takes that.
    fn poll(&mut self, cx: &mut Context<'_>, turn: &Turn, settings: &Settings) -> Fate {
        let mut has_read = false;
        let fate = loop {
            match self.outlet.poll_write(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    if error.kind() == io::ErrorKind::TimedOut {
                        self.stream.tally.close(Closed::Stalled);
                    }
                    return Fate::Gone;
                }
                Poll::Pending => break Fate::Waits,
            }
            if self.has_ended {
                return match self.outlet.poll_shutdown(cx) {
                    Poll::Ready(_) => Fate::Gone,
                    Poll::Pending => Fate::Waits,
                };
            }
            let CaughtUp {
                berth,
                tally,
                heartbeat,
                expires,
                ..
            } = &mut self.stream;
            let at = berth.cursor().seq;
            // First, so that nothing is sent to whom it is not for any more.
            if expires.is_some_and(|at| at <= turn.now) {
                self.end(End::Expired, settings);
            } else if at < turn.to && turn.from == Some(at) {
                berth.advance(turn.to);
                if !turn.bytes.is_empty() {
                    let source = Source::Live(turn.at);
                    tally.hand_out(turn.bytes.len(), Some((source, turn.events)));
                    self.outlet.put(turn.bytes.clone());
                }
            } else if at < turn.to && has_read {
                break Fate::Hungry;
            } else if at < turn.to {
                has_read = true;
                // No further than all of them are brought, so that who is behind is with them again.
                match berth.read(turn.to) {
                    Read::Piece(piece) => {
                        tally.hand_out(piece.bytes.len(), Some((Source::Ring, piece.events)));
                        self.outlet.put(piece.bytes);
                    }
                    Read::CaughtUp => {}
                    Read::BeforeRing { .. } => return Fate::Behind,
                    Read::Closed => self.end(End::Closed, settings),
                }
            } else if turn.is_last {
                self.end(End::Closed, settings);
            } else if *heartbeat <= turn.now + settings.heartbeat / 8 {
                // Last, so that its id is never ahead of an event. A little sooner than it is due, so that
                // heartbeats come to be sent together and do not wake the task one by one.
                *heartbeat = turn.now + settings.heartbeat;
                let bytes = control::heartbeat(berth.cursor(), berth.filter().form());
                tally.hand_out(bytes.len(), None);
                self.outlet.put(bytes);
            } else {
                break Fate::Waits;
            }
        };
        if self.outlet.poll_left(cx).is_ready() {
            return Fate::Gone;
        }
        fate
    }

    /// Says the last word.
    fn end(&mut self, end: End, settings: &Settings) {
        let CaughtUp { berth, tally, .. } = &mut self.stream;
        tally.close(match end {
            End::Closed => Closed::by_hub(berth.is_replaced()),
            End::Expired => Closed::Expired,
        });
        let last = end.last_word(settings, berth.filter().form());
        tally.hand_out(last.len(), None);
        self.outlet.put(last);
        self.has_ended = true;
    }
}
