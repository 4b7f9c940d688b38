//! A cursor is read exactly as it is printed.

#![no_main]

use hub::{Cursor, Epoch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u32, u64)| {
    let (text, epoch, seq) = input;
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
    let cursor = Cursor {
        epoch: Epoch::new(epoch),
        seq,
    };
    let text = cursor.to_string();
    assert_eq!(text.parse(), Ok(cursor));
    // Nothing for which a browser would ask permission.
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    assert!(text.len() <= 128 && text.bytes().all(is_safe));
});
