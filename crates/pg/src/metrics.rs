//! What is counted here.

use deadpool_postgres::Pool;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

/// Counters of one instance. A clone counts into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Rings heard.
    pub rings: Counter,
    /// Batches heard of, numbered here or by another hub.
    pub announcements: Counter,
    /// Times this hub took over numbering.
    pub takeovers: Counter,
    /// Times the listener began to listen.
    pub listens: Counter,
    /// Looks for new events.
    pub looks: Counter,
    /// Looks after which the stream was longer than this hub knew.
    pub looks_found: Counter,
    /// Times the sequencer fell asleep.
    pub sleeps: Counter,
    /// Events numbered by this instance.
    pub numbered: Counter,
    /// Of those, the ones it found without being rung.
    pub numbered_unrung: Counter,
    /// Events read from the stream, to be published.
    pub read: Counter,
    /// Events that are known to exist and have not been read yet.
    pub behind: Gauge<u64, AtomicU64>,
    /// Times that a stream of another epoch took the place of the one that was followed.
    pub epochs: Counter,
    /// Snapshots taken.
    pub snapshots: Counter,
    /// Snapshots that could not be taken.
    pub snapshot_errors: Counter,
    /// Events deleted because they were old.
    pub deleted: Counter,
    /// Events that only the safety poll found: somebody did not ring. The alarm.
    pub found_by_safety_poll: Counter,
    /// 1 while the sequencer is asleep, until somebody rings or the safety poll finds something.
    pub asleep: Gauge,
    /// How full the server's queue of notifications is, of 1.
    pub queue_usage: Gauge<f64, AtomicU64>,
    /// Requests in each transaction that published some.
    pub publish_requests: Histogram,
    /// Events in each transaction that published some.
    pub publish_events: Histogram,
    pools: Pools,
}

/// Pools of connections, by what they are for.
#[derive(Clone, Debug, Default)]
struct Pools(Arc<Mutex<Vec<(&'static str, Pool)>>>);

impl Default for Metrics {
    fn default() -> Self {
        Self {
            rings: Counter::default(),
            announcements: Counter::default(),
            takeovers: Counter::default(),
            listens: Counter::default(),
            looks: Counter::default(),
            looks_found: Counter::default(),
            sleeps: Counter::default(),
            numbered: Counter::default(),
            numbered_unrung: Counter::default(),
            read: Counter::default(),
            behind: Gauge::default(),
            epochs: Counter::default(),
            snapshots: Counter::default(),
            snapshot_errors: Counter::default(),
            deleted: Counter::default(),
            found_by_safety_poll: Counter::default(),
            asleep: Gauge::default(),
            queue_usage: Gauge::default(),
            publish_requests: Histogram::new(exponential_buckets(1.0, 4.0, 5)),
            publish_events: Histogram::new(exponential_buckets(1.0, 10.0, 5)),
            pools: Pools::default(),
        }
    }
}

impl Metrics {
    /// Shows how many connections of a pool there are.
    pub(crate) fn watch_pool(&self, name: &'static str, pool: &Pool) {
        self.pools.lock().push((name, pool.clone()));
    }

    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let all = [
            (
                "doorbell_rings",
                "Rings heard, from writers and from hubs that are new",
                &self.rings,
            ),
            (
                "announcements",
                "Batches heard of, numbered here or by another hub",
                &self.announcements,
            ),
            (
                "takeovers",
                "Times this hub took over numbering from one that had promised it and did not do it",
                &self.takeovers,
            ),
            (
                "listens",
                "Times the listener began to listen",
                &self.listens,
            ),
            (
                "epoch_changes",
                "Times that a stream of another epoch took the place of the one that was followed",
                &self.epochs,
            ),
            ("snapshots", "Snapshots taken by this hub", &self.snapshots),
            (
                "snapshot_errors",
                "Snapshots that could not be taken",
                &self.snapshot_errors,
            ),
            ("looks", "Looks for new events", &self.looks),
            (
                "looks_found",
                "Looks after which the stream was longer than this hub knew",
                &self.looks_found,
            ),
            ("sleeps", "Times the sequencer fell asleep", &self.sleeps),
            (
                "events_numbered",
                "Events numbered by this instance",
                &self.numbered,
            ),
            (
                "events_numbered_unrung",
                "Of those, the ones it found without being rung: nearly all of them would have rung if it \
                 had not been awake (statements of many rows would have rung once)",
                &self.numbered_unrung,
            ),
            (
                "events_deleted",
                "Events deleted because they were old",
                &self.deleted,
            ),
            ("events_read", "Events read from the stream", &self.read),
            (
                "safety_poll_events",
                "Events that only the safety poll found, because nobody rang for them",
                &self.found_by_safety_poll,
            ),
        ];
        for (name, help, counter) in all {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "lag_events",
            "Events that this hub knows to exist and has not read yet",
            self.behind.clone(),
        );
        registry.register(
            "asleep",
            "1 while this hub only waits to be rung, 0 while it looks for events",
            self.asleep.clone(),
        );
        registry.register(
            "notify_queue_usage",
            "How full the server's queue of notifications is, of 1",
            self.queue_usage.clone(),
        );
        registry.register(
            "publish_transaction_requests",
            "Requests to publish over HTTP that shared a transaction",
            self.publish_requests.clone(),
        );
        registry.register(
            "publish_transaction_events",
            "Events in a transaction that published over HTTP",
            self.publish_events.clone(),
        );
        registry.register_collector(Box::new(self.pools.clone()));
    }
}

impl Pools {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(&'static str, Pool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Figure = fn(&Pool) -> usize;
        let all: [(&str, &str, Figure); 3] = [
            (
                "pool_connections",
                "Connections to the database in each pool",
                |pool| pool.status().size,
            ),
            ("pool_busy", "Connections that are being used", |pool| {
                let status = pool.status();
                status.size.saturating_sub(status.available)
            }),
            (
                "pool_waiting",
                "Questions that wait for a connection",
                |pool| pool.status().waiting,
            ),
        ];
        for (name, help, figure) in all {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (pool, connections) in self.lock().iter() {
                let value = ConstGauge::new(figure(connections) as u64);
                value.encode(family.encode_family(&[("pool", *pool)])?)?;
            }
        }
        Ok(())
    }
}
