//! `POST /v1/events`: publishes one event or several.

use auth::Identity;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hub::Topic;
use hyper::body::Incoming;
use pg::{Draft, Publication, Published};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::time::Duration;
use tokio::time;

use crate::{
    App, Edge,
    limits::{Client, Limit},
    response::{self, Body, Refusal},
};

/// Most bytes in a request if nothing is said: four events of the largest size.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Most events in a request.
pub(crate) const MAX_EVENTS: usize = 1000;

/// Most bytes of data in an event. The database's own limit is the same.
const MAX_DATA_BYTES: usize = 256 * 1024;

/// How deep arrays and objects may be nested in an event's data: as deep as most programs read
/// them. Postgres fails the whole transaction where its stack ends.
const MAX_DEPTH: usize = 128;

/// Most bytes of a name, a key or an idempotency key.
const MAX_NAME_BYTES: usize = 255;

/// An event as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEvent {
    topic: String,
    event: String,
    key: Option<String>,
    data: Box<RawValue>,
    #[serde(default)]
    retain: bool,
}

/// Why a request to publish is refused.
#[derive(Debug)]
pub(crate) enum InvalidPublication {
    /// Not announced as JSON. Anything else a page of another origin may send unasked.
    NotJson,
    /// Over so many bytes.
    TooLarge(usize),
    /// It did not come within this time.
    TooSlow(Duration),
    /// It broke off.
    Incomplete,
    /// Not the JSON that is expected: where and why.
    Malformed(String),
    /// No event, or over [`MAX_EVENTS`].
    Count(usize),
    /// Something is wrong with the event at this place.
    Event(usize, String),
    /// The header `Idempotency-Key`.
    IdempotencyKey,
}

/// Publishes what a request says, and answers once it is durable.
pub(crate) async fn publish(
    app: &App,
    identity: &Identity,
    client: &Client,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let too_fast = |wait| Refusal::TooFast { wait };
    // Before anything is read: a flood is to cost next to nothing.
    app.edge.admit_events(client, 1).map_err(too_fast)?;
    let read = read(request, &app.edge).await;
    let mut publication = read.map_err(Refusal::BadPublication)?;
    let mut topics = publication.events.iter().map(|event| &event.topic);
    if let Some(topic) = topics.find(|topic| !identity.grants.may_publish(topic)) {
        return Err(Refusal::MayNotPublish(topic.clone()));
    }
    let more = publication.events.len() - 1;
    app.edge.admit_events(client, more).map_err(too_fast)?;
    // Nobody can take a key away from somebody else.
    let key = publication.idempotency_key;
    publication.idempotency_key = key.map(|key| identity.own_name(&key));
    match app.publisher.publish(publication).await {
        Ok(Published::At(places)) => {
            let ids: Vec<_> = places.iter().map(ToString::to_string).collect();
            Ok(response::json(StatusCode::CREATED, &json!({"ids": ids})))
        }
        Ok(Published::Unplaced) => Ok(response::json(StatusCode::ACCEPTED, &json!({"ids": null}))),
        Ok(Published::KeyInUse) => Err(Refusal::IdempotencyConflict),
        Err(error) => {
            tracing::warn!(error = %pg::chain(&*error), "cannot publish");
            Err(Refusal::NoDatabase)
        }
    }
}

async fn read(request: Request<Incoming>, edge: &Edge) -> Result<Publication, InvalidPublication> {
    let (head, mut body) = request.into_parts();
    if !is_json(&head.headers) {
        return Err(InvalidPublication::NotJson);
    }
    let idempotency_key = idempotency_key(&head.headers)?;
    let limits = edge.limits;
    let collect = async {
        let collected = Limited::new(&mut body, limits.body_bytes).collect().await;
        if collected.is_err() {
            discard(&mut body, limits.body_bytes).await;
        }
        collected
    };
    let Ok(body) = time::timeout(limits.request_time, collect).await else {
        edge.refusals.count(Limit::Time);
        return Err(InvalidPublication::TooSlow(limits.request_time));
    };
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            edge.refusals.count(Limit::Body);
            InvalidPublication::TooLarge(limits.body_bytes)
        } else {
            InvalidPublication::Incomplete
        }
    })?;
    parse(body.to_bytes(), idempotency_key)
}

/// Reads on what nobody wants, so many bytes at most. Who is still sending when the connection is
/// closed may never see the answer; a proxy then makes up one of its own.
async fn discard(body: &mut Incoming, most: usize) {
    let mut read = 0;
    while read < most
        && let Some(Ok(frame)) = body.frame().await
    {
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}

fn parse(body: Bytes, idempotency_key: Option<String>) -> Result<Publication, InvalidPublication> {
    let malformed =
        |error: &dyn std::fmt::Display| InvalidPublication::Malformed(error.to_string());
    let request = String::from_utf8(body.into()).map_err(|error| malformed(&error))?;
    let is_array = request.trim_ascii_start().starts_with('[');
    let events: Vec<NewEvent> = if is_array {
        serde_json::from_str(&request).map_err(|error| malformed(&error))?
    } else {
        vec![serde_json::from_str(&request).map_err(|error| malformed(&error))?]
    };
    if events.is_empty() || events.len() > MAX_EVENTS {
        return Err(InvalidPublication::Count(events.len()));
    }
    let drafts = events.into_iter().enumerate().map(|(i, event)| {
        event
            .into_draft()
            .map_err(|why| InvalidPublication::Event(i, why))
    });
    Ok(Publication {
        events: drafts.collect::<Result<_, _>>()?,
        idempotency_key,
        request,
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        let essence = text.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, InvalidPublication> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_NAME_BYTES => Ok(Some(key.to_owned())),
        _ => Err(InvalidPublication::IdempotencyKey),
    }
}

impl NewEvent {
    /// What may go into the database: there, nothing may fail, as others are on the same boat.
    fn into_draft(self) -> Result<Draft, String> {
        let topic = Topic::new(&self.topic)
            .map_err(|why| format!("{:?} is no topic: {why}", self.topic))?;
        if self.event.is_empty() || self.event.len() > MAX_NAME_BYTES {
            return Err(format!("its name has from 1 to {MAX_NAME_BYTES} bytes"));
        }
        if self.event.contains(|c: char| c.is_ascii_control()) {
            return Err("its name has a control character".to_owned());
        }
        if matches!(self.event.as_str(), "heartbeat" | "gap" | "expired") {
            return Err(format!(
                "{:?} is a name that the hub itself uses",
                self.event
            ));
        }
        if let Some(key) = &self.key
            && (key.len() > MAX_NAME_BYTES || key.contains('\0'))
        {
            return Err(format!(
                "its key has up to {MAX_NAME_BYTES} bytes, and none of them zero"
            ));
        }
        let data = self.data.get();
        if data.len() > MAX_DATA_BYTES {
            let bytes = data.len();
            return Err(format!("its data has {bytes} bytes, over {MAX_DATA_BYTES}"));
        }
        if depth(data) > MAX_DEPTH {
            return Err(format!("its data is nested more than {MAX_DEPTH} deep"));
        }
        Ok(Draft {
            topic,
            name: self.event,
            key: self.key,
            data: data.to_owned(),
            retain: self.retain,
        })
    }
}

/// How deep arrays and objects are nested in a text that is known to be JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0, 0);
    let mut bytes = json.bytes();
    let mut is_text = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_text = !is_text,
            b'\\' if is_text => drop(bytes.next()),
            b'[' | b'{' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_text => depth -= 1,
            _ => {}
        }
    }
    deepest
}

impl InvalidPublication {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl std::fmt::Display for InvalidPublication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const EXAMPLE: &str =
            r#"{"topic": "orders", "event": "placed", "data": {"id": 7}}, or an array of such"#;
        match self {
            Self::NotJson => f.write_str("the header `Content-Type: application/json` is missing"),
            Self::TooLarge(limit) => {
                write!(f, "the body has over {limit} bytes: send it in parts")
            }
            Self::TooSlow(limit) => write!(f, "the body did not come within {limit:?}"),
            Self::Incomplete => f.write_str("the body broke off"),
            Self::Malformed(why) => write!(f, "not what is expected, {EXAMPLE}: {why}"),
            Self::Count(count) => {
                write!(
                    f,
                    "{count} events: there must be from 1 to {MAX_EVENTS} in a request"
                )
            }
            Self::Event(i, why) => write!(f, "event {i}: {why}. Nothing was published"),
            Self::IdempotencyKey => {
                write!(
                    f,
                    "an Idempotency-Key has from 1 to {MAX_NAME_BYTES} printable characters"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses(body: &str, part: &str) {
        let refused = parse(Bytes::copy_from_slice(body.as_bytes()), None).unwrap_err();
        assert!(refused.to_string().contains(part), "{refused}");
    }

    #[test]
    fn one_or_several() {
        let one =
            r#"{"topic":"a.b","event":"n","data":{"x":1.50, "y":[]},"key":"k","retain":true}"#;
        let parsed = parse(one.into(), None).unwrap();
        assert_eq!(parsed.events[0].data, r#"{"x":1.50, "y":[]}"#);
        assert!(parsed.events[0].retain);
        let two = format!(" [{one}, {one}]");
        assert_eq!(parse(two.into(), None).unwrap().events.len(), 2);
    }

    #[test]
    fn how_deep_it_is_nested() {
        for (json, expected) in [
            ("1", 0),
            ("[]", 1),
            (r#"[{"a": [1, 2]}, []]"#, 3),
            (r#"["[[[", {"]\\\"[[": "}"}]"#, 2),
            (r#"["\\\\", [[]]]"#, 3),
        ] {
            assert_eq!(depth(json), expected, "{json}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        refuses("", "EOF while parsing");
        refuses("[]", "0 events");
        refuses(r#"{"topic":"a","event":"n"}"#, "missing field `data`");
        refuses(
            r#"{"topic":"a","event":"n","data":1,"x":2}"#,
            "unknown field `x`",
        );
        refuses(
            r#"{"topic":"a..b","event":"n","data":1}"#,
            "\"a..b\" is no topic",
        );
        refuses(
            r#"{"topic":"a.>","event":"n","data":1}"#,
            "\"a.>\" is no topic",
        );
        refuses(
            r#"{"topic":"a","event":"gap","data":1}"#,
            "the hub itself uses",
        );
        refuses(
            "{\"topic\":\"a\",\"event\":\"x\\ny\",\"data\":1}",
            "control character",
        );
        refuses(
            "{\"topic\":\"a\",\"event\":\"x\",\"key\":\"\\u0000\",\"data\":1}",
            "none of them zero",
        );
        refuses(
            r#"[{"topic":"a","event":"n","data":1},{"topic":"","event":"n","data":1}]"#,
            "event 1",
        );
        let large = format!(
            r#"{{"topic":"a","event":"n","data":"{}"}}"#,
            "x".repeat(MAX_DATA_BYTES)
        );
        refuses(&large, "over 262144");
    }
}
