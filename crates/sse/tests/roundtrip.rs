//! What is encoded decodes to the same, and any bytes decode as the standard
//! says, wherever the stream is cut.

use std::time::Duration;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use sse::{Decoder, Event, Item, Message, TooLong};

/// One block as a server would write it.
#[derive(Clone, Debug)]
enum Block {
    Event {
        id: Option<String>,
        name: Option<String>,
        data: String,
    },
    Checkpoint(String),
    Retry(Duration),
    Comment(String),
}

// A failure prints its case; one worth keeping becomes a unit test with a name.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_encoded_is_decoded(blocks in vec(block(), 0..8), cuts in cuts()) {
        let mut stream = BytesMut::new();
        for block in &blocks {
            encode(block, &mut stream);
        }
        let (items, last_event_id) = decode(Decoder::new(), &stream, &cuts);
        let (expected_items, expected_id) = expected(&blocks);
        prop_assert_eq!(items, expected_items);
        prop_assert_eq!(last_event_id, expected_id);
    }

    #[test]
    fn any_bytes_decode_as_the_standard_says(stream in soup(), cuts in cuts()) {
        let (items, last_event_id) = decode(Decoder::new(), &stream, &cuts);
        let (expected_items, expected_id) = reference(&stream);
        prop_assert_eq!(items, expected_items);
        prop_assert_eq!(last_event_id, expected_id);
    }

    #[test]
    fn cuts_change_nothing(stream in soup(), cuts in cuts(), limit in 0_usize..64) {
        let whole = decode(Decoder::with_limit(limit), &stream, &[usize::MAX]);
        prop_assert_eq!(&decode(Decoder::with_limit(limit), &stream, &cuts), &whole);
        prop_assert_eq!(&decode(Decoder::with_limit(limit), &stream, &[1]), &whole);
    }

    #[test]
    fn no_bytes_panic(stream in vec(any::<u8>(), 0..512), cuts in cuts()) {
        decode(Decoder::with_limit(32), &stream, &cuts);
        prop_assert_eq!(decode(Decoder::new(), &stream, &cuts), reference(&stream));
    }
}

/// In time that grows with the square of the length, this takes minutes.
#[test]
fn a_long_line_byte_by_byte_takes_linear_time() {
    let data = "x".repeat(1 << 20);
    let mut stream = BytesMut::new();
    let event = Event {
        data: &data,
        ..Event::default()
    };
    event.encode(&mut stream);
    let (items, _) = decode(Decoder::new(), &stream, &[1]);
    assert_eq!(items, [Ok(message("", "message", &data))]);
}

fn encode(block: &Block, out: &mut BytesMut) {
    match block {
        Block::Event { id, name, data } => Event {
            id: id.as_deref(),
            name: name.as_deref(),
            data,
        }
        .encode(out),
        Block::Checkpoint(id) => {
            out.extend_from_slice(format!("id: {}\n\n", harmless(id)).as_bytes());
        }
        Block::Retry(after) => sse::retry(out, *after),
        Block::Comment(text) => sse::comment(out, text),
    }
}

/// Feeds `stream` in pieces of the lengths in `cuts`, over and over.
fn decode(
    mut decoder: Decoder,
    mut stream: &[u8],
    cuts: &[usize],
) -> (Vec<Result<Item, TooLong>>, String) {
    let mut items = Vec::new();
    for cut in cuts.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at(stream.len().min(*cut));
        decoder.feed(piece);
        items.extend(decoder.by_ref());
        stream = rest;
    }
    (items, decoder.last_event_id().to_owned())
}

/// What a client must see of `blocks`.
fn expected(blocks: &[Block]) -> (Vec<Result<Item, TooLong>>, String) {
    let mut items = Vec::new();
    let mut last_event_id = String::new();
    for block in blocks {
        match block {
            Block::Event { id, name, data } => {
                if let Some(id) = id {
                    last_event_id = harmless(id);
                }
                let name = name.as_ref().filter(|name| !name.is_empty());
                let name = name.map_or("message".to_owned(), |name| harmless(name));
                items.push(Ok(message(&last_event_id, &name, &unix(data))));
            }
            Block::Checkpoint(id) => last_event_id = harmless(id),
            Block::Retry(after) => {
                let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                items.push(Ok(Item::Retry(Duration::from_millis(millis))));
            }
            Block::Comment(text) => {
                let text = unix(text);
                items.extend(text.split('\n').map(|line| Ok(Item::Comment(line.into()))));
            }
        }
    }
    (items, last_event_id)
}

/// §9.2.6, word for word, on the whole text at once.
fn reference(stream: &[u8]) -> (Vec<Result<Item, TooLong>>, String) {
    let text = String::from_utf8_lossy(stream);
    let text = unix(text.strip_prefix('\u{FEFF}').unwrap_or(&text));
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop(); // what no line end follows

    let mut items = Vec::new();
    let mut last_event_id = String::new();
    let (mut data_buffer, mut type_buffer, mut id_buffer) =
        (String::new(), String::new(), String::new());
    for line in lines {
        if line.is_empty() {
            last_event_id.clone_from(&id_buffer);
            if !data_buffer.is_empty() {
                data_buffer.pop();
                let name = if type_buffer.is_empty() {
                    "message"
                } else {
                    &type_buffer
                };
                items.push(Ok(message(&last_event_id, name, &data_buffer)));
            }
            data_buffer.clear();
            type_buffer.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => items.push(Ok(Item::Comment(value.to_owned()))),
            "event" => value.clone_into(&mut type_buffer),
            "data" => {
                data_buffer.push_str(value);
                data_buffer.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut id_buffer),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() => {
                let millis = value.parse().unwrap_or(u64::MAX);
                items.push(Ok(Item::Retry(Duration::from_millis(millis))));
            }
            _ => {}
        }
    }
    (items, last_event_id)
}

fn message(id: &str, name: &str, data: &str) -> Item {
    Item::Event(Message {
        id: id.to_owned(),
        name: name.to_owned(),
        data: data.to_owned(),
    })
}

fn unix(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fn harmless(text: &str) -> String {
    text.replace(['\r', '\n', '\0'], "\u{FFFD}")
}

fn block() -> impl Strategy<Value = Block> {
    let id = || proptest::option::of(odd_text());
    prop_oneof![
        6 => (id(), id(), data()).prop_map(|(id, name, data)| Block::Event { id, name, data }),
        1 => odd_text().prop_map(Block::Checkpoint),
        1 => any::<Duration>().prop_map(Block::Retry),
        1 => odd_text().prop_map(Block::Comment),
    ]
}

fn data() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => odd_text(),
        1 => (odd_text(), 1_usize..2000).prop_map(|(text, times)| text.repeat(times)),
    ]
}

/// Text made of what has a meaning somewhere in the format.
fn odd_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => proptest::sample::select(vec![
            "\r", "\n", "\r\n", "\0", ":", " ", "\u{FEFF}", "\u{FFFD}", "\u{2028}", "\u{85}",
            "é", "🔔", "id: 9", "event:x", "data", "retry: 1", "{\"a\":1}", "message",
        ])
        .prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Bytes that are often almost a stream.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => proptest::sample::select(vec!["\r", "\n", "\r\n", "\n\n", "\r\r", "\r\n\r\n"])
            .prop_map(|end| end.as_bytes().to_vec()),
        4 => proptest::sample::select(vec!["data", "event", "id", "retry", "data: ", "id:", ":"])
            .prop_map(|field| field.as_bytes().to_vec()),
        4 => proptest::sample::select(b"dat: \r\n\0\xEF\xBB\xBF\xFF\xC3\xA97".to_vec())
            .prop_map(|byte| vec![byte]),
        1 => Just("\u{FEFF}".as_bytes().to_vec()),
    ];
    vec(piece, 0..64).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![Just(1), 1_usize..8, 8_usize..4096], 1..8)
}
