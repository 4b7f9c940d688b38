//! The bounded window of recent frames.

use bytes::{Bytes, BytesMut};
use itertools::{Either, kmerge};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::SystemTime,
};

use crate::{Filter, Form, Frame, Topic, Wire};

/// Most frames looked at for one piece.
const SCAN: u64 = 4096;

/// Most topics looked up for one piece. Whose filter meets more looks at the frames.
const LOOKS: usize = 64;

/// The newest frames, without holes: those after `floor`, up to `head`.
///
/// A plain data structure: no lock, no clock. Because the numbers have no holes, a
/// position is found by subtraction.
#[derive(Debug)]
pub struct Ring {
    frames: VecDeque<Frame>,
    /// The numbers of the frames here by their topic, ascending: a client of a few topics finds
    /// its events without looking at everybody's.
    numbers: BTreeMap<Topic, VecDeque<u64>>,
    /// Number of the event before the oldest frame here.
    floor: u64,
    bytes: usize,
    max_frames: usize,
    max_bytes: usize,
}

/// Some of the stream for one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The frames, maybe none.
    pub bytes: Bytes,
    /// How many they are.
    pub events: u32,
    /// The position after them.
    pub to: u64,
}

impl Ring {
    /// An empty ring that expects number `head + 1` next and holds at most that many
    /// frames and bytes of frames, whichever is less. The newest frame always stays.
    pub fn new(head: u64, max_frames: usize, max_bytes: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            numbers: BTreeMap::new(),
            floor: head,
            bytes: 0,
            max_frames: max_frames.max(1),
            max_bytes,
        }
    }

    /// Appends the next frame and drops the oldest that no longer fit.
    ///
    /// # Panics
    /// If its number is not the next one. What is missing would be missing for every client.
    pub fn push(&mut self, frame: Frame) {
        assert_eq!(frame.seq, self.head() + 1, "the stream has no holes");
        self.bytes += frame.wire.weight();
        match self.numbers.get_mut(&frame.topic) {
            Some(numbers) => numbers.push_back(frame.seq),
            None => {
                let numbers = VecDeque::from([frame.seq]);
                self.numbers.insert(frame.topic.clone(), numbers);
            }
        }
        self.frames.push_back(frame);
        while self.frames.len() > self.max_frames
            || (self.bytes > self.max_bytes && self.frames.len() > 1)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = self.frames.pop_front().expect("there is more than one");
        self.bytes -= oldest.wire.weight();
        self.floor = oldest.seq;
        let numbers = self.numbers.get_mut(&oldest.topic);
        let numbers = numbers.expect("its topic has a frame here");
        numbers.pop_front();
        if numbers.is_empty() {
            self.numbers.remove(&oldest.topic);
        }
    }

    /// The frames after a position, oldest first; `None` if some of them were dropped.
    pub fn after(&self, seq: u64) -> Option<impl DoubleEndedIterator<Item = &Frame>> {
        let skip = usize::try_from(seq.checked_sub(self.floor)?).ok()?;
        Some(self.frames.range(skip.min(self.frames.len())..))
    }

    /// The next frames after a position that a filter matches, up to another, in one run of at most so
    /// many bytes or one frame. `None` if some may have been dropped.
    ///
    /// A piece that is full ends at the roundest number it can. So whoever reads the same from wherever
    /// is soon where the others are, and can be handed the same pieces.
    pub fn piece(&self, filter: &Filter, from: u64, up_to: u64, max_bytes: usize) -> Option<Piece> {
        let after = self.after(from)?;
        let up_to = self.head().min(up_to);
        let (frames, end) = match self.numbers_after(filter, from) {
            Some(lists) => {
                let frame = |&seq: &u64| self.after(seq - 1)?.next();
                let frame = move |seq| frame(seq).expect("what is listed is here");
                let numbers = kmerge(lists).take_while(move |&&seq| seq <= up_to);
                let frames = numbers.map(frame);
                let frames = frames.filter(|frame| filter.has_name(&frame.name));
                (Either::Left(frames), up_to)
            }
            None => {
                let end = up_to.min(from + SCAN);
                let frames = after.take_while(move |frame| frame.seq <= end);
                let frames = frames.filter(|frame| filter.matches(&frame.topic, &frame.name));
                (Either::Right(frames), end)
            }
        };
        let form = filter.form();
        let mut picked: Vec<&Frame> = Vec::new();
        let (mut len, mut to) = (0, end);
        for frame in frames {
            len += frame.wire.len(form);
            if len > max_bytes
                && let Some(first) = picked.first()
            {
                to = roundest(first.seq, frame.seq - 1);
                picked.truncate(picked.partition_point(|frame| frame.seq <= to));
                break;
            }
            picked.push(frame);
        }
        let bytes = join(picked.iter().map(|frame| &frame.wire), form);
        let events = count(picked.len());
        Some(Piece { bytes, events, to })
    }

    /// The numbers after a position of the frames that a filter matches, a list for each topic;
    /// `None` if it takes too long to find out.
    fn numbers_after(&self, filter: &Filter, from: u64) -> Option<Vec<impl Iterator<Item = &u64>>> {
        let mut lists = Vec::new();
        let mut looks = 0;
        for (nth, pattern) in filter.patterns().iter().enumerate() {
            let prefix = pattern.prefix();
            let range = (Bound::Included(prefix), Bound::Unbounded);
            let may_match = |topic: &Topic| match topic.as_str().strip_prefix(prefix) {
                Some(rest) => rest.is_empty() || pattern.has_wildcards(),
                None => false,
            };
            let topics = self.numbers.range::<str, _>(range);
            for (topic, numbers) in topics.take_while(|(topic, _)| may_match(topic)) {
                looks += 1;
                if looks > LOOKS {
                    return None;
                }
                let mut earlier = filter.patterns()[..nth].iter();
                if pattern.matches(topic) && !earlier.any(|pattern| pattern.matches(topic)) {
                    let begin = numbers.partition_point(|&seq| seq <= from);
                    lists.push(numbers.range(begin..));
                }
            }
        }
        Some(lists)
    }

    /// Number of the newest event.
    pub fn head(&self) -> u64 {
        self.floor + self.frames.len() as u64
    }

    /// Number of the event before the oldest one here: the lowest position that can be
    /// replayed from the ring.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Bytes of all the frames here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest event here was captured; `None` if there is none.
    pub fn begins_at(&self) -> Option<SystemTime> {
        self.frames.front().map(|frame| frame.at)
    }
}

/// How many frames are handed out together.
pub(crate) fn count(frames: usize) -> u32 {
    u32::try_from(frames).expect("their bytes would not fit into memory")
}

/// One run of bytes from many frames. A single one is passed on as it is.
pub(crate) fn join<'a>(
    mut frames: impl ExactSizeIterator<Item = &'a Wire> + Clone,
    form: Form,
) -> Bytes {
    if frames.len() == 1
        && let Some(frame) = frames.next()
    {
        return frame.bytes(form);
    }
    let len = frames.clone().map(|wire| wire.len(form)).sum();
    let mut joined = BytesMut::with_capacity(len);
    frames.for_each(|wire| wire.append(form, &mut joined));
    joined.freeze()
}

/// Of the numbers from one, which is not 0, to another, that which the highest power of two divides.
fn roundest(from: u64, to: u64) -> u64 {
    // Of the number before them the last shares all bits with it above the one that it alone has.
    let bit = ((from - 1) ^ to).ilog2();
    to >> bit << bit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Retain;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn frame(seq: u64, len: usize) -> Frame {
        Frame {
            seq,
            topic: Topic::new("t").unwrap(),
            name: "n".into(),
            at: SystemTime::UNIX_EPOCH,
            retain: Retain::No,
            wire: Bytes::from(vec![b'x'; len]).into(),
        }
    }

    #[test]
    #[should_panic(expected = "no holes")]
    fn a_hole_is_a_bug() {
        let mut ring = Ring::new(5, 10, 100);
        ring.push(frame(7, 1));
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let pattern = "(a|b|[*])([.](a|b|[*])){0,2}|((a|b|[*])[.]){0,2}>|t[.][0-9]{1,2}|t[.]>";
        let patterns = proptest::collection::vec(pattern, 1..4);
        (patterns, proptest::collection::vec("[xy]", 0..3)).prop_map(|(patterns, names)| {
            let filter = Filter::new(patterns.iter().map(String::as_str)).unwrap();
            filter.with_names(names)
        })
    }

    #[test]
    fn whoever_reads_the_same_comes_to_the_same_pieces() {
        let mut ring = Ring::new(0, usize::MAX, usize::MAX);
        for seq in 1..=3000 {
            ring.push(frame(seq, 50 + usize::try_from(seq).unwrap() % 7));
        }
        let all = Filter::new([">"]).unwrap();
        let ends = |mut seq: u64| {
            let mut ends = Vec::new();
            while seq < ring.head() {
                seq = ring.piece(&all, seq, u64::MAX, 10_000).unwrap().to;
                ends.push(seq);
            }
            ends
        };
        let first = ends(0);
        assert!(first.len() < 30, "pieces are half full at least: {first:?}");
        for from in 1..1000 {
            let ends = ends(from);
            let met = ends.iter().position(|end| first.contains(end)).unwrap();
            assert!(met < 3, "from {from}: {ends:?}, {first:?}");
            assert!(first.ends_with(&ends[met..]), "and stays there");
        }
    }

    proptest! {
        #[test]
        fn none_is_rounder(from in 1_u64..10_000, more in 0_u64..1000) {
            let to = from + more;
            let expected = (from..=to).max_by_key(|number| number.trailing_zeros()).unwrap();
            prop_assert_eq!(roundest(from, to), expected);
        }

        /// Whether it looks up topics or looks at the frames: all that a filter matches comes
        /// once and in order, in pieces of the right size.
        #[test]
        fn pieces_hold_what_matches(
            topics in proptest::collection::vec("(a|b)([.](a|b)){0,2}|t[.][0-9]{1,2}", 1..300),
            filter in filter(),
            from in 0_u64..300,
            max_frames in 1_usize..400,
            max_bytes in 1_usize..100,
            stride in 1_u64..100,
        ) {
            let mut ring = Ring::new(0, max_frames, usize::MAX);
            let frames: Vec<Frame> = topics.iter().zip(1..).map(|(topic, seq)| Frame {
                seq,
                topic: Topic::new(topic).unwrap(),
                name: if seq.is_multiple_of(3) { "x" } else { "z" }.into(),
                at: SystemTime::UNIX_EPOCH,
                retain: Retain::No,
                wire: format!("{seq} ").into(),
            }).collect();
            frames.iter().cloned().for_each(|frame| ring.push(frame));
            let (mut seq, mut got) = (from, Vec::new());
            while let Some(Piece { bytes, to, .. }) = ring.piece(&filter, seq, seq + stride, max_bytes) {
                prop_assert!(to <= seq.max(ring.head().min(seq + stride)), "no further than asked for");
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                let seqs: Vec<u64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
                prop_assert!(bytes.len() <= max_bytes || seqs.len() == 1);
                prop_assert!(seqs.iter().all(|&n| seq < n && n <= to));
                got.extend(seqs);
                if seq >= ring.head() {
                    break;
                }
                prop_assert!(to > seq, "on it goes");
                seq = to;
            }
            let due = frames.iter().filter(|frame| frame.seq > from && filter.matches(&frame.topic, &frame.name));
            let due: Vec<u64> = due.map(|frame| frame.seq).collect();
            prop_assert_eq!(got, if from < ring.floor() { Vec::new() } else { due });
        }

        /// Agrees with a plain list of everything that was ever pushed.
        #[test]
        fn holds_the_newest(
            head in 0u64..1000,
            lens in proptest::collection::vec(0usize..50, 0..60),
            max_frames in 1usize..20,
            max_bytes in 0usize..300,
        ) {
            let mut ring = Ring::new(head, max_frames, max_bytes);
            let mut all = Vec::new();
            for (i, &len) in lens.iter().enumerate() {
                all.push(frame(head + 1 + i as u64, len));
                ring.push(all[i].clone());

                prop_assert_eq!(ring.head(), head + 1 + i as u64);
                let kept: Vec<_> = ring.after(ring.floor()).unwrap().cloned().collect();
                let seqs = |frames: &[Frame]| frames.iter().map(|f| f.seq).collect::<Vec<_>>();
                prop_assert_eq!(seqs(&kept), seqs(&all[all.len() - kept.len()..]));
                prop_assert_eq!(ring.bytes(), kept.iter().map(|f| f.wire.weight()).sum::<usize>());
                prop_assert!(kept.len() <= max_frames);
                prop_assert!(ring.bytes() <= max_bytes || kept.len() == 1);

                // Nothing was dropped that would have fitted.
                if let Some(dropped) = all.len().checked_sub(kept.len() + 1) {
                    prop_assert!(
                        kept.len() == max_frames || ring.bytes() + all[dropped].wire.weight() > max_bytes
                    );
                }
            }
            for seq in 0..ring.head() + 3 {
                let after = ring.after(seq).map(|frames| frames.map(|f| f.seq).collect::<Vec<_>>());
                let expected = (seq >= ring.floor()).then(|| (seq + 1..=ring.head()).collect());
                prop_assert_eq!(after, expected);
            }
        }
    }
}
