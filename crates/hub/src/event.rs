//! What is published, before and after it is encoded.

use bytes::Bytes;
use std::time::SystemTime;

use crate::Topic;

/// One immutable published record that has its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number in the stream: gapless, the same on every instance.
    pub seq: u64,
    /// What clients subscribe to.
    pub topic: Topic,
    /// What kind of event it is; the SSE `event` field.
    pub name: String,
    /// What it is about, usually a primary key.
    pub key: Option<String>,
    /// JSON, exactly as it was captured.
    pub data: String,
    /// When it was captured, by the server's clock.
    pub at: SystemTime,
}

/// An event's bytes on the wire. Encoded once; a clone only counts a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The event's number in the stream.
    pub seq: u64,
    /// The event's topic, by which lanes are chosen.
    pub topic: Topic,
    /// The whole event, ready to be written.
    pub bytes: Bytes,
}
