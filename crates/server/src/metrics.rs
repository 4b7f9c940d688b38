//! What `/metrics` and `/v1/status` show.

use http::StatusCode;
use hub::Hub;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric, text::encode},
    metrics::{
        MetricType, counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge,
        gauge::Gauge, info::Info,
    },
    registry::{Registry, Unit},
};
use serde_json::{Value, json};
use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use crate::{Edge, Pages, recent::Recent, response::Refusal, stream::NotNow, streams::Streams};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The statuses that a request to publish is answered with.
const PUBLISH_STATUSES: [&str; 10] = [
    "201", "202", "400", "401", "403", "408", "413", "415", "422", "429",
];

/// All metrics of this instance, in the Prometheus text format.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    hub: Arc<Hub>,
    recent: Recent,
    pg: pg::Metrics,
    pub(crate) streams: Arc<Streams>,
    turned_away: Family<Label, Counter>,
    denials: Family<Label, Counter>,
    publish_requests: Family<Label, Counter>,
    lag: Gauge<f64, AtomicU64>,
}

type Label = [(&'static str, String); 1];

/// What the hub knows of itself.
#[derive(Debug)]
struct HubState(Arc<Hub>);

impl Metrics {
    /// Ours, the hub's and the database side's.
    pub fn new(hub: &Arc<Hub>, pg: &pg::Metrics, pages: &Pages, edge: &Edge) -> Self {
        let mut registry = Registry::with_prefix("bellwether");
        registry.register(
            "build",
            "The program's version",
            Info::new([("version", VERSION)]),
        );
        registry.register_collector(Box::new(HubState(Arc::clone(hub))));
        let streams = Arc::new(Streams::default());
        registry.register_collector(Box::new(Arc::clone(&streams)));
        let turned_away = family("reason", &NotNow::NAMES);
        registry.register(
            "streams_turned_away",
            "Requests for a stream that were told to come back later: the hub does not know the stream yet \
             or shuts down (not_open), has as many as it may (full), is behind the client's cursor, or cannot ask the database",
            turned_away.clone(),
        );
        let denials = family("reason", &Refusal::DENIALS);
        registry.register(
            "denials",
            "Requests that were answered 401 or 403: there was no token (no_token, not_bearer), it does not count \
             (malformed to lives_too_long), a page of another origin asked (origin), or it is not granted to follow \
             these topics (subscribe), to publish there (publish) or to look at the hub itself (metrics)",
            denials.clone(),
        );
        edge.register(&mut registry);
        pages.register(&mut registry);
        let publish_requests = family("status", &PUBLISH_STATUSES);
        registry.register(
            "publish_requests",
            "Requests to publish over HTTP, by the status they were answered with",
            publish_requests.clone(),
        );
        let lag = Gauge::default();
        registry.register_with_unit(
            "lag",
            "Age of the newest event when it was published, by the two clocks",
            Unit::Seconds,
            lag.clone(),
        );
        pg.register(&mut registry);
        Self {
            registry,
            hub: Arc::clone(hub),
            recent: Recent::default(),
            pg: pg.clone(),
            streams,
            turned_away,
            denials,
            publish_requests,
            lag,
        }
    }

    /// So many events were published, the newest of which was inserted at this time.
    pub(crate) fn published(&self, events: usize, inserted: SystemTime) {
        self.recent.add(events);
        self.lag.set(age(inserted));
    }

    /// Somebody was told to come back later.
    pub(crate) fn turned_away(&self, why: &NotNow) {
        let label = [("reason", why.name().to_owned())];
        self.turned_away.get_or_create(&label).inc();
    }

    /// A request was refused, maybe because of who asked.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        if let Some(why) = refusal.denial() {
            let label = [("reason", why.to_owned())];
            self.denials.get_or_create(&label).inc();
        }
    }

    /// A request to publish was answered so.
    pub(crate) fn publish_answered(&self, status: StatusCode) {
        let label = [("status", status.as_str().to_owned())];
        self.publish_requests.get_or_create(&label).inc();
    }

    /// The state of this moment, for the inspector.
    pub(crate) fn status(&self) -> Value {
        json!({
            "version": VERSION,
            "head": self.hub.head().map(|head| head.to_string()),
            "ring_floor": self.hub.coverage().floor,
            "clients": self.hub.subscriptions(),
            "lanes": self.hub.lanes(),
            "lag_ms": self.lag.get() * 1000.0,
            "read": self.pg.read.get(),
            "numbered": self.pg.numbered.get(),
            "rings": self.pg.rings.get(),
            "recent": self.recent.to_json(),
        })
    }

    /// The state of this moment.
    pub(crate) fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Counters of something by a label that has one of these values, all of which are shown from the
/// beginning: what appears only when it has happened cannot be seen to grow.
fn family(name: &'static str, values: &[&str]) -> Family<Label, Counter> {
    let family = Family::<Label, Counter>::default();
    for &value in values {
        drop(family.get_or_create(&[(name, value.to_owned())]));
    }
    family
}

/// How long ago that was, in seconds. A clock behind the database's makes it nothing.
fn age(at: SystemTime) -> f64 {
    at.elapsed().unwrap_or_default().as_secs_f64()
}

impl Collector for HubState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(hub) = self;
        let coverage = hub.coverage();
        let of = &mut encoder;
        gauge(
            of,
            "clients",
            "Open streams",
            None,
            count(hub.subscriptions()),
        )?;
        gauge(
            of,
            "lanes",
            "Distinct subscriptions",
            None,
            count(hub.lanes()),
        )?;
        let head = hub.head().map_or(0, |head| head.seq);
        let what = "Number of the newest event that was sent";
        gauge(of, "stream_head", what, None, head)?;
        let what = "Number of the event before the ring's oldest";
        gauge(of, "ring_floor", what, None, coverage.floor)?;
        let what = "Events in memory for clients that come back";
        gauge(of, "ring_events", what, None, coverage.events)?;
        let what = "What they take in memory";
        let bytes = count(coverage.bytes);
        gauge(of, "ring_size", what, Some(&Unit::Bytes), bytes)?;
        let what = "Age of the oldest of them: who was away for less is served from memory";
        let reach = coverage.since.map_or(0.0, age);
        gauge(of, "ring_reach", what, Some(&Unit::Seconds), reach)?;
        let what =
            "Times that a client fell behind its lane, and was brought up to date from the ring";
        let lags = ConstCounter::new(hub.lags());
        lags.encode(encoder.encode_descriptor("lags", what, None, MetricType::Counter)?)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: impl EncodeGaugeValue,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

fn count(n: usize) -> u64 {
    n as u64
}
