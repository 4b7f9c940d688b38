//! Responses that are not streams, and what status an error has.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use serde_json::json;

use crate::{EventBody, publish::InvalidPublication, query::InvalidQuery};

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
    /// The database does not answer.
    NoDatabase,
}

impl Refusal {
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
            Self::NoDatabase => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no_database",
                "the database does not answer: try again, with the same Idempotency-Key if \
                 something was to be published"
                    .to_owned(),
            ),
        }
    }
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        let (status, code, message) = refusal.parts();
        let mut response = self::json(
            status,
            &json!({"error": {"code": code, "message": message}}),
        );
        if let Refusal::MethodNotAllowed { allowed } = refusal {
            let allowed = HeaderValue::from_static(allowed);
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        if let Refusal::NoDatabase = refusal {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
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
