//! What is counted here.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use std::sync::atomic::AtomicU64;

/// Counters of one instance. A clone counts into the same ones.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Rings heard.
    pub rings: Counter,
    /// Batches heard of, numbered here or by another hub.
    pub announcements: Counter,
    /// Times this hub took over numbering.
    pub takeovers: Counter,
    /// Times the listener began to listen.
    pub listens: Counter,
    /// Calls of `advance`.
    pub looks: Counter,
    /// Times the sequencer fell asleep.
    pub sleeps: Counter,
    /// Events numbered by this instance.
    pub numbered: Counter,
    /// Events read from the stream, to be published.
    pub read: Counter,
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
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let all = [
            ("doorbell_rings", "Rings heard", &self.rings),
            (
                "announcements",
                "Batches heard of, numbered here or by another hub",
                &self.announcements,
            ),
            (
                "takeovers",
                "Times this hub took over numbering",
                &self.takeovers,
            ),
            (
                "listens",
                "Times the listener began to listen",
                &self.listens,
            ),
            (
                "snapshot_errors",
                "Snapshots that could not be taken",
                &self.snapshot_errors,
            ),
            ("looks", "Calls of advance", &self.looks),
            ("sleeps", "Times the sequencer fell asleep", &self.sleeps),
            (
                "events_numbered",
                "Events numbered by this instance",
                &self.numbered,
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
            "asleep",
            "1 while this hub only waits to be rung, 0 while it looks for events",
            self.asleep.clone(),
        );
        registry.register(
            "notify_queue_usage",
            "How full the server's queue of notifications is, of 1",
            self.queue_usage.clone(),
        );
    }
}
