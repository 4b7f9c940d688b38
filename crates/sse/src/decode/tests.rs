//! The standard's examples, the web platform tests, and our own cases.

use super::*;

fn event(id: &str, name: &str, data: &str) -> Item {
    Item::Event(Message {
        id: id.to_owned(),
        name: name.to_owned(),
        data: data.to_owned(),
    })
}

fn message(data: &str) -> Item {
    event("", "message", data)
}

fn retry(millis: u64) -> Item {
    Item::Retry(Duration::from_millis(millis))
}

fn comment(text: &str) -> Item {
    Item::Comment(text.to_owned())
}

fn too_long(limit: usize) -> Result<Item, TooLong> {
    Err(TooLong { limit })
}

/// Decodes `stream` in one piece and byte by byte.
#[track_caller]
fn check_with(limit: usize, stream: &[u8], expected: &[Result<Item, TooLong>]) {
    let mut whole = Decoder::with_limit(limit);
    whole.feed(stream);
    assert_eq!(whole.by_ref().collect::<Vec<_>>(), expected, "in one piece");

    let mut cut = Decoder::with_limit(limit);
    let mut items = Vec::new();
    for byte in stream {
        cut.feed(&[*byte]);
        items.extend(cut.by_ref());
    }
    assert_eq!(items, expected, "byte by byte");
    assert_eq!(cut.last_event_id(), whole.last_event_id());
}

#[track_caller]
fn check(stream: impl AsRef<[u8]>, expected: &[Item]) {
    let expected: Vec<_> = expected.iter().cloned().map(Ok).collect();
    check_with(DEFAULT_LIMIT, stream.as_ref(), &expected);
}

#[track_caller]
fn check_last_id(stream: &str, expected: &str) {
    let mut decoder = Decoder::new();
    decoder.feed(stream.as_bytes());
    decoder.by_ref().for_each(drop);
    assert_eq!(decoder.last_event_id(), expected);
}

// The examples of §9.2.1 and §9.2.6.

#[test]
fn whatwg_introduction() {
    check(
        "data: This is the first message.\n\n\
         data: This is the second message, it\ndata: has two lines.\n\n\
         data: This is the third message.\n\n",
        &[
            message("This is the first message."),
            message("This is the second message, it\nhas two lines."),
            message("This is the third message."),
        ],
    );
    check(
        "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        &[
            event("", "add", "73857293"),
            event("", "remove", "2153"),
            event("", "add", "113411"),
        ],
    );
}

#[test]
fn whatwg_stock_ticker() {
    check(
        "data: YHOO\ndata: +2\ndata: 10\n\n",
        &[message("YHOO\n+2\n10")],
    );
}

#[test]
fn whatwg_four_blocks() {
    check(
        ": test stream\n\ndata: first event\nid: 1\n\n\
         data:second event\nid\n\ndata:  third event\n\n",
        &[
            comment("test stream"),
            event("1", "message", "first event"),
            message("second event"),
            message(" third event"),
        ],
    );
}

#[test]
fn whatwg_two_events_and_a_discarded_block() {
    check("data\n\ndata\ndata\n\ndata:", &[message(""), message("\n")]);
}

#[test]
fn whatwg_identical_events() {
    check(
        "data:test\n\ndata: test\n\n",
        &[message("test"), message("test")],
    );
}

// The streams of the web platform tests, eventsource/format-*.

#[test]
fn wpt_bom() {
    check(
        "\u{FEFF}data:1\n\n\u{FEFF}data:2\n\ndata:3\n\n",
        &[message("1"), message("3")],
    );
    check(
        "\u{FEFF}\u{FEFF}data:1\n\ndata:2\n\ndata:3\n\n",
        &[message("2"), message("3")],
    );
}

#[test]
fn wpt_comments() {
    let long = "x".repeat(2048);
    check(
        format!("data:1\r:\0\n:\r\ndata:2\n:{long}\rdata:3\n:data:fail\r:{long}\ndata:4\n\n"),
        &[
            comment("\0"),
            comment(""),
            comment(&long),
            comment("data:fail"),
            comment(&long),
            message("1\n2\n3\n4"),
        ],
    );
}

#[test]
fn wpt_data_before_final_empty_line() {
    check(
        "retry:1000\ndata:test1\n\nid:test\ndata:test2",
        &[retry(1000), message("test1")],
    );
    check_last_id("retry:1000\ndata:test1\n\nid:test\ndata:test2", "");
}

#[test]
fn wpt_field_data() {
    check(
        "data:\n\ndata\ndata\n\ndata:test\n\n",
        &[message(""), message("\n"), message("test")],
    );
}

#[test]
fn wpt_field_event() {
    check(
        "event:test\ndata:x\n\ndata:x\n\n",
        &[event("", "test", "x"), message("x")],
    );
    check("event: \ndata:data\n\n", &[message("data")]);
}

#[test]
fn wpt_field_id() {
    check(
        "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
        &[
            event("1", "message", "a"),
            event("1", "message", "b"),
            message("c"),
        ],
    );
    check(
        "id: \u{2026}\ndata: a\n\n",
        &[event("\u{2026}", "message", "a")],
    );
}

#[test]
fn wpt_field_id_null() {
    check("id: \0\0\ndata: hello\n\n", &[message("hello")]);
    check(
        "id: 1\nid: 2\0\ndata: hello\n\n",
        &[event("1", "message", "hello")],
    );
}

#[test]
fn wpt_field_parsing() {
    check(
        "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\n\
         data:3\rdata:\r\n data:32\ndata:4\n\n",
        &[message("\0\n 2\n1\n3\n\n4")],
    );
}

#[test]
fn wpt_field_retry() {
    check("retry:03000\ndata:x\n\n", &[retry(3000), message("x")]);
    check(
        "retry:2000\nretry:1000x\ndata:x\n\n",
        &[retry(2000), message("x")],
    );
    check("retry\ndata:test\n\n", &[message("test")]);
}

#[test]
fn wpt_field_unknown() {
    check(
        "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        &[comment("thisisacommentyay"), message("test\n\ntest")],
    );
}

#[test]
fn wpt_leading_space() {
    check(
        "data:\ttest\rdata: \ndata:test\n\n",
        &[message("\ttest\n\ntest")],
    );
}

#[test]
fn wpt_newlines() {
    check(
        "data:test\r\ndata\ndata:test\r\n\r",
        &[message("test\n\ntest")],
    );
}

#[test]
fn wpt_null_character() {
    check("data:\0\n\n\n\n", &[message("\0")]);
}

#[test]
fn wpt_utf_8() {
    check("data:ok\u{2026}\n\n", &[message("ok\u{2026}")]);
}

// What those leave out.

#[test]
fn invalid_utf_8_is_replaced() {
    check(
        b"data: a\xFFb\xE2\x80\n\n",
        &[message("a\u{FFFD}b\u{FFFD}")],
    );
    check(
        b"event: \xC0\nid: \xF0\x9F\ndata\n\n",
        &[event("\u{FFFD}", "\u{FFFD}", "")],
    );
}

#[test]
fn only_the_first_colon_and_one_space_count() {
    check(
        "data: a: b\n\ndata::\n\ndata:  \n\n",
        &[message("a: b"), message(":"), message(" ")],
    );
    check(":  x\n", &[comment(" x")]);
}

#[test]
fn a_type_without_data_is_forgotten() {
    check("event: test\n\ndata: x\n\n", &[message("x")]);
}

#[test]
fn the_last_of_several_types_and_ids_counts() {
    check(
        "event: a\nid: 1\nevent: b\nid: 2\ndata\n\n",
        &[event("2", "b", "")],
    );
    check("event: a\nevent\ndata\n\n", &[message("")]);
}

#[test]
fn a_lone_cr_dispatches_at_once() {
    check("data: x\r\r", &[message("x")]);
    check("data: x\r\n\r", &[message("x")]);
    check(
        "data: x\r\n\r\ndata: y\r\n\r\n",
        &[message("x"), message("y")],
    );
}

#[test]
fn the_id_moves_at_the_blank_line() {
    check_last_id("id: 1\n\n", "1");
    check_last_id("id: 1\n\nid: 2\ndata: x\n", "1");
    check_last_id("id: 1\n\nid\n\n", "");
    check_last_id("id: 1\n\nid: 2\0\n\n", "1");
}

#[test]
fn an_id_without_data_goes_to_the_next_event() {
    check("id: 7\n\ndata: x\n\n", &[event("7", "message", "x")]);
}

#[test]
fn retry_takes_digits_only() {
    for bogus in ["5s", "-1", "+1", "1.5", " 1", "1 ", "", "\u{0663}"] {
        check(format!("retry: {bogus}\n\n"), &[]);
    }
    check("retry:0\n", &[retry(0)]);
    check("retry: 99999999999999999999999\n", &[retry(u64::MAX)]);
}

#[test]
fn an_event_may_be_as_long_as_the_limit() {
    check_with(
        20,
        b"id: 1\ndata: 123456789\n\n",
        &[Ok(event("1", "message", "123456789"))],
    );
    check_with(20, b"id: 1\ndata: 1234567890\n\n", &[too_long(20)]);
    check_with(20, b"data: 12\ndata: 34\ndata: 5\n\n", &[too_long(20)]);
    check_with(0, b"\n\ndata\n\n\n", &[too_long(0)]);
    check_with(0, "\u{FEFF}\n\n:\n".as_bytes(), &[too_long(0)]);
}

#[test]
fn decoding_goes_on_after_a_block_that_is_too_long() {
    check_with(
        12,
        b"id: 1\ndata: 1\n\nid: 2\nevent: x\ndata: 1\ndata: 2\n: no\n\r\ndata: 3\n\n",
        &[
            Ok(event("1", "message", "1")),
            too_long(12),
            Ok(event("1", "message", "3")),
        ],
    );
    check_with(
        4,
        b"longer\nthan that\n\ndata\n\n",
        &[too_long(4), Ok(message(""))],
    );
}

#[test]
fn what_is_not_kept_does_not_count() {
    check_with(
        17,
        b"data: 1\nretry: 1\n: 45678\nid: \0 8\n?: 45678\ndata: 4567\n\n",
        &[Ok(retry(1)), Ok(comment("45678")), Ok(message("1\n4567"))],
    );
}

#[test]
fn a_line_without_end_is_not_kept() {
    let mut decoder = Decoder::with_limit(100);
    let mut errors = 0;
    for _ in 0..1000 {
        decoder.feed(&[b'x'; 100]);
        errors += decoder.by_ref().filter(Result::is_err).count();
        assert!(decoder.lines.unfinished() <= 100);
    }
    assert_eq!(errors, 1);
    decoder.feed(b"\n\ndata: x\n\n");
    assert_eq!(decoder.next(), Some(Ok(message("x"))));
}

#[test]
fn a_restart_keeps_the_last_id_only() {
    let mut decoder = Decoder::with_limit(20);
    decoder.feed(b"id: 1\n\nid: 2\nevent: a\ndata: c");
    assert_eq!(decoder.next(), None);
    decoder.restart();
    assert_eq!(decoder.last_event_id(), "1");
    decoder.feed("\u{FEFF}data: x\n\ndata: 1234567890123456\n\n".as_bytes());
    assert_eq!(decoder.next(), Some(Ok(event("1", "message", "x"))));
    assert_eq!(decoder.next(), Some(too_long(20)));
}
