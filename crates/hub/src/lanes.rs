//! Lanes: one for each distinct filter, and which of them an event is for.

use bytes::Bytes;
use slotmap::{SlotMap, new_key_type};
use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::SystemTime,
};
use tokio::sync::broadcast;

use crate::{
    Filter, Frame, Pattern, Topic, Wire,
    ring::{count, join},
};

/// Batches that a lane keeps for its slowest subscription. One that is further behind
/// reads the ring instead, which is not dearer: it gets all it missed in one piece.
const QUEUE: usize = 16;

/// Frames of one lane and one batch, as one run of bytes.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The stream's head with this batch, whether or not the last event is the lane's.
    pub last_seq: u64,
    /// As they go over the wire.
    pub bytes: Bytes,
    /// How many events they are.
    pub events: u32,
    /// When the newest of them was captured.
    pub at: SystemTime,
}

new_key_type! {
    /// Says which lane. No other one is ever given the same key.
    pub struct LaneKey;
}

/// All lanes. A lane exists as long as somebody is subscribed to it.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    by_key: SlotMap<LaneKey, Lane>,
    by_filter: HashMap<Filter, LaneKey>,
    by_token: Node,
    /// On all lanes together.
    subscriptions: usize,
}

#[derive(Debug)]
pub(crate) struct Lane {
    filter: Filter,
    queue: broadcast::Sender<Batch>,
    subscriptions: usize,
    /// Frames of the batch that is being sorted; empty between batches.
    pending: Vec<Wire>,
    /// The last event put into `pending`, so that two patterns of one filter that both
    /// match it count once; and when it was captured.
    pending_seq: u64,
    pending_at: SystemTime,
}

/// A subscription's end of its lane.
pub(crate) type Queue = broadcast::Receiver<Batch>;

/// What is to be sent: made under the hub's lock, sent after it.
pub(crate) type Delivery = (broadcast::Sender<Batch>, Batch);

/// A tree of patterns by token, walked along a topic's tokens. An event thus visits the
/// lanes it matches and few others, however many lanes there are.
#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Arc<str>, Node>,
    any: Option<Box<Node>>,
    /// Lanes with a pattern that ends here.
    ends: BTreeSet<LaneKey>,
    /// Lanes with a pattern that ends with a `>` here.
    rest: BTreeSet<LaneKey>,
}

// === impl Lanes ===

impl Lanes {
    /// Subscribes to the filter's lane, which is made if need be. Returns the lane's own filter
    /// as well: thousands of subscriptions are to share its memory.
    pub(crate) fn join(&mut self, filter: Filter) -> (LaneKey, Filter, Queue) {
        let key = match self.by_filter.get(&filter) {
            Some(&key) => key,
            None => self.insert(filter),
        };
        let lane = &mut self.by_key[key];
        lane.subscriptions += 1;
        self.subscriptions += 1;
        (key, lane.filter.clone(), lane.queue.subscribe())
    }

    /// Whether it is still there.
    pub(crate) fn has(&self, key: LaneKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// What a lane brings from now on; nothing, if it is gone.
    pub(crate) fn queue(&self, key: LaneKey) -> Queue {
        match self.by_key.get(key) {
            Some(lane) => lane.queue.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Takes one subscription's leave, if its lane is still there. The last one takes it along.
    pub(crate) fn leave(&mut self, key: LaneKey) {
        let Some(lane) = self.by_key.get_mut(key) else {
            return;
        };
        lane.subscriptions -= 1;
        self.subscriptions -= 1;
        if lane.subscriptions == 0 {
            for pattern in lane.filter.patterns() {
                self.by_token.remove(&mut pattern.tokens(), key);
            }
            self.by_filter.remove(&lane.filter);
            self.by_key.remove(key);
        }
    }

    /// Takes all of them away, whoever is subscribed.
    pub(crate) fn end(&mut self) -> Vec<Lane> {
        let ended = self.by_key.drain().map(|(_, lane)| lane).collect();
        *self = Self {
            // It knows which keys there have been.
            by_key: mem::take(&mut self.by_key),
            ..Self::default()
        };
        ended
    }

    /// Sorts a batch into the lanes it is for, each with all its frames in one piece.
    pub(crate) fn sort(&mut self, frames: &[Frame]) -> Vec<Delivery> {
        let Self {
            by_key, by_token, ..
        } = self;
        let mut touched = Vec::new();
        for frame in frames {
            by_token.visit(&frame.topic, &mut |key| {
                let lane = &mut by_key[key];
                if !lane.filter.has_name(&frame.name) {
                    return;
                }
                if lane.pending.is_empty() {
                    touched.push(key);
                } else if lane.pending_seq == frame.seq {
                    return;
                }
                lane.pending_seq = frame.seq;
                lane.pending_at = frame.at;
                lane.pending.push(frame.wire.clone());
            });
        }
        let last_seq = frames.last().map_or(0, |frame| frame.seq);
        let mut assemble = |key: LaneKey| {
            let lane = &mut by_key[key];
            let batch = Batch {
                last_seq,
                bytes: join(lane.pending.iter(), lane.filter.form()),
                events: count(lane.pending.len()),
                at: lane.pending_at,
            };
            lane.pending.clear();
            (lane.queue.clone(), batch)
        };
        touched.into_iter().map(&mut assemble).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_filter.len()
    }

    /// How many subscriptions there are on all of them.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    fn insert(&mut self, filter: Filter) -> LaneKey {
        let lane = Lane {
            filter: filter.clone(),
            queue: broadcast::Sender::new(QUEUE),
            subscriptions: 0,
            pending: Vec::new(),
            pending_seq: 0,
            pending_at: SystemTime::UNIX_EPOCH,
        };
        let key = self.by_key.insert(lane);
        for pattern in filter.patterns() {
            self.by_token.insert(pattern, key);
        }
        self.by_filter.insert(filter, key);
        key
    }
}

// === impl Node ===

impl Node {
    fn insert(&mut self, pattern: &Pattern, key: LaneKey) {
        let mut node = self;
        for token in pattern.tokens() {
            node = match token {
                ">" => {
                    node.rest.insert(key);
                    return;
                }
                "*" => node.any.get_or_insert_default(),
                literal => node.literal.entry(literal.into()).or_default(),
            };
        }
        node.ends.insert(key);
    }

    /// Undoes an insert, and drops the nodes that nobody needs any more.
    fn remove<'a>(&mut self, tokens: &mut impl Iterator<Item = &'a str>, key: LaneKey) {
        match tokens.next() {
            None => {
                self.ends.remove(&key);
            }
            Some(">") => {
                self.rest.remove(&key);
            }
            Some("*") => {
                let node = self.any.as_mut().expect("it was inserted");
                node.remove(tokens, key);
                if node.is_empty() {
                    self.any = None;
                }
            }
            Some(literal) => {
                let node = self.literal.get_mut(literal).expect("it was inserted");
                node.remove(tokens, key);
                if node.is_empty() {
                    self.literal.remove(literal);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.literal.is_empty()
            && self.any.is_none()
            && self.ends.is_empty()
            && self.rest.is_empty()
    }

    fn visit(&self, topic: &Topic, found: &mut impl FnMut(LaneKey)) {
        self.visit_tokens(topic.as_str(), found);
    }

    /// `rest` is never empty: what is left of a topic begins with a token.
    fn visit_tokens(&self, rest: &str, found: &mut impl FnMut(LaneKey)) {
        self.rest.iter().copied().for_each(&mut *found);
        let (token, rest) = match rest.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (rest, None),
        };
        for node in self
            .literal
            .get(token)
            .into_iter()
            .chain(self.any.as_deref())
        {
            match rest {
                Some(rest) => node.visit_tokens(rest, found),
                None => node.ends.iter().copied().for_each(&mut *found),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Form, Retain};
    use proptest::prelude::*;
    use tokio::sync::broadcast::error::TryRecvError;

    fn frame(seq: u64, topic: &str) -> Frame {
        Frame {
            seq,
            topic: Topic::new(topic).unwrap(),
            name: if seq.is_multiple_of(3) { "x" } else { "z" }.into(),
            at: SystemTime::UNIX_EPOCH,
            retain: Retain::No,
            wire: format!("{seq} ").into(),
        }
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("c")]
    }

    fn topic() -> impl Strategy<Value = String> {
        proptest::collection::vec(token(), 1..4).prop_map(|tokens| tokens.join("."))
    }

    fn pattern() -> impl Strategy<Value = String> {
        let token = prop_oneof![3 => token(), 1 => Just("*")];
        (
            proptest::collection::vec(token, 0..3),
            any::<bool>(),
            "[ab]",
        )
            .prop_map(|(mut tokens, rest, last)| {
                tokens.push(if rest { ">" } else { &last });
                tokens.join(".")
            })
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let patterns = proptest::collection::vec(pattern(), 1..4);
        (patterns, proptest::collection::vec("[xy]", 0..3)).prop_map(|(patterns, names)| {
            let filter = Filter::new(patterns.iter().map(String::as_str)).unwrap();
            filter.with_names(names)
        })
    }

    /// Whoever still has the key of a lane that is gone must not find another one under it.
    #[test]
    fn keys_are_not_reused() {
        let filter = |pattern| Filter::new([pattern]).unwrap();
        let mut lanes = Lanes::default();
        let (first, ..) = lanes.join(filter("a"));
        lanes.leave(first);
        let (second, _, mut queue) = lanes.join(filter("b"));
        drop(lanes.end());
        assert!(matches!(queue.try_recv(), Err(TryRecvError::Closed)));
        let (third, ..) = lanes.join(filter("c"));
        let keys = [first, second, third];
        assert_eq!(keys.map(|key| lanes.has(key)), [false, false, true]);
        lanes.leave(second);
        assert_eq!((lanes.len(), lanes.subscriptions()), (1, 1));
    }

    proptest! {
        /// Each lane gets exactly the frames its filter matches, in order and once, also
        /// after others have come and gone.
        #[test]
        fn sorts_as_filters_match(
            filters in proptest::collection::vec(filter(), 1..12),
            leaving in proptest::collection::vec(any::<bool>(), 12),
            topics in proptest::collection::vec(topic(), 1..20),
        ) {
            let mut lanes = Lanes::default();
            let joined: Vec<_> = filters.iter().map(|filter| lanes.join(filter.clone())).collect();
            let mut stayed = Vec::new();
            for ((filter, (key, _, queue)), leaves) in filters.iter().zip(joined).zip(leaving) {
                if leaves { lanes.leave(key) } else { stayed.push((filter, key, queue)) }
            }
            prop_assert_eq!(lanes.subscriptions(), stayed.len());

            let frames: Vec<_> = topics.iter().zip(1..).map(|(topic, seq)| frame(seq, topic)).collect();
            for (queue, batch) in lanes.sort(&frames) {
                queue.send(batch).unwrap();
            }
            for (filter, key, mut queue) in stayed {
                let expected: Vec<u8> = frames.iter()
                    .filter(|frame| filter.matches(&frame.topic, &frame.name))
                    .flat_map(|frame| frame.wire.bytes(Form::FIRST))
                    .collect();
                let sent = queue.try_recv().map_or(Bytes::new(), |batch| batch.bytes);
                prop_assert_eq!(sent, expected);
                prop_assert!(queue.try_recv().is_err(), "one batch is one send");
                lanes.leave(key);
            }
            prop_assert_eq!(lanes.len(), 0);
            prop_assert!(lanes.by_token.is_empty(), "nothing is left of lanes that are gone");
        }
    }
}
