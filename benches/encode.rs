//! What an event costs on its way into bytes, and a client on the way back.
//!
//! `encode` makes a buffer of its own for each event, as the server does. `decode` is the
//! decoder of `sse`, fed one event at a time.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark is no library"
)]

mod support;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use server::PLAIN;
use std::time::Duration;
use support::{EPOCH, HEAD, event, frame};

const DATA_BYTES: [usize; 2] = [200, 10_000];

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for data_bytes in DATA_BYTES {
        let event = event(HEAD, "org.7.orders", data_bytes);
        group.throughput(throughput(data_bytes));
        group.bench_function(BenchmarkId::from_parameter(data_bytes), |b| {
            let event = || event.clone();
            b.iter_batched(
                event,
                |event| server::encode(EPOCH, event),
                BatchSize::SmallInput,
            );
        });
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for data_bytes in DATA_BYTES {
        let wire = frame(HEAD, "org.7.orders", data_bytes).wire.bytes(PLAIN);
        let mut decoder = sse::Decoder::new();
        group.throughput(throughput(data_bytes));
        group.bench_function(BenchmarkId::from_parameter(data_bytes), |b| {
            b.iter(|| {
                decoder.feed(&wire);
                let item = decoder.next();
                assert!(matches!(item, Some(Ok(sse::Item::Event(_)))));
                item
            });
        });
    }
}

/// One event and its bytes on the wire.
fn throughput(data_bytes: usize) -> Throughput {
    Throughput::ElementsAndBytes {
        elements: 1,
        bytes: frame(HEAD, "org.7.orders", data_bytes).wire.len(PLAIN) as u64,
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = encode, decode
}
criterion_main!(benches);
