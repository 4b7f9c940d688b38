//! Events as they go over the wire, in three forms.

use bytes::{BufMut, BytesMut};
use hub::{Cursor, Epoch, Event, Form, Frame, Retain, Wire};
use memchr::memchr2;
use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

/// The last moment that RFC 3339 can write, in seconds since 1970: the end of 9999.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

// An event is written once as a block of `text/event-stream`, with what its envelope has
// around the data after it:
//
//   id: …⏎  event: …⏎data:   {"total": 7}  ⏎⏎  {"id": …, "data":  ,"at": …}
//   ID      HEAD             DATA          TAIL  BEFORE           AFTER
//
// LINE is the data on one line: mostly DATA itself. BREAK is the first half of TAIL.
const ID: u8 = 0;
const HEAD: u8 = 1;
const DATA: u8 = 2;
const TAIL: u8 = 3;
const BEFORE: u8 = 4;
const AFTER: u8 = 5;
const LINE: u8 = 6;
const BREAK: u8 = 7;

const DATA_FIELD: &[u8] = b"\ndata: ";

/// A block of `text/event-stream` with the row's JSON as data.
pub const PLAIN: Form = Form::new(&[ID, HEAD, DATA, TAIL]);

/// The same with the envelope as data: the JSON, and what else is known of the event.
pub(crate) const ENVELOPE: Form = Form::new(&[ID, HEAD, BEFORE, LINE, AFTER, TAIL]);

/// The envelope on a line of its own (`application/x-ndjson`).
pub(crate) const LINES: Form = Form::new(&[BEFORE, LINE, AFTER, BREAK]);

/// The same as a form, but without an id that a client would come back with.
pub(crate) fn without_id(form: Form) -> Form {
    match form {
        PLAIN => Form::new(&[HEAD, DATA, TAIL]),
        ENVELOPE => Form::new(&[HEAD, BEFORE, LINE, AFTER, TAIL]),
        other => other,
    }
}

/// An event, encoded.
pub fn encode(epoch: Epoch, event: Event) -> Frame {
    let capacity = 2 * event.name.len() + event.data.len() + 256;
    encode_into(&mut BytesMut::with_capacity(capacity), epoch, event)
}

/// The same, in a buffer that is empty and may be used for the next one: they share its memory.
pub(crate) fn encode_into(buffer: &mut BytesMut, epoch: Epoch, event: Event) -> Frame {
    let id = Cursor {
        epoch,
        seq: event.seq,
    };
    Frame {
        seq: event.seq,
        wire: wire(buffer, id, &event),
        at: event.at,
        retain: event.retain,
        name: event.name,
        topic: event.topic,
    }
}

fn wire(out: &mut BytesMut, id: Cursor, event: &Event) -> Wire {
    let id = id.to_string();
    let block = sse::Event {
        id: Some(&id),
        name: Some(&event.name),
        data: &event.data,
    };
    block.encode(out);
    let end_of_id = "id: ".len() + id.len() + 1;
    // No name has a line break any more, so this is where the data begin.
    let mut lines = out[end_of_id - 1..].windows(DATA_FIELD.len());
    let head = lines.position(|text| text == DATA_FIELD);
    let data = end_of_id - 1 + head.expect("it was written") + DATA_FIELD.len();
    let tail = out.len() - 2;

    before(out, &id, event);
    let before = out.len();
    after(out, event);
    let after = out.len();
    let mut line = data..tail;
    if memchr2(b'\n', b'\r', event.data.as_bytes()).is_some() {
        // Between its tokens only, where JSON may have a space as well.
        put(out, &event.data.replace(['\n', '\r'], " "));
        line = after..out.len();
    }
    Wire::new(
        out.split().freeze(),
        [
            0..end_of_id,
            end_of_id..data,
            data..tail,
            tail..tail + 2,
            tail + 2..before,
            before..after,
            line,
            tail..tail + 1,
        ],
    )
}

fn before(out: &mut BytesMut, id: &str, event: &Event) {
    put(out, "{\"id\":\"");
    put(out, id);
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
}

fn after(out: &mut BytesMut, event: &Event) {
    let end = SystemTime::UNIX_EPOCH + END_OF_TIME;
    let at = event.at.clamp(SystemTime::UNIX_EPOCH, end);
    put(out, ",\"at\":\"");
    write!(out, "{}", humantime::format_rfc3339_micros(at)).expect("a BytesMut grows");
    put(
        out,
        match event.retain {
            Retain::No => "\"}",
            Retain::Set => "\",\"retain\":true}",
            Retain::Clear => "\",\"retain\":false}",
        },
    );
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
    use hub::Topic;

    #[test]
    fn forms() {
        let event = Event {
            seq: 7,
            topic: Topic::new("org.7.größe").unwrap(),
            name: "a \"name\"".into(),
            key: None,
            data: "{\"b\": 1.50,\r\n \"a\":\n[\"\\n\"]}".to_owned(),
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_001),
            retain: Retain::No,
        };
        let frame = encode(Epoch::new(0xab), event);
        let text = |form| String::from_utf8(frame.wire.bytes(form).to_vec()).unwrap();
        let head = "event: a \"name\"\ndata: ";
        let object = "{\"id\":\"000000ab-7\",\"topic\":\"org.7.größe\",\"event\":\"a \\\"name\\\"\",\"key\":null,\
             \"data\":{\"b\": 1.50,   \"a\": [\"\\n\"]},\"at\":\"1970-01-01T00:00:01.000001Z\"}";
        let plain = "{\"b\": 1.50,\ndata:  \"a\":\ndata: [\"\\n\"]}";
        assert_eq!(text(PLAIN), format!("id: 000000ab-7\n{head}{plain}\n\n"));
        assert_eq!(text(without_id(PLAIN)), format!("{head}{plain}\n\n"));
        assert_eq!(
            text(ENVELOPE),
            format!("id: 000000ab-7\n{head}{object}\n\n")
        );
        assert_eq!(text(without_id(ENVELOPE)), format!("{head}{object}\n\n"));
        assert_eq!(text(LINES), format!("{object}\n"));
        assert_eq!(text(without_id(LINES)), format!("{object}\n"));
    }
}
