//! What is published, before and after it is encoded.

use bytes::{Bytes, BytesMut};
use std::{ops::Range, sync::Arc, time::SystemTime};

use crate::Topic;

/// One immutable published record that has its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number in the stream: gapless, the same on every instance.
    pub seq: u64,
    /// What clients subscribe to.
    pub topic: Topic,
    /// What kind of event it is; the SSE `event` field.
    pub name: Arc<str>,
    /// What it is about, usually a primary key.
    pub key: Option<String>,
    /// JSON, exactly as it was captured.
    pub data: String,
    /// When it was captured, by the server's clock.
    pub at: SystemTime,
    /// What it says about its topic's state.
    pub retain: Retain,
}

/// What an event says about its topic's state: what new clients are given first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retain {
    /// Nothing. Most events.
    #[default]
    No,
    /// It is the state from here on.
    Set,
    /// From here on there is none.
    Clear,
}

/// An event as it goes over the wire. A clone only counts references.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The event's number in the stream.
    pub seq: u64,
    /// The event's topic, by which lanes are chosen.
    pub topic: Topic,
    /// The event's name, by which some clients choose, too.
    pub name: Arc<str>,
    /// When it was captured, by the server's clock.
    pub at: SystemTime,
    /// What it says about its topic's state.
    pub retain: Retain,
    /// Its bytes.
    pub wire: Wire,
}

/// How many parts a frame's bytes may have.
pub const PARTS: usize = 8;

/// An event's bytes in one run, and the parts of it. Encoded once, for all forms in which
/// clients may want it: each form is some of the parts, one after the other.
///
/// What a part means is the business of whoever encodes.
#[derive(Clone, Debug)]
pub struct Wire {
    bytes: Bytes,
    parts: [Range<u32>; PARTS],
}

/// Which parts of a frame a client is sent, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form(&'static [u8]);

// === impl Wire ===

impl Wire {
    /// These bytes, with these parts, which may overlap or be empty.
    ///
    /// # Panics
    /// If a part is not within the bytes, or they are more than 4 GiB.
    pub fn new(bytes: Bytes, parts: [Range<usize>; PARTS]) -> Self {
        let narrow = |at| u32::try_from(at).expect("a frame is far smaller than 4 GiB");
        let parts = parts.map(|part| {
            assert!(part.start <= part.end && part.end <= bytes.len());
            narrow(part.start)..narrow(part.end)
        });
        Self { bytes, parts }
    }

    /// The bytes of one form. Shared, if its parts follow each other.
    pub fn bytes(&self, form: Form) -> Bytes {
        let (first, last) = (self.part(form.0[0]), self.part(form.0[form.0.len() - 1]));
        let mut ends = form.0.iter().map(|&nth| self.part(nth));
        let mut at = first.start;
        if ends.all(|part| std::mem::replace(&mut at, part.end) == part.start) {
            return self.bytes.slice(first.start..last.end);
        }
        let mut bytes = BytesMut::with_capacity(self.len(form));
        self.append(form, &mut bytes);
        bytes.freeze()
    }

    /// Appends the bytes of one form.
    pub fn append(&self, form: Form, out: &mut BytesMut) {
        for &nth in form.0 {
            out.extend_from_slice(&self.bytes[self.part(nth)]);
        }
    }

    /// How many bytes one form has.
    pub fn len(&self, form: Form) -> usize {
        form.0.iter().map(|&nth| self.part(nth).len()).sum()
    }

    /// How many bytes it takes in memory.
    pub fn weight(&self) -> usize {
        self.bytes.len()
    }

    fn part(&self, nth: u8) -> Range<usize> {
        let Range { start, end } = self.parts[usize::from(nth)];
        start as usize..end as usize
    }
}

/// All in one part, the first.
impl<T: Into<Bytes>> From<T> for Wire {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        let len = bytes.len();
        let mut nth = 0..PARTS;
        let parts = std::array::from_fn(|_| {
            if nth.next() == Some(0) {
                0..len
            } else {
                len..len
            }
        });
        Self::new(bytes, parts)
    }
}

// === impl Form ===

impl Form {
    /// The first part only.
    pub const FIRST: Self = Self(&[0]);

    /// These parts, by their place.
    ///
    /// # Panics
    /// If there is none, or one is not below [`PARTS`].
    pub const fn new(parts: &'static [u8]) -> Self {
        assert!(!parts.is_empty(), "a form has a part");
        let mut nth = 0;
        while nth < parts.len() {
            assert!((parts[nth] as usize) < PARTS, "there is no such part");
            nth += 1;
        }
        Self(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_some_parts_in_some_order() {
        let parts = [0..1, 1..3, 3..6, 3..3, 3..4, 6..6, 6..6, 6..6];
        let wire = Wire::new(Bytes::from_static(b"abbccc"), parts);
        for (form, expected) in [
            (Form::new(&[0]), "a"),
            (Form::new(&[0, 1, 2]), "abbccc"),
            (Form::new(&[0, 3, 2]), "accc"),
            (Form::new(&[2, 4, 0]), "cccca"),
            (Form::new(&[3]), ""),
        ] {
            assert_eq!(wire.bytes(form), expected);
            assert_eq!(wire.len(form), expected.len());
        }
        let whole = wire.bytes(Form::new(&[0, 1, 2]));
        assert_eq!(
            whole.as_ptr(),
            wire.bytes(Form::FIRST).as_ptr(),
            "it is no copy"
        );
        assert_eq!(Wire::from("x").bytes(Form::new(&[0, 7])), "x");
    }
}
