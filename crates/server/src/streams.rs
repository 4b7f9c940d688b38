//! What streams do, counted.
//!
//! A hub hands out hundreds of thousands of portions a second, so counting one must cost next to
//! nothing: a few additions, without a lock, to counters that no other processor writes to at the
//! same time. What they come to is added up when somebody asks.

use crossbeam_utils::CachePadded;
use http::Version;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use std::{
    array,
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

/// Copies of the counters. With more threads than this, some share one.
const SHARDS: usize = 16;

/// Upper bounds of the latency's buckets, in seconds; beyond the last there is one more.
const BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The counters of all streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    shards: [CachePadded<Shard>; SHARDS],
    open: [AtomicI64; Transport::ALL.len()],
    opened: [AtomicU64; Transport::ALL.len()],
    closed: [AtomicU64; Closed::ALL.len()],
}

/// Counters that few threads write to.
#[derive(Debug, Default)]
struct Shard {
    events: [AtomicU64; Source::ALL.len()],
    bytes: AtomicU64,
    latency: [AtomicU64; BOUNDS.len() + 1],
    latency_us: AtomicU64,
}

/// What a stream's bytes go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// HTTP/1.1, written to the socket by `direct`.
    Direct,
    /// HTTP/1 by hyper.
    Http1,
    Http2,
}

/// Where events come from that a client is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From its lane, as they happen; the newest was captured then.
    Live(SystemTime),
    /// Replayed from the hub's ring.
    Ring,
    /// Replayed from a page of history that was there already.
    Cache,
    /// Replayed from a page of history that was read for it.
    Database,
}

/// Why a stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The client went away, or the network between.
    Left,
    /// The client took nothing for too long.
    Stalled,
    /// This hub shut down.
    Shutdown,
    /// Another stream took its place: a new epoch.
    Epoch,
    /// History could not be read.
    History,
    /// The client's token had expired.
    Expired,
}

/// One stream, from its opening to its end.
#[derive(Debug)]
pub(crate) struct Tally {
    streams: Arc<Streams>,
    transport: Transport,
    closed: Closed,
}

thread_local! {
    static SHARD: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
    /// Whether what is dropped now on this thread took nothing for too long.
    static IS_STALLED: Cell<bool> = const { Cell::new(false) };
}

// === impl Streams ===

impl Streams {
    /// A stream begins.
    pub(crate) fn open(self: &Arc<Self>, transport: Transport) -> Tally {
        self.open[transport as usize].fetch_add(1, Ordering::Relaxed);
        self.opened[transport as usize].fetch_add(1, Ordering::Relaxed);
        Tally {
            streams: Arc::clone(self),
            transport,
            closed: Closed::Left,
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[SHARD.with(|&nth| nth)]
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let shards = self.shards.iter();
        shards
            .map(|shard| counter(shard).load(Ordering::Relaxed))
            .sum()
    }
}

// === impl Tally ===

impl Tally {
    /// These bytes are handed to the connection, with so many events in them from there.
    pub(crate) fn hand_out(&self, bytes: usize, events: Option<(Source, u32)>) {
        let shard = self.streams.shard();
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&shard.bytes, bytes as u64);
        let Some((source, events)) = events else {
            return;
        };
        add(&shard.events[source.index()], events.into());
        if let Source::Live(captured) = source {
            // A clock behind the database's makes it nothing.
            let age = captured.elapsed().unwrap_or_default();
            let seconds = age.as_secs_f64();
            let bucket = BOUNDS.iter().take_while(|&&bound| bound < seconds).count();
            add(&shard.latency[bucket], 1);
            let us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
            add(&shard.latency_us, us);
        }
    }

    /// It is about to end for this reason, and not because the client left.
    pub(crate) fn close(&mut self, why: Closed) {
        self.closed = why;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let why = match self.closed {
            Closed::Left if IS_STALLED.get() => Closed::Stalled,
            why => why,
        };
        self.streams.open[self.transport as usize].fetch_sub(1, Ordering::Relaxed);
        self.streams.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Drops what took nothing for too long. A stream in it that is still open is counted so.
pub(crate) fn drop_stalled<T>(stalled: T) {
    IS_STALLED.set(true);
    drop(stalled);
    IS_STALLED.set(false);
}

// === impl labels ===

impl Transport {
    const ALL: [(Self, &str); 3] = [
        (Self::Direct, "direct"),
        (Self::Http1, "http1"),
        (Self::Http2, "http2"),
    ];

    /// By the version of a request that hyper has read.
    pub(crate) fn of(version: Version) -> Self {
        if version == Version::HTTP_2 {
            Self::Http2
        } else {
            Self::Http1
        }
    }
}

impl Source {
    const ALL: [&str; 4] = ["live", "ring", "cache", "database"];

    fn index(self) -> usize {
        match self {
            Self::Live(_) => 0,
            Self::Ring => 1,
            Self::Cache => 2,
            Self::Database => 3,
        }
    }
}

impl Closed {
    /// By the hub.
    pub(crate) fn by_hub(is_replaced: bool) -> Self {
        if is_replaced {
            Self::Epoch
        } else {
            Self::Shutdown
        }
    }

    const ALL: [(Self, &str); 6] = [
        (Self::Left, "left"),
        (Self::Stalled, "stalled"),
        (Self::Shutdown, "shutdown"),
        (Self::Epoch, "epoch"),
        (Self::History, "history"),
        (Self::Expired, "expired"),
    ];
}

// === impl Collector ===

impl Collector for Streams {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

        let what = "Open streams, by what their bytes go through";
        let mut family = encoder.encode_descriptor("streams", what, None, MetricType::Gauge)?;
        for (transport, name) in Transport::ALL {
            let open = self.open[transport as usize].load(Ordering::Relaxed);
            ConstGauge::new(open).encode(family.encode_family(&[("transport", name)])?)?;
        }

        let what = "Streams that were opened, by what their bytes go through";
        let counter = MetricType::Counter;
        let mut family = encoder.encode_descriptor("streams_opened", what, None, counter)?;
        for (transport, name) in Transport::ALL {
            let opened = load(&self.opened[transport as usize]);
            put(&mut family, ("transport", name), opened)?;
        }

        let what = "Streams that ended: the client left, took nothing for too long (stalled), this hub \
                    shut down, a new epoch began, or history could not be read";
        let mut family = encoder.encode_descriptor("streams_closed", what, None, counter)?;
        for (why, name) in Closed::ALL {
            put(
                &mut family,
                ("reason", name),
                load(&self.closed[why as usize]),
            )?;
        }

        let what = "Events handed to connections, each once for each client: as they happen (live), or \
                    replayed from the ring, from a page of history that was in memory (cache) or from one \
                    that was read for it (database). States that come before the cursor are not among them";
        let mut family = encoder.encode_descriptor("deliveries", what, None, counter)?;
        for (nth, name) in Source::ALL.into_iter().enumerate() {
            put(
                &mut family,
                ("source", name),
                self.sum(|shard| &shard.events[nth]),
            )?;
        }

        let what = "Bytes of streams handed to connections, heartbeats included, HTTP's own not";
        let bytes = ConstCounter::new(self.sum(|shard| &shard.bytes));
        let unit = Some(&Unit::Bytes);
        bytes.encode(encoder.encode_descriptor("delivered", what, unit, counter)?)?;

        let what = "Time from the capture of an event (by the database's clock, in the writer's transaction, so \
                    what that takes to commit is included) until it is handed to a client's connection, when the kernel \
                    has taken all before it (by this machine's clock). Once for each client and piece that it is \
                    handed, by the newest event in it; replays are not included";
        let unit = Some(&Unit::Seconds);
        let kind = MetricType::Histogram;
        let mut latency = encoder.encode_descriptor("delivery_latency", what, unit, kind)?;
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let counts: [u64; BOUNDS.len() + 1] =
            array::from_fn(|nth| self.sum(|shard| &shard.latency[nth]));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let sum = Duration::from_micros(self.sum(|shard| &shard.latency_us));
        latency.encode_histogram::<NoLabelSet>(
            sum.as_secs_f64(),
            counts.iter().sum(),
            &buckets,
            None,
        )
    }
}

fn put(family: &mut MetricEncoder<'_>, label: (&str, &str), count: u64) -> Result<(), fmt::Error> {
    ConstCounter::new(count).encode(family.encode_family(&[label])?)
}
