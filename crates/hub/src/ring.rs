//! The bounded window of recent frames.

use std::collections::VecDeque;

use crate::Frame;

/// The newest frames, without holes: those after `floor`, up to `head`.
///
/// A plain data structure: no lock, no clock. Because the numbers have no holes, a
/// position is found by subtraction.
#[derive(Debug)]
pub struct Ring {
    frames: VecDeque<Frame>,
    /// Number of the event before the oldest frame here.
    floor: u64,
    bytes: usize,
    max_frames: usize,
    max_bytes: usize,
}

impl Ring {
    /// An empty ring that expects number `head + 1` next and holds at most that many
    /// frames and bytes of frames, whichever is less. The newest frame always stays.
    pub fn new(head: u64, max_frames: usize, max_bytes: usize) -> Self {
        Self {
            frames: VecDeque::new(),
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
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        while self.frames.len() > self.max_frames
            || (self.bytes > self.max_bytes && self.frames.len() > 1)
        {
            let oldest = self.frames.pop_front().expect("there is more than one");
            self.bytes -= oldest.bytes.len();
            self.floor = oldest.seq;
        }
    }

    /// The frames after a position, oldest first; `None` if some of them were dropped.
    pub fn after(&self, seq: u64) -> Option<impl DoubleEndedIterator<Item = &Frame>> {
        let skip = usize::try_from(seq.checked_sub(self.floor)?).ok()?;
        Some(self.frames.range(skip.min(self.frames.len())..))
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topic;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn frame(seq: u64, len: usize) -> Frame {
        Frame {
            seq,
            topic: Topic::new("t").unwrap(),
            bytes: Bytes::from(vec![b'x'; len]),
        }
    }

    #[test]
    #[should_panic(expected = "no holes")]
    fn a_hole_is_a_bug() {
        let mut ring = Ring::new(5, 10, 100);
        ring.push(frame(7, 1));
    }

    proptest! {
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
                prop_assert_eq!(&kept[..], &all[all.len() - kept.len()..]);
                prop_assert_eq!(ring.bytes(), kept.iter().map(|f| f.bytes.len()).sum::<usize>());
                prop_assert!(kept.len() <= max_frames);
                prop_assert!(ring.bytes() <= max_bytes || kept.len() == 1);

                // Nothing was dropped that would have fitted.
                if let Some(dropped) = all.len().checked_sub(kept.len() + 1) {
                    prop_assert!(
                        kept.len() == max_frames || ring.bytes() + all[dropped].bytes.len() > max_bytes
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
