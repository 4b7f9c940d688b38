//! Method and path, and what answers.

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use serde_json::json;
use std::{net::IpAddr, sync::Arc};
use tracing::Instrument;

use crate::{
    App, events, files, gate,
    limits::{Client, Limit},
    publish,
    query::{EventsQuery, InvalidQuery, StreamQuery},
    response::{self, Body, Refusal},
    stream,
    streams::Transport,
    trace,
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
    // Files are for everybody, and say themselves who may read them.
    let is_ours = request.uri().path().starts_with("/v1/");
    let is_publication = is_ours && request.method() == Method::POST;
    let origin = request.headers().get(header::ORIGIN).cloned();
    let version = request.version();
    let span = trace::request(request.method(), request.uri().path(), request.headers());
    let answered = route(&app, request, peer).instrument(span.clone()).await;
    let mut response = answered.unwrap_or_else(|refusal| {
        app.metrics.refused(&refusal);
        refusal.into()
    });
    trace::answered(&span, response.status());
    if is_publication {
        app.metrics.publish_answered(response.status());
    }
    if is_ours {
        app.gate
            .origins()
            .dress(origin.as_ref(), response.headers_mut());
    }
    // Whoever keeps the connection would ask again just as it is closed. HTTP/2 says when itself.
    if app.health.is_draining() && version <= Version::HTTP_11 {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn route(
    app: &App,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Result<Response<Body>, Refusal> {
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
                return Err(Refusal::NotFound {
                    path: path.to_owned(),
                });
            }
        },
    };
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    if path.starts_with("/v1/")
        && let Some(answer) = app.gate.origins().preflight(method, headers, allowed)
    {
        return answer;
    }
    if !allowed.split(", ").any(|name| method == name) {
        return Err(Refusal::MethodNotAllowed { allowed });
    }
    if let Some(file) = file {
        return Ok(file.answer(headers));
    }
    // What says nothing of the events, and is asked by who has no token.
    match path {
        "/healthz" => return Ok(response::json(StatusCode::OK, &json!({"alive": true}))),
        "/readyz" => return Ok(ready(app)),
        "/" => {
            let content_type = "text/plain; charset=utf-8";
            return Ok(response::text(
                StatusCode::OK,
                content_type,
                INDEX.to_owned(),
            ));
        }
        _ => {}
    }
    let admitted = app.gate.admit(method, uri, headers).await;
    match path {
        "/v1/stream" => {
            // All that is needed of the request is taken out of it here, and it is dropped:
            // hyper would keep the buffer that it was read into.
            let query = StreamQuery::parse(uri, headers)
                .and_then(|query| query.up_to(app.edge.limits.patterns))
                .map_err(|why| {
                    if let InvalidQuery::Patterns(_) = why {
                        app.edge.refusals.count(Limit::Patterns);
                    }
                    Refusal::BadQuery(why)
                })?;
            let address = app.edge.proxies.client(peer, headers);
            let transport = Transport::of(request.version());
            drop(request);
            match admitted {
                // Not for good, which any other answer would be to a browser.
                Err(Refusal::NoKeys) => Ok(stream::later(app, query.filter.form())),
                admitted => {
                    let identity = admitted?;
                    let client = Client::new(&identity, address);
                    Ok(stream::open(app, query.for_(&identity)?, client, transport).await)
                }
            }
        }
        "/v1/events" if method == Method::POST => {
            let identity = admitted?;
            let client = Client::new(&identity, app.edge.proxies.client(peer, headers));
            publish::publish(app, &identity, &client, request).await
        }
        "/v1/events" => {
            let identity = admitted?;
            let query = EventsQuery::parse(uri).map_err(Refusal::BadQuery)?;
            events::page(app, query.for_(&identity)?).await
        }
        "/v1/status" => {
            gate::may_look(&admitted?)?;
            Ok(status(app))
        }
        _ => {
            gate::may_look(&admitted?)?;
            Ok(metrics(app))
        }
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
