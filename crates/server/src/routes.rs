//! Method and path, and what answers.

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use std::{net::IpAddr, sync::Arc};

use crate::{
    App, events, files,
    limits::Limit,
    publish,
    query::{EventsQuery, InvalidQuery, StreamQuery},
    response::{self, Body, Refusal},
    stream,
    streams::Transport,
};

const INDEX: &str = "\
Bellwether: a live event hub on Postgres.

GET /v1/stream?topic=PATTERN   events as they happen (text/event-stream)
    topic=      a.b, a.* (any one token), a.> (all below), > (all); may be repeated
    event=      only events with this name; may be repeated
    last=       start with the last N events
    envelope=1  with topic, key and time around the data
    Last-Event-ID: or last_event_id=   go on after this cursor
    Accept: application/x-ndjson       envelopes, one per line
GET /v1/events?topic=PATTERN   a page of them as JSON
    topic=, event=, last=, after=, limit=
POST /v1/events                publish {\"topic\", \"event\", \"data\"}, or an array of such
GET /v1/status the hub's own figures, as JSON
GET /healthz   alive
GET /readyz    whether it hears the database, or why not
GET /metrics   Prometheus metrics
";

/// Answers one request, in a connection from `peer`.
pub(crate) async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Response<Body> {
    let path = request.uri().path();
    let (allowed, file) = match path {
        "/v1/stream" => ("GET", None),
        "/v1/events" => ("GET, POST", None),
        "/v1/status" | "/healthz" | "/readyz" | "/metrics" => ("GET, HEAD", None),
        // Whoever asks with curl is told in words.
        "/" if !wants_html(request.headers()) => ("GET, HEAD", None),
        _ => match files::find(path) {
            Some(file) => ("GET, HEAD", Some(file)),
            None => {
                return Refusal::NotFound {
                    path: path.to_owned(),
                }
                .into();
            }
        },
    };
    let method = request.method();
    if !allowed.split(", ").any(|name| method == name) {
        return Refusal::MethodNotAllowed { allowed }.into();
    }
    if let Some(file) = file {
        return file.answer(request.headers());
    }
    match path {
        "/v1/stream" => {
            // All that is needed of the request is taken out of it here, and it is dropped:
            // hyper would keep the buffer that it was read into.
            let query = StreamQuery::parse(request.uri(), request.headers());
            let query = query.and_then(|query| query.up_to(app.edge.limits.patterns));
            let client = app.edge.proxies.client(peer, request.headers()).into();
            let transport = Transport::of(request.version());
            drop(request);
            match query {
                Ok(query) => stream::open(&app, query, client, transport).await,
                Err(why) => {
                    if let InvalidQuery::Patterns(_) = why {
                        app.edge.refusals.count(Limit::Patterns);
                    }
                    Refusal::BadQuery(why).into()
                }
            }
        }
        "/v1/events" if request.method() == Method::POST => {
            let client = app.edge.proxies.client(peer, request.headers()).into();
            let response = publish::publish(&app, request, &client).await;
            app.metrics.publish_answered(response.status());
            response
        }
        "/v1/events" => match EventsQuery::parse(request.uri()) {
            Ok(query) => events::page(&app, query).await,
            Err(why) => Refusal::BadQuery(why).into(),
        },
        "/v1/status" => status(&app),
        "/healthz" => response::json(StatusCode::OK, &json!({"alive": true})),
        "/readyz" => ready(&app),
        "/metrics" => metrics(&app),
        _ => response::text(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            INDEX.to_owned(),
        ),
    }
}

fn wants_html(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    accepted.any(|accepted| accepted.to_str().is_ok_and(|it| it.contains("text/html")))
}

fn status(app: &App) -> Response<Body> {
    let reasons = app.health.reasons();
    let mut status = app.metrics.status();
    status["ready"] = reasons.is_empty().into();
    status["reasons"] = reasons.into();
    response::json(StatusCode::OK, &status)
}

fn ready(app: &App) -> Response<Body> {
    let reasons = app.health.reasons();
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    response::json(
        status,
        &json!({
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "warnings": app.health.warnings(),
        }),
    )
}

fn metrics(app: &App) -> Response<Body> {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    app.edge.observe();
    match app.metrics.render() {
        Ok(text) => response::text(StatusCode::OK, content_type, text),
        Err(error) => {
            tracing::error!(%error, "cannot render the metrics");
            response::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                error.to_string(),
            )
        }
    }
}
