//! A client's handle on a lane: replaying or live.

use bytes::Bytes;
use std::{
    task::{Context, Poll},
    time::SystemTime,
};

use crate::{Berth, Cursor, Filter, Follower, News, hub::Read, ring::Piece};

/// A client's handle on its lane, with its cursor. Leaves the lane when dropped.
#[derive(Debug)]
pub struct Subscription {
    berth: Berth,
    mode: Mode,
    follower: Follower,
}

/// Where a subscription's next bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// From the ring. So it starts, and so it goes on when it lagged behind its lane.
    Replaying,
    /// From the lane.
    Live,
}

/// What a subscription's owner is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send these events. The cursor is behind them already.
    Portion(Portion),
    /// The ring no longer holds what follows the cursor: read it from history and say
    /// so with [`Subscription::replayed_to`].
    BeforeRing {
        /// The position from which the ring goes on.
        floor: u64,
        /// The position up to which history may be sent. Of what is beyond, a batch may be on its
        /// way of which the client would then have a part.
        head: u64,
    },
    /// The stream has ended, or the hub is closed.
    Closed,
}

/// Events for one client, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// As they go over the wire.
    pub bytes: Bytes,
    /// How many they are.
    pub events: u32,
    /// When the newest of them was captured, if they come as they happen; `None` if they are
    /// replayed.
    pub live: Option<SystemTime>,
}

impl Subscription {
    pub(crate) fn new(berth: Berth, follower: Follower) -> Self {
        Self {
            berth,
            mode: Mode::Replaying,
            follower,
        }
    }

    /// What comes next. `Pending` only if the client has everything there is.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            match self.mode {
                Mode::Replaying => match self.berth.read(u64::MAX) {
                    Read::Piece(Piece { bytes, events, .. }) => {
                        let live = None;
                        return Poll::Ready(Next::Portion(Portion {
                            bytes,
                            events,
                            live,
                        }));
                    }
                    Read::CaughtUp => self.mode = Mode::Live,
                    Read::BeforeRing { floor, head } => {
                        return Poll::Ready(Next::BeforeRing { floor, head });
                    }
                    Read::Closed => return Poll::Ready(Next::Closed),
                },
                Mode::Live => match self.follower.poll_next(cx) {
                    // The ring had it already.
                    News::Batch(batch) if batch.last_seq <= self.berth.cursor().seq => {}
                    News::Batch(batch) => {
                        self.berth.advance(batch.last_seq);
                        return Poll::Ready(Next::Portion(Portion {
                            bytes: batch.bytes,
                            events: batch.events,
                            live: Some(batch.at),
                        }));
                    }
                    News::Lagged => self.mode = Mode::Replaying,
                    News::UpTo(seq) => {
                        self.berth.advance(seq);
                        return Poll::Pending;
                    }
                    News::Closed => return Poll::Ready(Next::Closed),
                },
            }
        }
    }

    /// Up to where the client has everything its filter matches, if it has taken all that
    /// was handed out so far.
    pub fn cursor(&self) -> Cursor {
        self.berth.cursor()
    }

    /// What it is subscribed to.
    pub fn filter(&self) -> &Filter {
        self.berth.filter()
    }

    /// Whether its hub is open, and so another stream has taken the place of one that was closed.
    pub fn is_replaced(&self) -> bool {
        self.berth.is_replaced()
    }

    /// Says that history was sent, or is gone, up to and including this number.
    pub fn replayed_to(&mut self, seq: u64) {
        self.berth.advance(seq);
    }

    /// Gives up waiting for itself: somebody else does for all who are here.
    pub fn into_berth(self) -> Berth {
        self.berth
    }
}

impl From<Berth> for Subscription {
    /// Goes on by itself, from where it is.
    fn from(berth: Berth) -> Self {
        let follower = berth.follow();
        Self::new(berth, follower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Frame, Hub, Limits, Retain, Topic};
    use proptest::prelude::*;
    use std::{future::poll_fn, sync::Arc, task::Waker};
    use tokio::task::coop;

    const EPOCH: Epoch = Epoch::new(7);

    fn hub(ring_frames: usize) -> Arc<Hub> {
        let hub = Hub::new(Limits {
            ring_frames,
            ..Limits::default()
        });
        hub.open(EPOCH, Vec::new(), 0, Vec::new(), Vec::new());
        hub
    }

    /// Publishes the next events: one on `a.odd`, the next on `a.even`, and so on.
    fn publish(hub: &Hub, count: usize) {
        let head = hub.head().unwrap().seq;
        let frames = (head + 1..=head + count as u64).map(|seq| Frame {
            seq,
            topic: Topic::new(if seq % 2 == 0 { "a.even" } else { "a.odd" }).unwrap(),
            name: "n".into(),
            at: SystemTime::UNIX_EPOCH,
            retain: Retain::No,
            wire: format!("{seq} ").into(),
        });
        hub.publish(frames.collect());
    }

    fn subscribe(hub: &Arc<Hub>, pattern: &str, from: Option<u64>) -> Subscription {
        let from = from.map(|seq| Cursor { epoch: EPOCH, seq });
        hub.subscribe(Filter::new([pattern]).unwrap(), from)
            .unwrap()
    }

    /// Takes one thing, if there is one.
    fn poll(subscription: &mut Subscription) -> Option<Next> {
        let mut cx = Context::from_waker(Waker::noop());
        match subscription.poll_next(&mut cx) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        }
    }

    fn numbers(next: Option<Next>) -> Vec<u64> {
        match next {
            Some(Next::Portion(Portion { bytes, events, .. })) => {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                let numbers = text.split_whitespace();
                let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
                assert_eq!(numbers.len(), events as usize, "they are counted");
                numbers
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn without_a_cursor_it_starts_now() {
        let hub = hub(100);
        publish(&hub, 3);
        let mut subscription = subscribe(&hub, ">", None);
        assert_eq!(poll(&mut subscription), None);
        publish(&hub, 2);
        assert_eq!(numbers(poll(&mut subscription)), [4, 5]);
        assert_eq!(subscription.cursor().to_string(), "00000007-5");
    }

    #[test]
    fn a_quiet_clients_cursor_moves_on() {
        let hub = hub(100);
        let mut subscription = subscribe(&hub, "another", None);
        publish(&hub, 3);
        assert_eq!(poll(&mut subscription), None);
        assert_eq!(subscription.cursor().seq, 3);
    }

    /// A task that has done much is sent to the end of the queue: what it polls is pending then,
    /// whether or not there is something.
    #[tokio::test]
    async fn a_task_at_the_end_of_its_budget_misses_nothing() {
        let hub = hub(100);
        let mut subscription = subscribe(&hub, ">", None);
        assert_eq!(poll(&mut subscription), None);
        publish(&hub, 3);
        let next = poll_fn(|cx| {
            while coop::has_budget_remaining() {
                if let Poll::Ready(step) = coop::poll_proceed(cx) {
                    step.made_progress();
                }
            }
            Poll::Ready(poll(&mut subscription))
        })
        .await;
        assert_eq!(numbers(next), [1, 2, 3]);
    }

    #[test]
    fn says_what_is_before_the_ring() {
        let hub = hub(5);
        publish(&hub, 20);
        let mut subscription = subscribe(&hub, ">", Some(9));
        assert_eq!(
            poll(&mut subscription),
            Some(Next::BeforeRing {
                floor: 15,
                head: 20
            })
        );
        subscription.replayed_to(17);
        assert_eq!(numbers(poll(&mut subscription)), [18, 19, 20]);
    }

    #[test]
    fn a_lane_that_dropped_something_is_made_up_for_from_the_ring() {
        let hub = hub(1000);
        let mut subscription = subscribe(&hub, ">", None);
        assert_eq!(poll(&mut subscription), None);
        for _ in 0..100 {
            publish(&hub, 1);
        }
        let all: Vec<u64> = (1..=100).collect();
        assert_eq!(numbers(poll(&mut subscription)), all);
        assert_eq!(poll(&mut subscription), None);
        publish(&hub, 1);
        assert_eq!(numbers(poll(&mut subscription)), [101]);
    }

    #[test]
    fn who_comes_back_together_is_handed_the_same_bytes() {
        let hub = hub(100);
        publish(&hub, 10);
        let replayed = |pattern: &str| {
            let mut subscription = subscribe(&hub, pattern, Some(0));
            let Some(Next::Portion(Portion { bytes, .. })) = poll(&mut subscription) else {
                panic!("there is something to replay");
            };
            bytes
        };
        let _together = subscribe(&hub, "a.*", None);
        let first = replayed("a.*");
        assert_eq!(replayed("a.*").as_ptr(), first.as_ptr());
        // Another lane, and one that has grown.
        let _together = subscribe(&hub, "a.odd", None);
        assert_eq!(replayed("a.odd"), "1 3 5 7 9 ");
        assert_eq!(replayed("a.odd"), "1 3 5 7 9 ");
        publish(&hub, 1);
        assert_eq!(replayed("a.odd"), "1 3 5 7 9 11 ");
        hub.open(EPOCH, Vec::new(), 0, Vec::new(), Vec::new());
        publish(&hub, 1);
        assert_eq!(replayed("a.odd"), "1 ");
    }

    #[test]
    fn closing_and_opening_again_end_it() {
        let hub = hub(10);
        let mut replaying = subscribe(&hub, ">", Some(0));
        let mut live = subscribe(&hub, ">", None);
        assert_eq!(poll(&mut live), None);
        hub.open(EPOCH, Vec::new(), 0, Vec::new(), Vec::new());
        assert_eq!(poll(&mut replaying), Some(Next::Closed));
        assert_eq!(poll(&mut live), Some(Next::Closed));
        let mut late = subscribe(&hub, ">", None);
        drop((replaying, live));
        assert_eq!(
            hub.subscriptions(),
            1,
            "the old ones left lanes that are gone"
        );
        assert_eq!(poll(&mut late), None);
        hub.close();
        assert_eq!(poll(&mut late), Some(Next::Closed));
        assert!(hub.subscribe(Filter::new([">"]).unwrap(), None).is_err());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish(usize),
        Poll(usize),
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..30).prop_map(Step::Publish),
            (1usize..8).prop_map(Step::Poll),
            Just(Step::Reconnect),
        ]
    }

    proptest! {
        /// However publishing, reading, lagging and reconnecting follow on each other, a client
        /// gets each event of its filter once and in order; and its cursor never runs ahead
        /// of what it was handed.
        #[test]
        fn each_once_and_in_order(
            steps in proptest::collection::vec(step(), 1..80),
            ring_frames in 1usize..60,
        ) {
            let hub = hub(ring_frames);
            let mut subscription = subscribe(&hub, "a.odd", Some(0));
            let mut got = Vec::new();
            for step in steps.into_iter().chain([Step::Poll(1000)]) {
                match step {
                    Step::Publish(count) => publish(&hub, count),
                    Step::Reconnect => {
                        let cursor = subscription.cursor().seq;
                        subscription = subscribe(&hub, "a.odd", Some(cursor));
                    }
                    Step::Poll(times) => for _ in 0..times {
                        match poll(&mut subscription) {
                            None => break,
                            Some(Next::BeforeRing { floor, head }) => {
                                // As from history, some of it at a time.
                                let from = subscription.cursor().seq;
                                assert!(from < floor && floor <= head);
                                let to = head.min(from + 7);
                                got.extend((from + 1..=to).filter(|seq| seq % 2 == 1));
                                subscription.replayed_to(to);
                            }
                            next => got.extend(numbers(next)),
                        }
                    }
                }
                let due: Vec<u64> = (1..=subscription.cursor().seq).filter(|seq| seq % 2 == 1).collect();
                prop_assert_eq!(&got, &due);
            }
            prop_assert_eq!(subscription.cursor(), hub.head().unwrap());
        }
    }
}
