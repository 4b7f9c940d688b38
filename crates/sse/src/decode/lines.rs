//! Cutting a stream into lines, however it arrives.

use bytes::{Buf, BytesMut};
use memchr::memchr2;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Takes bytes, gives lines. LF, CR and CRLF end a line; a byte order mark at
/// the start of the stream is taken away.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What was fed and not yet given back.
    buf: BytesMut,
    /// How much of `buf` is known to hold no line end, so that a long line
    /// that comes in small pieces is not searched from its start each time.
    searched: usize,
    /// The stream is past the place where a byte order mark could stand.
    started: bool,
    /// The last line ended with CR: an LF right behind it belongs to it.
    after_cr: bool,
}

impl Lines {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The next line, without its end. `None` until the rest of it is fed.
    pub(super) fn next_line(&mut self) -> Option<BytesMut> {
        self.skip_bom()?;
        // A CR ends its line at once. To wait and see whether an LF follows
        // would hold an event back until the next one comes.
        if self.after_cr && self.buf.has_remaining() {
            self.after_cr = false;
            if self.buf[0] == b'\n' {
                self.buf.advance(1);
            }
        }
        let Some(found) = memchr2(b'\r', b'\n', &self.buf[self.searched..]) else {
            self.searched = self.buf.len();
            return None;
        };
        let line = self.buf.split_to(self.searched + found);
        self.searched = 0;
        self.after_cr = self.buf.get_u8() == b'\r';
        Some(line)
    }

    /// Length of the line that has begun and not ended, in bytes, without what
    /// may yet become a byte order mark. Valid when
    /// [`next_line`](Self::next_line) has just given `None`.
    pub(super) fn unfinished(&self) -> usize {
        if self.started { self.buf.len() } else { 0 }
    }

    /// Throws away what there is of the unfinished line, but for one byte: its
    /// end, when it comes, must not look like a blank line.
    pub(super) fn discard_unfinished(&mut self) {
        self.buf.truncate(1);
        self.searched = self.buf.len();
    }

    /// `None` while it is not known whether the stream starts with a BOM.
    fn skip_bom(&mut self) -> Option<()> {
        if !self.started {
            if self.buf.starts_with(BOM) {
                self.buf.advance(BOM.len());
            } else if BOM.starts_with(&self.buf) {
                return None;
            }
            self.started = true;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces`, taking all lines there are after each.
    #[track_caller]
    fn check(pieces: &[&str], expected: &[&[&str]]) {
        let mut lines = Lines::default();
        for (piece, expected) in pieces.iter().zip(expected) {
            lines.feed(piece.as_bytes());
            let mut found = Vec::new();
            while let Some(line) = lines.next_line() {
                found.push(line);
            }
            assert_eq!(found, *expected, "after {piece:?} of {pieces:?}");
        }
        assert_eq!(pieces.len(), expected.len());
    }

    #[test]
    fn every_kind_of_line_end() {
        check(&["a\nb\rc\r\nd"], &[&["a", "b", "c"]]);
        check(&["\n\r\r\n\n\r"], &[&["", "", "", "", ""]]);
    }

    #[test]
    fn a_cr_ends_its_line_at_once() {
        check(&["a\r", "\n", "\n"], &[&["a"], &[], &[""]]);
        check(
            &["a\r", "b\r", "\r", "\nc\n"],
            &[&["a"], &["b"], &[""], &["c"]],
        );
    }

    #[test]
    fn a_line_in_pieces() {
        check(&["a", "", "b", "c\nd"], &[&[], &[], &[], &["abc"]]);
    }

    #[test]
    fn one_bom_at_the_start() {
        check(&["\u{FEFF}a\n\u{FEFF}b\n"], &[&["a", "\u{FEFF}b"]]);
        check(&["\u{FEFF}\u{FEFF}a\n"], &[&["\u{FEFF}a"]]);
        check(&["\n\u{FEFF}\n"], &[&["", "\u{FEFF}"]]);
    }

    #[test]
    fn a_bom_in_pieces() {
        let mut lines = Lines::default();
        for byte in BOM {
            lines.feed(&[*byte]);
            assert_eq!(lines.next_line(), None);
        }
        lines.feed(b"a\n");
        assert_eq!(lines.next_line().unwrap(), "a");
    }

    #[test]
    fn half_a_bom_is_text() {
        let mut lines = Lines::default();
        lines.feed(b"\xEF\xBB");
        assert_eq!(lines.next_line(), None);
        lines.feed(b"\n");
        assert_eq!(lines.next_line().unwrap(), &b"\xEF\xBB"[..]);
    }

    #[test]
    fn a_discarded_line_does_not_end_blank() {
        let mut lines = Lines::default();
        lines.feed(b"long");
        assert_eq!(lines.next_line(), None);
        assert_eq!(lines.unfinished(), 4);
        lines.discard_unfinished();
        assert_eq!(lines.unfinished(), 1);
        lines.feed(b"\n\n");
        assert!(!lines.next_line().unwrap().is_empty());
        assert!(lines.next_line().unwrap().is_empty());
    }
}
