//! What a stream request asks for.

use http::{HeaderMap, Uri};
use hub::{Filter, InvalidFilter};
use std::fmt;

/// Most events that `last=` may ask for.
pub(crate) const MAX_LAST: usize = 10_000;

/// A stream that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StreamQuery {
    pub(crate) filter: Filter,
    pub(crate) start: Start,
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
    Unknown(String),
}

impl StreamQuery {
    /// Reads a request. `Last-Event-ID` counts before `last_event_id=`, and either before
    /// `last=`, which a browser repeats when it reconnects.
    pub(crate) fn parse(uri: &Uri, headers: &HeaderMap) -> Result<Self, InvalidQuery> {
        let mut topics = Vec::new();
        let mut last = None;
        let mut last_event_id = None;
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
            match &*name {
                "topic" => topics.push(value),
                "last" => last = Some(parse_last(&value)?),
                "last_event_id" => last_event_id = Some(value.into_owned()),
                _ => return Err(InvalidQuery::Unknown(name.into_owned())),
            }
        }
        if let Some(header) = headers.get("last-event-id") {
            last_event_id = Some(String::from_utf8_lossy(header.as_bytes()).into_owned());
        }
        let filter =
            Filter::new(topics.iter().map(|topic| &**topic)).map_err(InvalidQuery::Filter)?;
        let start = match (last_event_id, last) {
            // A client that was never given an id has none, and may say so.
            (Some(text), _) if !text.is_empty() => Start::After(text),
            (_, Some(count)) => Start::Last(count),
            _ => Start::Now,
        };
        Ok(Self { filter, start })
    }
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
            Self::Unknown(name) => {
                write!(f, "{name:?} is no parameter of a stream: topic, last and last_event_id are")
            }
        }
    }
}

impl std::error::Error for InvalidQuery {}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(query.filter, Filter::new(["größe", "org.*.>"]).unwrap());
    }
}
