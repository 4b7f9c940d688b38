//! Whatever a request asks for, it is answered; and what was understood, written down plainly,
//! is understood the same.

#![no_main]

use http::{HeaderMap, HeaderValue, Uri};
use hub::Filter;
use libfuzzer_sys::fuzz_target;
use server::parse_query;

// The first line is the query, the rest is `Last-Event-ID`, if there is any.
fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |&byte| byte == b'\n');
    let query = parts.next().unwrap_or_default();
    let Ok(uri) = Uri::try_from([b"/v1/stream?", query].concat()) else {
        return;
    };
    let mut headers = HeaderMap::new();
    if let Some(id) = parts.next() {
        let Ok(id) = HeaderValue::from_bytes(id) else {
            return;
        };
        headers.insert("last-event-id", id);
    }
    match parse_query(&uri, &headers) {
        Ok((filter, last, after)) => {
            let plain = plain(&filter, last, after.as_deref()).parse();
            let again = parse_query(&plain.expect("it is all escaped"), &HeaderMap::new());
            assert_eq!(again, Ok((filter, last, after)));
        }
        Err(why) => assert!(!why.is_empty()),
    }
});

fn plain(filter: &Filter, last: Option<usize>, after: Option<&str>) -> String {
    let path = "/v1/stream?".to_owned();
    let start = path.len();
    let mut query = form_urlencoded::Serializer::for_suffix(path, start);
    for pattern in filter.patterns() {
        query.append_pair("topic", pattern.as_str());
    }
    if let Some(count) = last {
        assert!(count <= 10_000 && after.is_none());
        query.append_pair("last", &count.to_string());
    }
    if let Some(text) = after {
        query.append_pair("last_event_id", text);
    }
    query.finish()
}
