//! Reading a stream: bytes in, cut anywhere; events out.

mod lines;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::mem;
use std::time::Duration;

use bytes::BytesMut;
use memchr::memchr;

use lines::Lines;

/// Longest event a [`Decoder`] takes unless it is told otherwise, in bytes.
///
/// Far above any event that is sensible to send to a browser, and low enough
/// that a stream which never ends its lines is noticed before it hurts.
pub const DEFAULT_LIMIT: usize = 16 << 20;

/// Decodes a stream as WHATWG HTML §9.2.6 says, in pieces of any size.
///
/// [`feed`](Self::feed) it, then iterate: `None` means that all that was fed
/// is decoded, and that there may be more after the next `feed`. A block that
/// is not ended by a blank line never comes out, so the end of a stream needs
/// no call.
///
/// The decoder holds what was fed and not yet iterated over, plus at most one
/// unfinished event within the limit.
#[derive(Debug)]
pub struct Decoder {
    lines: Lines,
    limit: usize,
    last_event_id: String,
    block: Block,
    /// The rest of the present block is thrown away, up to its blank line.
    dropping: bool,
}

/// What a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole event, to be handed on.
    Event(Message),
    /// How long to wait before reconnecting, from now on. Values that no
    /// duration can hold come as the longest in whole milliseconds.
    Retry(Duration),
    /// A comment line, without its colon and one space. Nothing for a program
    /// to act on, except that the other side is alive.
    Comment(String),
}

/// A received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The last event id at this event: its own, or that of an earlier block
    /// when it has none. Empty when there was none at all.
    pub id: String,
    /// The event's type, "message" when the stream gives none.
    pub name: String,
    /// Its lines, joined with LF.
    pub data: String,
}

/// A block was longer than the decoder's limit and has been left out.
///
/// It changes nothing else: its id is not taken over, so a client that
/// reconnects asks for it again, and decoding goes on with the next block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// The limit that was passed, in bytes.
    pub limit: usize,
}

/// The fields of the block that is being read.
#[derive(Debug, Default)]
struct Block {
    id: Option<String>,
    name: String,
    /// `None` without a data field: such a block is not an event.
    data: Option<String>,
    /// Bytes of the lines that led to the above.
    len: usize,
}

// === impl Decoder ===

impl Decoder {
    /// A decoder for a new stream, with the [`DEFAULT_LIMIT`].
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }

    /// A decoder that takes events of up to `max_event_bytes`: the lines of
    /// their `id`, `event` and `data` fields as they stand on the wire, without
    /// the line ends. A line that is just being read counts too, whatever it
    /// turns out to be.
    ///
    /// The text it holds for an event may be up to three times as long, if all
    /// of it is invalid UTF-8.
    pub fn with_limit(max_event_bytes: usize) -> Self {
        Self {
            lines: Lines::default(),
            limit: max_event_bytes,
            last_event_id: String::new(),
            block: Block::default(),
            dropping: false,
        }
    }

    /// Adds the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes);
    }

    /// The id to send as `Last-Event-ID` when reconnecting; empty when there is
    /// none. It moves at the blank line that ends a block, with or without
    /// data: an event cut short by a lost connection is asked for again.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Begins a new stream after a reconnect: forgets what was unfinished and
    /// keeps the last event id, as browsers do.
    pub fn restart(&mut self) {
        *self = Self {
            last_event_id: mem::take(&mut self.last_event_id),
            ..Self::with_limit(self.limit)
        };
    }

    fn interpret(&mut self, line: &[u8]) -> Option<Item> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = split_field(line);
        match field {
            b"" => return Some(Item::Comment(text(value).into_owned())),
            b"retry" => return milliseconds(value).map(Item::Retry),
            b"data" => self.block.push_data(value),
            b"event" => self.block.name = text(value).into_owned(),
            b"id" if !value.contains(&b'\0') => {
                self.block.id = Some(text(value).into_owned());
            }
            _ => return None,
        }
        self.block.len += line.len();
        None
    }

    fn dispatch(&mut self) -> Option<Item> {
        let block = mem::take(&mut self.block);
        if let Some(id) = block.id {
            self.last_event_id = id;
        }
        let data = block.data?;
        let name = if block.name.is_empty() {
            "message".to_owned()
        } else {
            block.name
        };
        Some(Item::Event(Message {
            id: self.last_event_id.clone(),
            name,
            data,
        }))
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Decoder {
    type Item = Result<Item, TooLong>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.lines.next_line();
            if self.dropping {
                let Some(line) = line else {
                    self.lines.discard_unfinished();
                    return None;
                };
                self.dropping = !line.is_empty();
                continue;
            }
            // An unfinished line counts with what there is of it, so that the
            // verdict is the same wherever the stream was cut.
            let len = line
                .as_ref()
                .map_or_else(|| self.lines.unfinished(), BytesMut::len);
            if len > self.limit - self.block.len {
                self.block = Block::default();
                self.dropping = true;
                return Some(Err(TooLong { limit: self.limit }));
            }
            if let Some(item) = self.interpret(&line?) {
                return Some(Ok(item));
            }
        }
    }
}

// === impl Block ===

impl Block {
    fn push_data(&mut self, value: &[u8]) {
        match &mut self.data {
            None => self.data = Some(text(value).into_owned()),
            Some(data) => {
                data.push('\n');
                data.push_str(&text(value));
            }
        }
    }
}

// === impl TooLong ===

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event longer than {} bytes", self.limit)
    }
}

impl Error for TooLong {}

/// Splits at the first colon, and takes one space from the value. A comment is
/// a field without a name; a line without a colon, one without a value.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = memchr(b':', line) else {
        return (line, b"");
    };
    let value = &line[colon + 1..];
    (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
}

/// Decodes a value on its own. Colons and line ends are never part of a longer
/// character, so this is the same as decoding the stream and then splitting.
fn text(value: &[u8]) -> Cow<'_, str> {
    // Nearly always valid, and to find that out is several times faster than
    // to look for what must be replaced.
    str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed)
}

fn milliseconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let millis = digits.iter().fold(0_u64, |millis, digit| {
        millis
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Some(Duration::from_millis(millis))
}
