//! What a stream request asks for.

use auth::Identity;
use http::{HeaderMap, Uri, header};
use hub::{Filter, Form, InvalidFilter};
use std::{fmt, time::SystemTime};

use crate::{
    frame::{ENVELOPE, LINES, PLAIN},
    gate,
    response::Refusal,
};

/// Most events that `last=` may ask for.
pub(crate) const MAX_LAST: usize = 10_000;

/// Most events in an answer of `/v1/events`, and how many if nothing is said.
const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;

/// A stream that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StreamQuery {
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    /// When it is to end, as who asks may read no longer.
    pub(crate) expires: Option<SystemTime>,
}

/// Where a stream is to begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what happens next.
    Now,
    /// With the last so many events.
    Last(usize),
    /// After a position, as the client remembers it: any text.
    After(String),
}

/// Why a request asks for no stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InvalidQuery {
    Filter(InvalidFilter),
    Last(String),
    Limit(String),
    Envelope(String),
    Names,
    /// More topics than this hub takes.
    Patterns(usize),
    Unknown(String),
}

impl StreamQuery {
    /// Reads a request. `Last-Event-ID` counts before `last_event_id=`, and either before
    /// `last=`, which a browser repeats when it reconnects.
    pub(crate) fn parse(uri: &Uri, headers: &HeaderMap) -> Result<Self, InvalidQuery> {
        let (mut topics, mut names) = (Vec::new(), Vec::new());
        let mut last = None;
        let mut last_event_id = None;
        let mut form = PLAIN;
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
            match &*name {
                "topic" => topics.push(value),
                "event" => names.push(value),
                "last" => last = Some(parse_last(&value)?),
                "last_event_id" => last_event_id = Some(value.into_owned()),
                "envelope" => form = parse_envelope(&value)?,
                "token" => {} // the gate's
                _ => return Err(InvalidQuery::Unknown(name.into_owned())),
            }
        }
        if wants_lines(headers) {
            form = LINES;
        }
        if let Some(header) = headers.get("last-event-id") {
            last_event_id = Some(String::from_utf8_lossy(header.as_bytes()).into_owned());
        }
        let filter = filter(&topics, &names)?.in_form(form);
        let start = match (last_event_id, last) {
            // A client that was never given an id has none, and may say so.
            (Some(text), _) if !text.is_empty() => Start::After(text),
            (_, Some(count)) => Start::Last(count),
            _ => Start::Now,
        };
        Ok(Self {
            filter,
            start,
            expires: None,
        })
    }

    /// So much of it as somebody may read, and for so long.
    pub(crate) fn for_(self, identity: &Identity) -> Result<Self, Refusal> {
        Ok(Self {
            filter: gate::narrow(self.filter, identity)?,
            start: self.start,
            expires: identity.expires,
        })
    }

    /// The same, if it has no more topics than this.
    pub(crate) fn up_to(self, patterns: usize) -> Result<Self, InvalidQuery> {
        if self.filter.patterns().len() > patterns {
            return Err(InvalidQuery::Patterns(patterns));
        }
        Ok(self)
    }
}

/// What is asked of `GET /v1/events`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EventsQuery {
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    /// Most events in the answer.
    pub(crate) limit: usize,
}

impl EventsQuery {
    /// Reads a request. `after=` counts before `last=`.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, InvalidQuery> {
        let (mut topics, mut names) = (Vec::new(), Vec::new());
        let (mut last, mut after, mut limit) = (None, None, DEFAULT_LIMIT);
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
            match &*name {
                "topic" => topics.push(value),
                "event" => names.push(value),
                "last" => last = Some(parse_last(&value)?),
                "after" => after = Some(value.into_owned()),
                "limit" => limit = parse_limit(&value)?,
                "token" => {} // the gate's
                _ => return Err(InvalidQuery::Unknown(name.into_owned())),
            }
        }
        let start = match (after, last) {
            (Some(text), _) if !text.is_empty() => Start::After(text),
            (_, Some(count)) => Start::Last(count),
            _ => Start::Last(limit),
        };
        Ok(Self {
            filter: filter(&topics, &names)?,
            start,
            limit,
        })
    }

    /// So much of it as somebody may read.
    pub(crate) fn for_(self, identity: &Identity) -> Result<Self, Refusal> {
        Ok(Self {
            filter: gate::narrow(self.filter, identity)?,
            ..self
        })
    }
}

fn filter(topics: &[impl AsRef<str>], names: &[impl AsRef<str>]) -> Result<Filter, InvalidQuery> {
    if names.len() > hub::MAX_PATTERNS {
        return Err(InvalidQuery::Names);
    }
    let filter = Filter::new(topics.iter().map(AsRef::as_ref)).map_err(InvalidQuery::Filter)?;
    Ok(filter.with_names(names))
}

fn wants_lines(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).into_iter();
    let mut accept = accept.filter_map(|value| value.to_str().ok());
    accept.any(|text| text.contains("application/x-ndjson"))
}

fn parse_envelope(text: &str) -> Result<Form, InvalidQuery> {
    match text {
        "1" => Ok(ENVELOPE),
        "0" => Ok(PLAIN),
        _ => Err(InvalidQuery::Envelope(text.to_owned())),
    }
}

fn parse_limit(text: &str) -> Result<usize, InvalidQuery> {
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| InvalidQuery::Limit(text.to_owned()))
}

fn parse_last(text: &str) -> Result<usize, InvalidQuery> {
    let count = text.parse().ok().filter(|&count| count <= MAX_LAST);
    count.ok_or_else(|| InvalidQuery::Last(text.to_owned()))
}

impl fmt::Display for InvalidQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(InvalidFilter::Empty) => f.write_str(
                "no topic is named: add topic=PATTERN, for example topic=orders, topic=org.*.alerts or topic=> for all",
            ),
            Self::Filter(why) => write!(f, "{why}"),
            Self::Last(text) => write!(f, "last={text:?} is not a number from 0 to {MAX_LAST}"),
            Self::Limit(text) => write!(f, "limit={text:?} is not a number from 1 to {MAX_LIMIT}"),
            Self::Envelope(text) => write!(f, "envelope={text:?} is neither 1 nor 0"),
            Self::Names => write!(f, "more than {} events are named", hub::MAX_PATTERNS),
            Self::Patterns(limit) => {
                write!(f, "more than {limit} topics are named: this hub takes no more")
            }
            Self::Unknown(name) => write!(
                f,
                "{name:?} is no parameter: a stream has topic, event, last, last_event_id, envelope \
                 and token, and /v1/events has topic, event, last, after, limit and token"
            ),
        }
    }
}

impl std::error::Error for InvalidQuery {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    #[track_caller]
    fn check(query: &str, header: Option<&str>, expected: Result<Start, &str>) {
        let uri: Uri = format!("/v1/stream{query}").parse().unwrap();
        let mut headers = HeaderMap::new();
        if let Some(id) = header {
            headers.insert("Last-Event-ID", id.parse().unwrap());
        }
        let start = StreamQuery::parse(&uri, &headers).map(|query| query.start);
        match (start, expected) {
            (Ok(start), Ok(expected)) => assert_eq!(start, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (start, expected) => panic!("{start:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn where_to_start() {
        check("?topic=a", None, Ok(Start::Now));
        check("?topic=a&last=5", None, Ok(Start::Last(5)));
        check(
            "?topic=a&last=5",
            Some("x-1"),
            Ok(Start::After("x-1".to_owned())),
        );
        check(
            "?topic=a&last_event_id=y-1",
            None,
            Ok(Start::After("y-1".to_owned())),
        );
        check(
            "?topic=a&last_event_id=y-1",
            Some("x-1"),
            Ok(Start::After("x-1".to_owned())),
        );
        check("?topic=a&last_event_id=&last=2", None, Ok(Start::Last(2)));
        check("?topic=a&last_event_id=y-1", Some(""), Ok(Start::Now));
    }

    #[test]
    fn refuses() {
        check("", None, Err("no topic is named"));
        check("?topic=", None, Err("it is empty"));
        check("?topic=a..b", None, Err("\"a..b\" is no topic pattern"));
        check("?topic=a&last=-1", None, Err("last=\"-1\" is not a number"));
        check("?topic=a&last=10001", None, Err("from 0 to 10000"));
        check("?topics=a", None, Err("\"topics\" is no parameter"));
    }

    #[test]
    fn topics_are_decoded() {
        let uri: Uri = "/v1/stream?topic=org.%2A.%3E&topic=gr%C3%B6%C3%9Fe"
            .parse()
            .unwrap();
        let query = StreamQuery::parse(&uri, &HeaderMap::new()).unwrap();
        let expected = Filter::new(["größe", "org.*.>"]).unwrap();
        assert_eq!(query.filter, expected.in_form(PLAIN));
    }

    proptest! {
        #[test]
        fn any_request_is_read_as_it_is_written(query in query(), id in header()) {
            let Ok(uri) = format!("/v1/stream?{query}").parse::<Uri>() else {
                return Ok(());
            };
            let mut headers = HeaderMap::new();
            if let Some(id) = &id {
                headers.insert("Last-Event-ID", http::HeaderValue::from_bytes(id).unwrap());
            }
            prop_assert_eq!(StreamQuery::parse(&uri, &headers), reference(&query, id.as_deref()));
        }

        #[test]
        fn no_request_panics(path in vec(33_u8..=255, 0..200), id in header()) {
            let mut headers = HeaderMap::new();
            if let Some(id) = &id {
                headers.insert("Last-Event-ID", http::HeaderValue::from_bytes(id).unwrap());
            }
            if let Ok(uri) = Uri::try_from([b"/?", &*path].concat()) {
                let _ = StreamQuery::parse(&uri, &headers);
            }
        }
    }

    /// The same in plain steps: split, decode, look at what is there.
    fn reference(query: &str, header: Option<&[u8]>) -> Result<StreamQuery, InvalidQuery> {
        let pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        for (name, value) in &pairs {
            let is_number = value.parse::<u16>().is_ok_and(|count| count <= 10_000);
            match name.as_str() {
                "topic" | "event" | "last_event_id" | "token" => {}
                "envelope" if value == "0" || value == "1" => {}
                "envelope" => return Err(InvalidQuery::Envelope(value.clone())),
                "last" if is_number => {}
                "last" => return Err(InvalidQuery::Last(value.clone())),
                _ => return Err(InvalidQuery::Unknown(name.clone())),
            }
        }
        let all = |wanted: &'static str| {
            let wanted = pairs.iter().filter(move |(name, _)| name == wanted);
            wanted.map(|(_, value)| value.as_str())
        };
        let filter = Filter::new(all("topic")).map_err(InvalidQuery::Filter)?;
        let form = match all("envelope").next_back() {
            Some("1") => ENVELOPE,
            _ => PLAIN,
        };
        let filter = filter.with_names(all("event")).in_form(form);
        let id = header.map_or_else(
            || {
                all("last_event_id")
                    .next_back()
                    .unwrap_or_default()
                    .to_owned()
            },
            |id| String::from_utf8_lossy(id).into_owned(),
        );
        let start = match all("last").next_back() {
            _ if !id.is_empty() => Start::After(id),
            Some(count) => Start::Last(count.parse().unwrap()),
            None => Start::Now,
        };
        Ok(StreamQuery {
            filter,
            start,
            expires: None,
        })
    }

    fn decode(text: &str) -> String {
        let mut bytes = text.as_bytes();
        let mut decoded = Vec::new();
        while let [first, rest @ ..] = bytes {
            let hex = rest
                .get(..2)
                .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            match (first, hex) {
                (b'%', Some(hex)) => {
                    let hex = std::str::from_utf8(hex).unwrap();
                    decoded.push(u8::from_str_radix(hex, 16).unwrap());
                    bytes = &rest[2..];
                }
                (b'+', _) => {
                    decoded.push(b' ');
                    bytes = rest;
                }
                (byte, _) => {
                    decoded.push(*byte);
                    bytes = rest;
                }
            }
        }
        String::from_utf8_lossy(&decoded).into_owned()
    }

    /// Often almost a query, with escapes that are right, wrong and cut short.
    fn query() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            proptest::sample::select(vec![
                "topic=",
                "last=",
                "last_event_id=",
                "&topic=",
                "&last=",
                "&last_event_id=",
                "event=",
                "&event=",
                "&envelope=",
                "&token=",
                "1",
                "&",
                "=",
                "+",
                "%",
                "a",
                "a.%2A",
                ".%3E",
                "7",
                "10000",
                "10001",
                "-",
                "%2B1",
                "7f3a01c2-1",
                "%C3%B6",
                "t%6Fpic=",
                "%00",
                "%0a",
            ])
            .prop_map(str::to_owned),
            any::<u8>().prop_map(|byte| format!("%{byte:02X}")),
            "[!$-;=?-Z_a-z~]",
        ];
        vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn header() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::weighted(0.2, vec(prop_oneof![32_u8..127, 128_u8..=255], 0..20))
    }
}
