//! What `/metrics` and `/v1/status` show.

use hub::Hub;
use prometheus_client::{
    encoding::text::encode, metrics::gauge::Gauge, registry::Registry, registry::Unit,
};
use serde_json::{Value, json};
use std::{fmt, sync::atomic::AtomicU64, time::SystemTime};

use crate::{Edge, Pages};

/// All metrics of this instance, in the Prometheus text format.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    clients: Gauge,
    lanes: Gauge,
    head: Gauge<u64, AtomicU64>,
    ring_floor: Gauge<u64, AtomicU64>,
    lag: Gauge<f64, AtomicU64>,
    pg: pg::Metrics,
}

impl Metrics {
    /// Ours and the database side's.
    pub fn new(pg: &pg::Metrics, pages: &Pages, edge: &Edge) -> Self {
        let mut registry = Registry::with_prefix("bellwether");
        pg.register(&mut registry);
        pages.register(&mut registry);
        edge.register(&mut registry);
        let (clients, lanes) = (Gauge::default(), Gauge::default());
        let (head, ring_floor) = (Gauge::default(), Gauge::default());
        registry.register("clients", "Open streams", clients.clone());
        registry.register("lanes", "Distinct subscriptions", lanes.clone());
        registry.register(
            "stream_head",
            "Number of the newest event that was sent",
            head.clone(),
        );
        registry.register(
            "ring_floor",
            "Number of the event before the ring's oldest",
            ring_floor.clone(),
        );
        let lag = Gauge::default();
        registry.register_with_unit(
            "lag",
            "Age of the newest event when it was published, by the two clocks",
            Unit::Seconds,
            lag.clone(),
        );
        Self {
            registry,
            clients,
            lanes,
            head,
            ring_floor,
            lag,
            pg: pg.clone(),
        }
    }

    /// Events were published, the newest of which was inserted at this time.
    pub(crate) fn published(&self, inserted: SystemTime) {
        // A clock behind the database's makes it nothing.
        let lag = inserted.elapsed().unwrap_or_default();
        self.lag.set(lag.as_secs_f64());
    }

    /// The state of this moment, for the inspector.
    pub(crate) fn status(&self, hub: &Hub) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "head": hub.head().map(|head| head.to_string()),
            "ring_floor": hub.floor(),
            "clients": hub.subscriptions(),
            "lanes": hub.lanes(),
            "lag_ms": self.lag.get() * 1000.0,
            "read": self.pg.read.get(),
            "numbered": self.pg.numbered.get(),
            "rings": self.pg.rings.get(),
        })
    }

    /// The state of this moment.
    pub(crate) fn render(&self, hub: &Hub) -> Result<String, fmt::Error> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.clients.set(count(hub.subscriptions()));
        self.lanes.set(count(hub.lanes()));
        self.head.set(hub.head().map_or(0, |head| head.seq));
        self.ring_floor.set(hub.floor());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
