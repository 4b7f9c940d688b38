//! Responses that are not streams, and what status an error has.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hub::{NotGranted, Topic};
use serde_json::json;
use std::time::Duration;

use crate::{EventBody, gate::Unauthorized, publish::InvalidPublication, query::InvalidQuery};

/// The body of any response: a stream, or a whole text.
pub(crate) type Body = Either<EventBody, Full<Bytes>>;

/// A refusal.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nothing is at this path.
    NotFound { path: String },
    /// The path exists, but not for this method.
    MethodNotAllowed { allowed: &'static str },
    /// The request cannot be understood.
    BadQuery(InvalidQuery),
    /// The request asks for something to be published that cannot be.
    BadPublication(InvalidPublication),
    /// Its idempotency key was another request's.
    IdempotencyConflict,
    /// Too much was published in too short a time: how long to wait.
    TooFast { wait: Duration },
    /// The database does not answer.
    NoDatabase,
    /// Nobody is let in like that.
    Unauthorized(Unauthorized),
    /// It has several tokens that differ.
    SeveralTokens,
    /// It came with a cookie, from a page of another origin; or that asks what it may do.
    Origin,
    /// It asks for topics that are not granted.
    NotGranted(NotGranted),
    /// It publishes on a topic that is not granted.
    MayNotPublish(Topic),
    /// It asks about the hub itself, and that is not granted.
    MayNotLook,
    /// The keys that tokens are verified with could not be had yet.
    NoKeys,
}

impl Refusal {
    /// All that [`Self::denial`] may say.
    pub(crate) const DENIALS: [&str; 17] = [
        "no_token",
        "not_bearer",
        "malformed",
        "algorithm",
        "unknown_key",
        "signature",
        "expired",
        "not_yet",
        "issuer",
        "audience",
        "missing_claim",
        "claim",
        "lives_too_long",
        "origin",
        "subscribe",
        "publish",
        "metrics",
    ];

    /// Why somebody is not let in (401) or may not do this (403), in one word.
    pub(crate) fn denial(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unauthorized(why) => why.name(),
            Self::Origin => "origin",
            Self::NotGranted(NotGranted::Pattern(_)) => "subscribe",
            Self::MayNotPublish(_) => "publish",
            Self::MayNotLook => "metrics",
            _ => return None,
        })
    }

    fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Self::NotFound { path } => (
                StatusCode::NOT_FOUND,
                "not_found",
                format!("nothing is at {path}: streams are at /v1/stream?topic=PATTERN"),
            ),
            Self::MethodNotAllowed { allowed } => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                format!("only {allowed} is answered here"),
            ),
            Self::BadQuery(why) => (StatusCode::BAD_REQUEST, "bad_query", why.to_string()),
            Self::BadPublication(why) => (why.status(), "bad_publication", why.to_string()),
            Self::IdempotencyConflict => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_conflict",
                "this Idempotency-Key was used for another request: take a new one for each"
                    .to_owned(),
            ),
            Self::TooFast { wait } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_fast",
                format!(
                    "more is published than one client may: nothing was published of this; try again in {} s",
                    seconds(*wait)
                ),
            ),
            Self::NoDatabase => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no_database",
                "the database does not answer: try again, with the same Idempotency-Key if \
                 something was to be published"
                    .to_owned(),
            ),
            Self::Unauthorized(why) => (StatusCode::UNAUTHORIZED, why.code(), why.to_string()),
            Self::SeveralTokens => (
                StatusCode::BAD_REQUEST,
                "several_tokens",
                "there are several tokens that differ, in `Authorization`, the cookie or \
                 `token=`: send one"
                    .to_owned(),
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "origin",
                "pages of this origin may not ask here: the hub's flag --allow-origin lists those \
                 that may"
                    .to_owned(),
            ),
            Self::NotGranted(why @ NotGranted::Pattern(_)) => {
                (StatusCode::FORBIDDEN, "not_granted", why.to_string())
            }
            Self::NotGranted(why @ NotGranted::TooMany) => {
                (StatusCode::BAD_REQUEST, "bad_query", why.to_string())
            }
            Self::MayNotPublish(topic) => (
                StatusCode::FORBIDDEN,
                "not_granted",
                format!(
                    "to publish on {:?} is not granted. Nothing was published",
                    topic.as_str()
                ),
            ),
            Self::MayNotLook => (
                StatusCode::FORBIDDEN,
                "not_granted",
                "the token's claim `bellwether` must have `\"metrics\": true` for this".to_owned(),
            ),
            Self::NoKeys => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no_keys",
                auth::Rejected::NoKeys.to_string(),
            ),
        }
    }

    /// What the client is told in a header, beside the text.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let text = HeaderValue::from_static;
        Some(match self {
            Self::MethodNotAllowed { allowed } => (header::ALLOW, text(allowed)),
            Self::TooFast { wait } => (header::RETRY_AFTER, seconds(*wait).into()),
            Self::NoDatabase | Self::NoKeys => (header::RETRY_AFTER, text("1")),
            Self::Unauthorized(why) => (header::WWW_AUTHENTICATE, text(why.challenge())),
            _ => return None,
        })
    }
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        let (status, code, message) = refusal.parts();
        let mut response = self::json(
            status,
            &json!({"error": {"code": code, "message": message}}),
        );
        if let Some((name, value)) = refusal.header() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Whole seconds, and at least one.
fn seconds(wait: Duration) -> u64 {
    (wait + Duration::from_millis(999)).as_secs().max(1)
}

/// A JSON document.
pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    text(status, "application/json", format!("{value}\n"))
}

/// A text of some type. Never cached: all that is served so is of the moment.
pub(crate) fn text(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
