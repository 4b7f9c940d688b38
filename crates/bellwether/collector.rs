//! The way to an OpenTelemetry collector.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time};

/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of an answer.
const MAX_BYTES: usize = 64 * 1024;

/// Speaks to a collector, and says once when it is away and once when it is back: what is lost are
/// traces.
#[derive(Clone, Debug)]
pub(crate) struct Collector(Arc<Line>);

#[derive(Debug)]
struct Line {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Of this program: who sends is a thread of its own.
    runtime: Handle,
    is_away: AtomicBool,
}

impl Collector {
    /// Certificates are checked against those that the machine trusts.
    pub(crate) fn new() -> Result<Self> {
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .context("cannot send traces: there are no certificates to trust")?;
        let connector = builder.https_or_http().enable_http1().build();
        Ok(Self(Arc::new(Line {
            client: Client::builder(TokioExecutor::new()).build(connector),
            runtime: Handle::current(),
            is_away: AtomicBool::new(false),
        })))
    }
}

impl Line {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.client.request(request.map(Full::from)).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BYTES).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// Says it if something has changed.
    fn tell(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let why = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(pg::chain(&**error)),
        };
        let was_away = self.is_away.swap(why.is_some(), Ordering::Relaxed);
        match why {
            Some(why) if !was_away => {
                tracing::warn!(
                    error = why,
                    "traces are lost until the collector takes them"
                );
            }
            None if was_away => tracing::info!("the collector takes traces again"),
            _ => {}
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let line = Arc::clone(&self.0);
        let sent = self.0.runtime.spawn(async move {
            let sent = time::timeout(TIMEOUT, line.send(request)).await;
            let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}").into()));
            line.tell(&sent);
            sent
        });
        sent.await?
    }
}
