//! HTTP: accepts connections, answers requests, streams events, shuts down.
//!
//! # The life of a stream
//!
//! [`serve`] looks at what a connection begins with. A plain `GET /v1/stream` over HTTP/1.1 goes the
//! short way (`direct`); all else is handed to hyper, which calls `routes` for each request. Either
//! way, `gate` decides who is let in and to which topics, `stream` finds out where the client is to
//! start and subscribes it to the hub; from then on `body` is what is polled for bytes, with `pages`
//! for what is older than the hub's ring. Who has gone the short way and has all there is joins a
//! `group`, which writes to several clients of a lane at a time. [`ingest()`] is the other end: it
//! follows the database, encodes each event once and publishes it to the hub.
//!
//! # Invariants
//!
//! - Only `response` turns an error into a status code.
//! - A body keeps nothing of its request: hyper would keep the buffer it was read into.
//! - A stream never ends without telling its client when to come back.

mod accept;
mod body;
mod control;
mod credentials;
mod direct;
mod edge;
mod events;
mod files;
mod frame;
mod gate;
mod group;
mod groups;
mod health;
mod ingest;
mod limits;
mod metrics;
mod origins;
mod outlet;
mod pages;
mod proxy;
mod publish;
mod query;
mod reader;
mod recent;
mod response;
mod routes;
mod socket;
mod stall;
mod stream;
mod streams;
mod tls;
mod trace;

use std::{sync::Arc, time::Duration};

pub use accept::{Unfinished, serve};
pub use body::EventBody;
pub use edge::Edge;
pub use frame::{PLAIN, encode};
pub use gate::Gate;
pub use groups::EVENT_INTERVAL;
pub use health::Health;
pub use ingest::ingest;
pub use limits::Limits;
pub use metrics::Metrics;
pub use origins::{InvalidOrigin, Origins};
pub use pages::Pages;
pub use proxy::{ForwardedHeader, Proxies};
pub use tls::{InvalidCertificate, Tls};

/// What every request may need. One for the process.
#[derive(Debug)]
pub struct App {
    /// Where events are published and subscribed to.
    pub hub: Arc<hub::Hub>,
    /// Questions about the stream from before the hub's ring.
    pub history: pg::History,
    /// Where to hand in what is to be published.
    pub publisher: pg::Publisher,
    /// That part of the stream itself.
    pub pages: Pages,
    /// Whether this instance does its work.
    pub health: Health,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// How connections are let in, and how much they may take.
    pub edge: Edge,
    /// Who is let in, and to what.
    pub gate: Gate,
    /// How streams behave.
    pub settings: Settings,
}

/// How streams behave.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most time between heartbeats, of which some are sent up to an eighth sooner. Default: 15 s.
    ///
    /// Proxies cut silent connections, nginx after 60 s; the SSE standard suggests a sign of
    /// life "every 15 seconds or so".
    /// Source: WHATWG HTML, §9.2.7 Authoring notes.
    pub heartbeat: Duration,
    /// About how long a client is asked to wait before it reconnects. Default: 2 s.
    ///
    /// Each is told another time around it, as clients add no jitter of their own.
    pub retry: Duration,
    /// How long a client may take nothing of what waits for it. Default: 30 s.
    ///
    /// Two heartbeats: whoever took none of them is not there. It loses nothing, as its
    /// cursor is its own.
    pub stall_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// A time to reconnect after, if the connection should break.
    fn retry(&self) -> Duration {
        self.retry.mul_f64(0.5 + fastrand::f64())
    }

    /// A time to reconnect after, for a client that is sent away: longer, and spread wider,
    /// because all of them are sent away at once.
    fn retry_later(&self) -> Duration {
        self.retry.mul_f64(0.5 + 2.5 * fastrand::f64())
    }

    /// A time to reconnect after, for a client for whom there is no place: five times as long.
    fn retry_full(&self) -> Duration {
        5 * self.retry_later()
    }
}

/// What a stream request asks for, or why it is refused. For `fuzz/` only: the filter, and
/// how many events or the position to begin with.
#[cfg(fuzzing)]
pub fn parse_query(
    uri: &http::Uri,
    headers: &http::HeaderMap,
) -> Result<(hub::Filter, Option<usize>, Option<String>), String> {
    use query::{Start, StreamQuery};
    let StreamQuery { filter, start, .. } =
        StreamQuery::parse(uri, headers).map_err(|why| why.to_string())?;
    let (last, after) = match start {
        Start::Now => (None, None),
        Start::Last(count) => (Some(count), None),
        Start::After(text) => (None, Some(text)),
    };
    Ok((filter, last, after))
}
