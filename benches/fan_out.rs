//! From a published event to the last of many clients, over real sockets.
//!
//! The hub and its HTTP server run in this process on a runtime of their own with two
//! threads; the clients, each a TCP connection on loopback with a `GET /v1/stream` on it,
//! share one further thread. Connections are opened once for each number of clients.
//!
//! - `one`: an event is published; the time until every client has all of it.
//! - `burst`: a hundred batches of one event are published back to back; the time until
//!   every client has all hundred. How much of it is coalesced is up to the server.
//! - `one_processor`, `burst_processor`: the same, but what is reported is the processor time
//!   of the server's two threads.
//!
//! The elapsed time is of everything together: server, kernel, and the clients' reads. The
//! processor time leaves the client thread out, but not the kernel's work on loopback, where
//! the sender's thread also carries a segment to the receiver's socket. Encoding is in
//! neither; it is done before the clock starts.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark is no library"
)]

mod support;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use hub::{Frame, Hub, Limits};
use memchr::memmem;
use pg::{Database, History, Publisher};
use server::{App, EVENT_INTERVAL, Edge, Gate, Health, Metrics, Origins, Pages, Settings};
use std::{
    cell::{Cell, LazyCell, RefCell},
    convert::Infallible,
    fs, future, io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    task::ready,
    thread::{self, JoinHandle},
    time::Duration,
};
use support::{EPOCH, HEAD, frame};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// The request that every client sends.
const REQUEST: &[u8] = b"GET /v1/stream?topic=%3E HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Blocks that a stream opens with: when to reconnect, and a first id.
const OPENING_BLOCKS: u64 = 2;

/// A server and its clients.
struct Fleet {
    hub: Arc<Hub>,
    server: Runtime,
    /// Where the kernel says how long the server's threads have run; empty where it does not.
    schedstats: Arc<Mutex<Vec<PathBuf>>>,
    clients: u64,
    /// Blocks that all clients together are still to receive.
    missing: Arc<AtomicU64>,
    /// Says when nothing is missing any more.
    done: Receiver<()>,
    stop: CancellationToken,
    client_thread: Option<JoinHandle<()>>,
    /// The number of the newest frame that was made.
    head: Cell<u64>,
}

/// The clients' side of a fleet.
#[derive(Clone)]
struct Tally {
    missing: Arc<AtomicU64>,
    done: SyncSender<()>,
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out");
    group.sampling_mode(SamplingMode::Flat);
    for clients in [100, 1_000, 5_000] {
        let fleet = LazyCell::new(|| Fleet::open(clients));
        for (name, batches) in [("one", 1), ("burst", 100)] {
            group.throughput(Throughput::Elements(clients * batches));
            group.bench_function(BenchmarkId::new(name, clients), |b| {
                let fleet = &*fleet;
                b.iter_custom(|iters| (0..iters).map(|_| fleet.deliver(batches)).sum());
            });
            if !cfg!(target_os = "linux") {
                continue;
            }
            let id = BenchmarkId::new(format!("{name}_processor"), clients);
            group.bench_function(id, |b| {
                let fleet = &*fleet;
                b.iter_custom(|iters| {
                    let before = fleet.processor_time();
                    for _ in 0..iters {
                        fleet.deliver(batches);
                    }
                    fleet.processor_time().saturating_sub(before)
                });
            });
        }
    }
}

// === impl Fleet ===

impl Fleet {
    /// Starts a server, and returns once all clients have the opening of their streams.
    fn open(clients: u64) -> Self {
        let schedstats = Arc::new(Mutex::new(Vec::new()));
        let server = server_runtime(&schedstats);
        let hub = Hub::new(Limits::default());
        hub.open(EPOCH, Vec::new(), HEAD, Vec::new(), Vec::new());
        let address = server.block_on(listen(Arc::clone(&hub)));

        let (done_tx, done) = sync_channel(1);
        let missing = Arc::new(AtomicU64::new(clients * OPENING_BLOCKS));
        let tally = Tally {
            missing: Arc::clone(&missing),
            done: done_tx,
        };
        let stop = CancellationToken::new();
        let stop_clients = stop.clone();
        let client_thread =
            thread::spawn(move || run_clients(address, clients, &tally, &stop_clients));
        let fleet = Self {
            hub,
            server,
            schedstats,
            clients,
            missing,
            done,
            stop,
            client_thread: Some(client_thread),
            head: Cell::new(HEAD),
        };
        fleet.wait("the streams to open");
        assert_eq!(fleet.hub.subscriptions() as u64, clients);
        fleet
    }

    /// Publishes batches of one event each, and takes the time until every client has
    /// received them.
    fn deliver(&self, batches: u64) -> Duration {
        let head = self.head.get();
        self.head.set(head + batches);
        let batches: Vec<Vec<Frame>> = (head + 1..=head + batches)
            .map(|seq| vec![frame(seq, "org.7.orders", 200)])
            .collect();
        let deliveries = batches.len() as u64 * self.clients;
        self.missing.store(deliveries, Ordering::Release);
        let hub = Arc::clone(&self.hub);

        let start = Instant::now();
        // On the server's runtime, as in the server.
        self.server.spawn(async move {
            for batch in batches {
                hub.publish(batch);
            }
        });
        self.wait("the events to arrive");
        start.elapsed()
    }

    fn wait(&self, what: &str) {
        match self.done.recv_timeout(LIMIT) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => panic!(
                "waited {LIMIT:?} for {what}: {} blocks are missing for {} clients",
                self.missing.load(Ordering::Acquire),
                self.clients,
            ),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("waited for {what}, but the clients have stopped")
            }
        }
    }

    /// How long the server's threads have run, all together.
    fn processor_time(&self) -> Duration {
        let paths = self.schedstats.lock().unwrap();
        let times = paths.iter().map(|path| {
            let text = fs::read_to_string(path).unwrap_or_else(|error| {
                panic!(
                    "cannot read a thread's time from {}: {error}",
                    path.display()
                )
            });
            let nanos = text.split(' ').next().unwrap().parse().unwrap();
            Duration::from_nanos(nanos)
        });
        times.sum()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(clients) = self.client_thread.take() {
            // If they have panicked, they have said why.
            let _: thread::Result<()> = clients.join();
        }
    }
}

/// A runtime whose threads leave word of where to look up their times.
fn server_runtime(schedstats: &Arc<Mutex<Vec<PathBuf>>>) -> Runtime {
    let schedstats = Arc::clone(schedstats);
    let note_thread = move || {
        if let Ok(thread) = fs::read_link("/proc/thread-self") {
            let path = PathBuf::from("/proc").join(thread).join("schedstat");
            schedstats.lock().unwrap().push(path);
        }
    };
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .event_interval(EVENT_INTERVAL)
        .on_thread_start(note_thread)
        .enable_all()
        .build()
        .unwrap()
}

/// Has the hub served on the present runtime. There is no database: who comes without a
/// cursor needs none.
async fn listen(hub: Arc<Hub>) -> SocketAddr {
    let database = Database::parse("postgres://nobody@127.0.0.1:1/none").unwrap();
    let metrics = pg::Metrics::default();
    let history = History::new(&database, &metrics);
    let head = watch::Sender::default().subscribe();
    let pages = Pages::new(history.clone());
    let edge = Edge::default();
    let app = App {
        metrics: Metrics::new(&hub, &metrics, &pages, &edge),
        hub,
        health: Health::new(Vec::new()),
        edge,
        history,
        pages,
        publisher: Publisher::new(&database, head, metrics).0,
        gate: Gate::open(Origins::default()),
        settings: Settings {
            // None while it is measured.
            heartbeat: Duration::from_hours(24),
            ..Settings::default()
        },
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve(
        listener,
        Arc::new(app),
        CancellationToken::new(),
        LIMIT,
    ));
    address
}

// === the clients ===

/// Opens all the streams and reads them until told to stop.
fn run_clients(address: SocketAddr, count: u64, tally: &Tally, stop: &CancellationToken) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut streams = JoinSet::new();
        for n in 1..=count {
            let stream = request(address).await.unwrap_or_else(|error| {
                let files = 2 * count + 100;
                panic!("cannot open stream {n} of {count}: {error} (is `ulimit -n` {files}?)")
            });
            streams.spawn(follow(stream, tally.clone()));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = streams.join_next() => panic!("a stream has ended: {ended:?}"),
        }
    });
}

/// Opens a stream and reads the status of its response. One at a time: the server's queue of
/// connections to accept is short, and whom it overflows for waits many seconds.
async fn request(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    assert_eq!(&status, b"HTTP/1.1 200", "the stream was refused");
    Ok(stream)
}

/// Counts the blocks of a stream. A block ends with an empty line, and nothing else on the
/// wire has two LF in a row: the head's lines and the chunks' end with CRLF.
async fn follow(mut stream: TcpStream, tally: Tally) -> io::Result<Infallible> {
    // One for all clients, so that it stays in the processor's cache.
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
    }

    let mut ends_with_lf = false;
    loop {
        let read = future::poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut stream).poll_read(cx, &mut buffer))?;
                let bytes = buffer.filled();
                if bytes.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into()).into();
                }
                let across = ends_with_lf && bytes[0] == b'\n';
                ends_with_lf = bytes.ends_with(b"\n");
                let within = memmem::find_iter(bytes, "\n\n").count();
                io::Result::Ok(within as u64 + u64::from(across)).into()
            })
        });
        tally.received(read.await?);
    }
}

// === impl Tally ===

impl Tally {
    fn received(&self, blocks: u64) {
        if blocks > 0 && self.missing.fetch_sub(blocks, Ordering::AcqRel) == blocks {
            // It has room: one is taken out before the next can be due.
            self.done.try_send(()).unwrap();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = fan_out
}
criterion_main!(benches);
