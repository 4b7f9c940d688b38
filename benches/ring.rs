//! The window of recent events: to append to it, to look at it, and to replay from it.
//!
//! The ring is full, 65,536 frames of about 250 bytes, each with memory of its own, so that
//! `push` also drops and frees the oldest frame. `read` walks over the newest n frames.
//! `replay` is what a client costs that comes back n events behind: subscribe, match each
//! frame, copy it into pieces, be live, leave.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark is no library"
)]

mod support;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hub::{Cursor, Filter, Frame, Hub, Limits, Next, Ring};
use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};
use support::{EPOCH, HEAD, frame};

const FRAMES: usize = 65_536;
const BEHIND: [u64; 3] = [1, 100, 10_000];

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
                frames.map(|frame| frame.bytes.len()).sum::<usize>()
            });
        });
    }
}

fn replay(c: &mut Criterion) {
    let hub = Hub::new(Limits::default());
    let recent: Vec<Frame> = next_frames(HEAD).take(FRAMES).collect();
    let head = recent.last().unwrap().seq;
    hub.open(EPOCH, Vec::new(), head, recent);
    let filter = Filter::new([">"]).unwrap();
    let mut cx = Context::from_waker(Waker::noop());

    let mut group = c.benchmark_group("ring/replay");
    for behind in BEHIND {
        let from = Cursor {
            epoch: EPOCH,
            seq: head - behind,
        };
        group.throughput(Throughput::Elements(behind));
        group.bench_function(BenchmarkId::from_parameter(behind), |b| {
            b.iter(|| {
                let mut subscription = hub.subscribe(filter.clone(), Some(from)).unwrap();
                let mut bytes = 0;
                while let Poll::Ready(next) = subscription.poll_next(&mut cx) {
                    match next {
                        Next::Bytes(piece) => bytes += piece.len(),
                        other => panic!("all of it is in the ring, but {other:?}"),
                    }
                }
                assert_eq!(subscription.cursor().seq, head);
                bytes
            });
        });
    }
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
    targets = push, read, replay
}
criterion_main!(benches);
