//! An event as one JSON object, with all that is known of it.

use bytes::{BufMut, BytesMut};
use hub::{Cursor, Event};
use std::time::{Duration, SystemTime};

/// The last moment that RFC 3339 can write, in seconds since 1970: the end of 9999.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

/// Appends `{"id", "topic", "event", "key", "data", "at"}` on one line: `at` in UTC, and `data`
/// as it was captured, but for line breaks, which JSON has between its tokens only.
pub(crate) fn write(id: Cursor, event: &Event, out: &mut BytesMut) {
    put(out, "{\"id\":\"");
    put(out, &id.to_string());
    put(out, "\",\"topic\":");
    put_string(out, event.topic.as_str());
    put(out, ",\"event\":");
    put_string(out, &event.name);
    put(out, ",\"key\":");
    match &event.key {
        Some(key) => put_string(out, key),
        None => put(out, "null"),
    }
    put(out, ",\"data\":");
    if event.data.contains(['\n', '\r']) {
        put(out, &event.data.replace(['\n', '\r'], " "));
    } else {
        put(out, &event.data);
    }
    put(out, ",\"at\":\"");
    let end = SystemTime::UNIX_EPOCH + END_OF_TIME;
    let at = event.at.clamp(SystemTime::UNIX_EPOCH, end);
    put(out, &humantime::format_rfc3339_micros(at).to_string());
    put(out, "\"}");
}

fn put(out: &mut BytesMut, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn put_string(out: &mut BytesMut, text: &str) {
    serde_json::to_writer(out.writer(), text).expect("a BytesMut grows");
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub::{Epoch, Topic};

    #[test]
    fn is_one_line_with_the_data_as_it_was() {
        let event = Event {
            seq: 7,
            topic: Topic::new("org.7.größe").unwrap(),
            name: "a \"name\"".to_owned(),
            key: None,
            data: "{\"b\": 1.50,\r\n \"a\":\n[\"\\n\"]}".to_owned(),
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_001),
        };
        let id = Cursor {
            epoch: Epoch::new(0xab),
            seq: 7,
        };
        let mut out = BytesMut::new();
        write(id, &event, &mut out);
        assert_eq!(
            out,
            "{\"id\":\"000000ab-7\",\"topic\":\"org.7.größe\",\"event\":\"a \\\"name\\\"\",\"key\":null,\
             \"data\":{\"b\": 1.50,   \"a\": [\"\\n\"]},\"at\":\"1970-01-01T00:00:01.000001Z\"}"
        );
    }
}
