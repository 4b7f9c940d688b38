//! A stream is decoded to the same wherever it is cut, and what was decoded survives encoding.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sse::{Decoder, Event, Item, TooLong};

fuzz_target!(|input: &[u8]| {
    // The first byte is a limit, the second a length of pieces.
    let [limit, piece, stream @ ..] = input else {
        return;
    };
    let limit = match limit {
        255 => sse::DEFAULT_LIMIT,
        limit => usize::from(*limit),
    };
    let whole = decode(limit, stream, usize::MAX);
    assert_eq!(decode(limit, stream, 1), whole);
    assert_eq!(decode(limit, stream, usize::from(*piece).max(1)), whole);

    for item in whole.0 {
        // An encoder does not let a NUL into a name.
        if let Ok(Item::Event(event)) = item
            && !event.name.contains('\0')
        {
            let mut bytes = BytesMut::new();
            let again = Event {
                id: Some(&event.id),
                name: Some(&event.name),
                data: &event.data,
            };
            again.encode(&mut bytes);
            let (items, id) = decode(usize::MAX, &bytes, usize::MAX);
            assert_eq!(id, event.id);
            assert_eq!(items, [Ok(Item::Event(event))]);
        }
    }
});

fn decode(limit: usize, stream: &[u8], piece: usize) -> (Vec<Result<Item, TooLong>>, String) {
    let mut decoder = Decoder::with_limit(limit);
    let mut items = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.feed(piece);
        items.extend(decoder.by_ref());
    }
    (items, decoder.last_event_id().to_owned())
}
