//! What a stream says of itself, between the events.

use bytes::{Bytes, BytesMut};
use hub::{Cursor, Form};
use serde_json::json;
use std::time::Duration;

use crate::frame::LINES;

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
    pub(crate) fn encode(&self, form: Form, out: &mut BytesMut) {
        if form == LINES {
            let line = json!({"event": "gap", "data": self.to_json()});
            out.extend_from_slice(format!("{line}\n").as_bytes());
        } else {
            control("gap", None, &self.to_json().to_string(), out);
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut data = json!({"reason": self.reason, "from": self.from, "to": self.to.to_string()});
        if let Some(missing) = self.missing {
            data["missing"] = missing.into();
        }
        data
    }
}

/// So much of what a client sent as may be sent back to it.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Moves the cursor of a client for whom nothing happens. An event, not a comment: a page's
/// script cannot see comments, and it is the script that notices silence.
///
/// On lines, where there is no place for it, an empty one.
pub(crate) fn heartbeat(cursor: Cursor, form: Form) -> Bytes {
    if form == LINES {
        return Bytes::from_static(b"\n");
    }
    let mut out = BytesMut::new();
    control("heartbeat", Some(&cursor.to_string()), "", &mut out);
    out.freeze()
}

/// The first word of a stream, and the last: when to come back.
pub(crate) fn retry(after: Duration, form: Form) -> Bytes {
    let mut out = BytesMut::new();
    if form != LINES {
        sse::retry(&mut out, after);
    }
    out.freeze()
}

/// The last word to a client whose token does not count any more: it goes on with a new one, from
/// where it is. Without an id, as it is no position.
pub(crate) fn expired(retry_after: Duration, form: Form) -> Bytes {
    let data = json!({"message": "the token has expired: come back with a new one"});
    let mut out = BytesMut::new();
    if form == LINES {
        let line = json!({"event": "expired", "data": data});
        out.extend_from_slice(format!("{line}\n").as_bytes());
    } else {
        control("expired", None, &data.to_string(), &mut out);
        sse::retry(&mut out, retry_after);
    }
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
