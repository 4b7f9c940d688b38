//! What a stream says of itself, between the events.

use bytes::{Bytes, BytesMut};
use hub::Cursor;
use serde_json::json;
use std::time::Duration;

/// Tells a client that some of what it asked for does not exist any more.
#[derive(Debug)]
pub(crate) struct Gap {
    /// `retention`, `epoch` or `unknown`.
    pub(crate) reason: &'static str,
    /// The position that the client had, as it said it.
    pub(crate) from: String,
    /// The position that the stream goes on from.
    pub(crate) to: Cursor,
    /// How many events lie between, if that can be said. Of all topics: which were this
    /// client's is not known any more.
    pub(crate) missing: Option<u64>,
}

impl Gap {
    /// Without an id: it is no position to come back to.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut data = json!({"reason": self.reason, "from": self.from, "to": self.to.to_string()});
        if let Some(missing) = self.missing {
            data["missing"] = missing.into();
        }
        control("gap", None, &data.to_string(), out);
    }
}

/// So much of what a client sent as may be sent back to it.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Moves the cursor of a client for whom nothing happens. An event, not a comment: a page's
/// script cannot see comments, and it is the script that notices silence.
pub(crate) fn heartbeat(cursor: Cursor) -> Bytes {
    let mut out = BytesMut::new();
    control("heartbeat", Some(&cursor.to_string()), "", &mut out);
    out.freeze()
}

/// The last word of a stream: when to come back.
pub(crate) fn farewell(retry: Duration) -> Bytes {
    let mut out = BytesMut::new();
    sse::retry(&mut out, retry);
    out.freeze()
}

fn control(name: &str, id: Option<&str>, data: &str, out: &mut BytesMut) {
    let event = sse::Event {
        id,
        name: Some(name),
        data,
    };
    event.encode(out);
}
