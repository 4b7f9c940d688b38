//! Events and frames to measure with.

use hub::{Epoch, Event, Frame, Retain, Topic};
use std::time::SystemTime;

/// The stream that all of them belong to.
pub(crate) const EPOCH: Epoch = Epoch::new(0x7f3a_01c2);

/// Where numbering begins: far enough up that all numbers have as many digits.
pub(crate) const HEAD: u64 = 1_000_000_000;

/// An event with so many bytes of JSON.
pub(crate) fn event(seq: u64, topic: &str, data_bytes: usize) -> Event {
    const FIELDS: &str = r#"{"id":1234567,"status":"paid","total":"129.90","note":""}"#;
    let mut data = FIELDS.to_owned();
    let note = "x".repeat(data_bytes - FIELDS.len());
    data.insert_str(FIELDS.len() - 2, &note);
    Event {
        seq,
        topic: Topic::new(topic).unwrap(),
        name: "order.update".into(),
        key: None,
        data,
        at: SystemTime::UNIX_EPOCH,
        retain: Retain::No,
    }
}

/// An event as it goes over the wire, encoded as the server does it.
pub(crate) fn frame(seq: u64, topic: &str, data_bytes: usize) -> Frame {
    server::encode(EPOCH, event(seq, topic, data_bytes))
}
