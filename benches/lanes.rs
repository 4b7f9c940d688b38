//! What it costs to publish, by the number of lanes that an event is *not* for.
//!
//! A batch of 1 or 100 events is published to a hub with 1, 100 or 10,000 lanes, and each
//! event is for one of them: a tenant's event among so many tenants. Included are the ring,
//! which is full, and one send for each lane that is meant; nobody receives, so no task is
//! woken. More lanes may cost more because their memory is colder, not because of a search.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark is no library"
)]

mod support;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hub::{Filter, Frame, Hub, Limits, Subscription};
use server::PLAIN;
use std::{
    cell::{Cell, LazyCell},
    sync::Arc,
    time::Duration,
};
use support::{EPOCH, HEAD, frame};

/// A hub with lanes on which nobody listens.
struct Tenants {
    hub: Arc<Hub>,
    count: u64,
    /// Keep the lanes in being. As nothing polls them, they only lag.
    subscriptions: Vec<Subscription>,
    /// The number of the newest frame that was made.
    head: Cell<u64>,
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("lanes");
    for lanes in [1, 100, 10_000] {
        let tenants = LazyCell::new(|| Tenants::new(lanes));
        for events in [1, 100] {
            group.throughput(Throughput::Elements(events));
            let id = BenchmarkId::new(format!("batch_of_{events}"), lanes);
            group.bench_function(id, |b| {
                let tenants = &*tenants;
                b.iter_batched(
                    || tenants.next_batch(events),
                    |batch| tenants.hub.publish(batch),
                    BatchSize::LargeInput,
                );
            });
        }
    }
}

/// All of 10,000 clients leave, each the last one on its lane, which shares a pattern with
/// all others.
fn leave(c: &mut Criterion) {
    let mut group = c.benchmark_group("lanes");
    group.sample_size(10);
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("leave/10000", |b| {
        let hub = Hub::new(Limits::default());
        hub.open(EPOCH, Vec::new(), HEAD, Vec::new(), Vec::new());
        b.iter_batched(
            || {
                let join = |n| {
                    let own = format!("client.{n}");
                    let filter = Filter::new(["news.>", "orders", &own])
                        .unwrap()
                        .in_form(PLAIN);
                    hub.subscribe(filter, None).unwrap()
                };
                (0..10_000).map(join).collect::<Vec<_>>()
            },
            drop,
            BatchSize::PerIteration,
        );
    });
}

// === impl Tenants ===

impl Tenants {
    fn new(count: u64) -> Self {
        let hub = Hub::new(Limits::default());
        let mut tenants = Self {
            hub: Arc::clone(&hub),
            count,
            subscriptions: Vec::new(),
            head: Cell::new(HEAD),
        };
        let full = tenants.next_batch(Limits::default().ring_frames as u64);
        hub.open(EPOCH, Vec::new(), tenants.head.get(), full, Vec::new());
        let subscribe = |tenant| {
            let filter = Filter::new([format!("org.{tenant}.>").as_str()])
                .unwrap()
                .in_form(PLAIN);
            hub.subscribe(filter, None).unwrap()
        };
        tenants.subscriptions = (0..count).map(subscribe).collect();
        assert_eq!(hub.lanes(), tenants.subscriptions.len(), "one each");
        tenants
    }

    /// The next events of the stream, each for another tenant than the one before it.
    fn next_batch(&self, events: u64) -> Vec<Frame> {
        let from = self.head.get();
        self.head.set(from + events);
        let frame = |seq: u64| frame(seq, &format!("org.{}.orders", seq % self.count), 200);
        (from + 1..=from + events).map(frame).collect()
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = publish, leave
}
criterion_main!(benches);
