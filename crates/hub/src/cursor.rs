//! A position in the stream.

use std::{fmt, str::FromStr};

/// A position in the stream: everything up to and including `seq` is behind it.
///
/// Printed as `<epoch>-<seq>`, for example `7f3a01c2-1234`. That is the SSE `id`,
/// and what `Last-Event-ID` carries. It holds no character for which a browser
/// would ask permission (a CORS preflight) before it reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The stream it belongs to.
    pub epoch: Epoch,
    /// The last event's number. The first event is 1, so 0 is before all of them.
    pub seq: u64,
}

/// Which stream a cursor belongs to. Random; another database, or the same one
/// after a restore, is another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u32);

/// An epoch that another one continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Which.
    pub epoch: Epoch,
    /// The last number that both have in common.
    pub until: u64,
}

/// The text is not a cursor (or not an epoch).
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidCursor;

// === impl Cursor ===

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    /// Takes exactly what `Display` writes: no sign, space, upper case or leading zero.
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (epoch, seq) = text.split_once('-').ok_or(InvalidCursor)?;
        let epoch = epoch.parse()?;
        let plain = seq.bytes().all(|byte| byte.is_ascii_digit());
        let padded = seq.len() > 1 && seq.starts_with('0');
        if !plain || padded {
            return Err(InvalidCursor);
        }
        let seq = seq.parse().map_err(|_| InvalidCursor)?;
        Ok(Self { epoch, seq })
    }
}

// === impl Epoch ===

impl Epoch {
    /// An epoch of a given number, for tests and benchmarks.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 8 || !text.bytes().all(hex) {
            return Err(InvalidCursor);
        }
        let number = u32::from_str_radix(text, 16).map_err(|_| InvalidCursor)?;
        Ok(Self(number))
    }
}

// === impl InvalidCursor ===

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a cursor of the form <epoch>-<seq>, like 7f3a01c2-1234")
    }
}

impl std::error::Error for InvalidCursor {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read(number: u32, seq: u64) {
            let cursor = Cursor { epoch: Epoch(number), seq };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn what_is_read_is_printed(text in "[0-9a-fA-F]{7,9}-[+-]?[0-9]{1,21}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn anything_else_is_refused(text in "\\PC*") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "-",
            "1",
            "7f3a01c2",
            "7f3a01c2-",
            "-1",
            "7f3a01c2-+1",
            "7f3a01c2-01",
            " 7f3a01c2-1",
            "7F3A01C2-1",
            "7f3a01c2-1 ",
            "7f3a01c2-18446744073709551616",
            "7f3a01c2-1-1",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text:?}");
        }
    }
}
