//! Writing a stream: each function appends one whole block to a buffer.

use std::fmt::Write;
use std::time::Duration;

use bytes::BytesMut;
use memchr::{memchr2, memchr3};

/// One event to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// What the client sends back as `Last-Event-ID`. `None` leaves the
    /// client's id as it is; `Some("")` makes it forget the one it has.
    pub id: Option<&'a str>,
    /// What a browser hands to `addEventListener`. `None` and `Some("")` are
    /// the same to a client, a "message", and write nothing.
    pub name: Option<&'a str>,
    /// Any text. CR, LF and CRLF all arrive as LF; an empty text arrives as an
    /// event with empty data.
    pub data: &'a str,
}

impl Event<'_> {
    /// Appends the event to `out`.
    ///
    /// Never fails. In `id` and `name`, where a CR or LF would let the text
    /// write fields of its own and a NUL would make clients ignore the id,
    /// each of the three is written as U+FFFD. A space would do as well on the
    /// wire, but could turn one valid name into another that somebody listens
    /// to; this one is visibly damaged.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.encoded_len_hint());
        if let Some(id) = self.id {
            put_field(out, "id: ", id);
        }
        if let Some(name) = self.name.filter(|name| !name.is_empty()) {
            put_field(out, "event: ", name);
        }
        put_lines(out, "data: ", self.data);
        put(out, "\n");
    }

    /// About how many bytes [`encode`](Self::encode) will append, without a
    /// look at the text: right for one line of data with a name and an id, a
    /// few too many without them, six too few for each further line.
    pub fn encoded_len_hint(&self) -> usize {
        const AROUND: usize = "id: \nevent: \ndata: \n\n".len();
        AROUND + self.id.map_or(0, str::len) + self.name.map_or(0, str::len) + self.data.len()
    }
}

/// Appends a request to wait this long before reconnecting, in whole
/// milliseconds, rounded down.
///
/// Clients add no jitter of their own, so give each one another value.
pub fn retry(out: &mut BytesMut, after: Duration) {
    write!(out, "retry: {}\n\n", after.as_millis()).expect("a BytesMut grows");
}

/// Appends a comment, a line for each line of `text`. Browsers show it to
/// nobody; it keeps proxies from closing a silent connection.
pub fn comment(out: &mut BytesMut, text: &str) {
    put_lines(out, ": ", text);
    // A comment needs no blank line, but there are clients that take a whole
    // block for a comment when it begins with one: the next event must not
    // stand in the same block.
    put(out, "\n");
}

/// Appends `text`, each of its lines after `prefix`.
///
/// The prefixes end with a space because clients take one away: without ours,
/// it would be the text's own.
fn put_lines(out: &mut BytesMut, prefix: &str, mut text: &str) {
    while let Some(end) = memchr2(b'\r', b'\n', text.as_bytes()) {
        let (line, rest) = text.split_at(end);
        put(out, prefix);
        put(out, line);
        put(out, "\n");
        text = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
    }
    put(out, prefix);
    put(out, text);
    put(out, "\n");
}

/// Appends `value` as one line, whatever it contains.
fn put_field(out: &mut BytesMut, prefix: &str, mut value: &str) {
    put(out, prefix);
    while let Some(bad) = memchr3(b'\r', b'\n', b'\0', value.as_bytes()) {
        put(out, &value[..bad]);
        put(out, "\u{FFFD}");
        value = &value[bad + 1..];
    }
    put(out, value);
    put(out, "\n");
}

fn put(out: &mut BytesMut, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(id: Option<&str>, name: Option<&str>, data: &str, expected: &str) {
        let event = Event { id, name, data };
        let mut out = BytesMut::from("before\n\n");
        event.encode(&mut out);
        assert_eq!(out, format!("before\n\n{expected}").as_bytes());
    }

    #[track_caller]
    fn check_data(data: &str, expected: &str) {
        check(None, None, data, expected);
    }

    #[track_caller]
    fn check_block(encode: impl FnOnce(&mut BytesMut), expected: &str) {
        let mut out = BytesMut::new();
        encode(&mut out);
        assert_eq!(out, expected.as_bytes());
    }

    #[test]
    fn fields_come_in_order() {
        check(
            Some("1-42"),
            Some("orders.insert"),
            r#"{"id":7}"#,
            "id: 1-42\nevent: orders.insert\ndata: {\"id\":7}\n\n",
        );
        check(Some("1-42"), None, "x", "id: 1-42\ndata: x\n\n");
        check(None, Some("tick"), "x", "event: tick\ndata: x\n\n");
    }

    #[test]
    fn an_empty_name_is_left_out_and_an_empty_id_is_not() {
        check(Some(""), Some(""), "x", "id: \ndata: x\n\n");
    }

    #[test]
    fn data_is_split_at_every_kind_of_line_end() {
        check_data("a\nb\rc\r\nd", "data: a\ndata: b\ndata: c\ndata: d\n\n");
        check_data("a\n\rb", "data: a\ndata: \ndata: b\n\n");
        check_data("a\r\r\nb", "data: a\ndata: \ndata: b\n\n");
        check_data("\n", "data: \ndata: \n\n");
        check_data("a\r\n", "data: a\ndata: \n\n");
    }

    #[test]
    fn data_keeps_everything_else() {
        check_data("", "data: \n\n");
        check_data("  x", "data:   x\n\n");
        check_data(":x", "data: :x\n\n");
        check_data("a\0b", "data: a\0b\n\n");
        check_data("\u{FEFF}é", "data: \u{FEFF}é\n\n");
    }

    #[test]
    fn data_cannot_write_fields() {
        check_data(
            "x\rid: 9\r\n\nevent: y",
            "data: x\ndata: id: 9\ndata: \ndata: event: y\n\n",
        );
    }

    #[test]
    fn ids_and_names_cannot_write_fields() {
        check(
            Some("1\n\ndata: x"),
            Some("a\r\nid: 9"),
            "",
            "id: 1\u{FFFD}\u{FFFD}data: x\nevent: a\u{FFFD}\u{FFFD}id: 9\ndata: \n\n",
        );
        check(
            Some("\0"),
            Some("\0a\0"),
            "",
            "id: \u{FFFD}\nevent: \u{FFFD}a\u{FFFD}\ndata: \n\n",
        );
    }

    #[test]
    fn the_hint_is_exact_for_one_line() {
        let event = Event {
            id: Some("1-42"),
            name: Some("tick"),
            data: "{}",
        };
        let mut out = BytesMut::new();
        event.encode(&mut out);
        assert_eq!(out.len(), event.encoded_len_hint());
    }

    #[test]
    fn retry_is_whole_milliseconds() {
        check_block(|out| retry(out, Duration::from_secs(2)), "retry: 2000\n\n");
        check_block(
            |out| retry(out, Duration::from_micros(1999)),
            "retry: 1\n\n",
        );
        check_block(|out| retry(out, Duration::ZERO), "retry: 0\n\n");
    }

    #[test]
    fn every_line_of_a_comment_is_a_comment() {
        check_block(|out| comment(out, "ok"), ": ok\n\n");
        check_block(|out| comment(out, ""), ": \n\n");
        check_block(|out| comment(out, "a\r\ndata: b"), ": a\n: data: b\n\n");
    }
}
