//! The window of recent events: to append to it, to look at it, and to replay from it.
//!
//! The ring is full, 65,536 frames of about 250 bytes, each with memory of its own, so that
//! `push` also drops and frees the oldest frame. `read` walks over the newest n frames.
//! `replay` is what a client costs that comes back n events behind: subscribe, get what it
//! missed in pieces, be live, leave. Of its kind it is the only one (`replay`), or one of a
//! storm of a thousand that come back with the same cursor (`storm`), or little or nothing
//! of what it missed is for it, as the ring holds the events of 10,000 topics (`quiet`).

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark is no library"
)]

mod support;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hub::{Cursor, Filter, Frame, Hub, Limits, Next, Ring};
use server::PLAIN;
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use support::{EPOCH, HEAD, frame};

const FRAMES: usize = 65_536;
const BEHIND: [u64; 3] = [1, 100, 10_000];

/// Clients that come back at once.
const STORM: u64 = 1_000;

/// Topics in a ring of which each client wants one.
const TOPICS: u64 = 10_000;

fn push(c: &mut Criterion) {
    let mut ring = Ring::new(HEAD, FRAMES, usize::MAX);
    next_frames(HEAD).take(FRAMES).for_each(|f| ring.push(f));
    let mut next = next_frames(ring.head());

    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(1));
    group.bench_function("push", |b| {
        b.iter_batched(
            || next.next().unwrap(),
            |frame| ring.push(frame),
            BatchSize::LargeInput,
        );
    });
}

fn read(c: &mut Criterion) {
    let mut ring = Ring::new(HEAD, FRAMES, usize::MAX);
    next_frames(HEAD).take(FRAMES).for_each(|f| ring.push(f));

    let mut group = c.benchmark_group("ring/read");
    for behind in BEHIND {
        let from = ring.head() - behind;
        group.throughput(Throughput::Elements(behind));
        group.bench_function(BenchmarkId::from_parameter(behind), |b| {
            b.iter(|| {
                let frames = ring.after(from).unwrap();
                frames.map(|frame| frame.wire.weight()).sum::<usize>()
            });
        });
    }
}

fn replay(c: &mut Criterion) {
    let hub = hub_with(next_frames(HEAD).take(FRAMES).collect());
    let mut group = c.benchmark_group("ring/replay");
    for behind in BEHIND {
        group.throughput(Throughput::Elements(behind));
        group.bench_function(BenchmarkId::from_parameter(behind), |b| {
            let mut filters = distinct_filters();
            b.iter(|| come_back(&hub, &filters(), behind));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("ring/storm");
    for behind in BEHIND {
        group.throughput(Throughput::Elements(STORM));
        group.bench_function(BenchmarkId::from_parameter(behind), |b| {
            let mut filters = distinct_filters();
            b.iter(|| {
                let filter = filters();
                // A lane ends with its last client, and what is shared with it.
                let _stays = hub.subscribe(filter.clone(), None).unwrap();
                let missed = (0..STORM).map(|_| come_back(&hub, &filter, behind));
                missed.sum::<usize>()
            });
        });
    }
}

fn quiet(c: &mut Criterion) {
    let topic = |seq| format!("org.{}.orders", seq % TOPICS);
    let frames = (HEAD + 1..).map(|seq| frame(seq, &topic(seq), 200));
    let hub = hub_with(frames.take(FRAMES).collect());
    let mut group = c.benchmark_group("ring/quiet");
    for (name, pattern) in [
        ("plain", "org.7.orders"),
        ("below", "org.7.>"),
        ("any", "org.*.alerts"),
        ("none", "other"),
    ] {
        for behind in [1_000, FRAMES as u64] {
            group.bench_function(BenchmarkId::new(name, behind), |b| {
                let mut n = 0_u64;
                b.iter(|| {
                    n += 1;
                    // Each has a lane of its own.
                    let own = format!("client.{n}");
                    let filter = Filter::new([pattern, &own]).unwrap().in_form(PLAIN);
                    come_back(&hub, &filter, behind)
                });
            });
        }
    }
}

/// A hub whose ring holds these frames.
fn hub_with(recent: Vec<Frame>) -> Arc<Hub> {
    let hub = Hub::new(Limits::default());
    let head = recent.last().unwrap().seq;
    hub.open(EPOCH, Vec::new(), head, recent, Vec::new());
    hub
}

/// Filters that match everything, none of which has been used before.
fn distinct_filters() -> impl FnMut() -> Filter {
    let mut n = 0_u64;
    move || {
        n += 1;
        Filter::new([">", &format!("client.{n}")])
            .unwrap()
            .in_form(PLAIN)
    }
}

/// A client that comes back so many events behind, reads all it missed and leaves.
fn come_back(hub: &Arc<Hub>, filter: &Filter, behind: u64) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let head = hub.head().unwrap();
    let from = Cursor {
        seq: head.seq - behind,
        ..head
    };
    let mut subscription = hub.subscribe(filter.clone(), Some(from)).unwrap();
    let mut bytes = 0;
    while let Poll::Ready(next) = subscription.poll_next(&mut cx) {
        match next {
            Next::Portion(portion) => bytes += portion.bytes.len(),
            other => panic!("all of it is in the ring, but {other:?}"),
        }
    }
    assert_eq!(subscription.cursor(), head);
    bytes
}

/// The frames after a number, for ever.
fn next_frames(seq: u64) -> impl Iterator<Item = Frame> {
    (seq + 1..).map(|seq| frame(seq, "org.7.orders", 200))
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = push, read, replay, quiet
}
criterion_main!(benches);
