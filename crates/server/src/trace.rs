//! Spans of requests: what they are called, and whose traces they continue.
//!
//! They have nothing of what a client has made up, but for the trace's number: in a query there
//! may be a token, and a name that anybody chooses is no name.

use http::{HeaderMap, Method, StatusCode};
use opentelemetry::global;
use opentelemetry_http::HeaderExtractor;
use pg::SPANS;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::files;

/// A request's span, as OpenTelemetry's semantic conventions for HTTP have it. None for what
/// machines ask for every second.
pub(crate) fn request(method: &Method, path: &str, headers: &HeaderMap) -> Span {
    if matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return Span::none();
    }
    let span = tracing::trace_span!(
        target: SPANS,
        "request",
        otel.name = Empty,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = Empty,
        http.response.status_code = Empty,
        http.route = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    let method = known(method);
    span.record("http.request.method", method);
    match route(path) {
        Some(route) => {
            span.record("http.route", route);
            span.record("otel.name", format!("{method} {route}"));
        }
        None => {
            span.record("otel.name", method);
        }
    }
    let caller = global::get_text_map_propagator(|it| it.extract(&HeaderExtractor(headers)));
    if let Err(error) = span.set_parent(caller) {
        tracing::debug!(%error, "a trace is not continued");
    }
    span
}

/// What a request was answered.
pub(crate) fn answered(span: &Span, status: StatusCode) {
    // As a signed number, which is the one kind of number that a trace has.
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

fn route(path: &str) -> Option<&'static str> {
    const ROUTES: [&str; 4] = ["/v1/stream", "/v1/events", "/v1/status", "/"];
    let known = ROUTES.into_iter().find(|&route| route == path);
    known.or_else(|| files::find(path).map(|_| "/{file}"))
}
