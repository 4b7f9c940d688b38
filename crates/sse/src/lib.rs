//! The wire format of server-sent events, `text/event-stream`, both ways.
//!
//! [`Event`], [`retry`] and [`comment`] append blocks to a
//! buffer; [`Decoder`] takes the bytes of a stream, cut anywhere, and gives
//! back what they say. Neither does any I/O and neither can panic on its input.
//!
//! A block is some lines and the blank line that ends it. A client acts only
//! on whole blocks, so a stream may be cut between two of them, and blocks may
//! be concatenated, without harm.
//!
//! Invariants:
//! - What is encoded here is read back as it was given, by our decoder and by a
//!   browser's; line ends become LF, and a character that would break out of
//!   an id or a name becomes U+FFFD.
//! - A byte is looked at a fixed number of times, however the stream was cut.
//! - What a decoder holds is bounded, whatever the other side sends.
//!
//! Source: WHATWG HTML, §9.2.5 and §9.2.6,
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

mod decode;
mod encode;

pub use decode::{DEFAULT_LIMIT, Decoder, Item, Message, TooLong};
pub use encode::{Event, comment, retry};
