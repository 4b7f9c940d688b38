//! Thousands of clients that each hold a stream open, and come back when it ends.
//!
//! A client is one task with one socket. It reads no more of HTTP and of the format than it must: the
//! lines that say an event's id, its name and when it was inserted.

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use memchr::memchr;
use std::{
    cell::RefCell,
    future, io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{self, Instant},
};

use crate::{digits::number, writer::now};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_mins(2);

/// Addresses that clients connect from. Each has 28,000 ports towards one address and port of a
/// server, and a port that was used rests for a minute.
const SOURCES: u32 = 8;

/// Connections being opened at the same time, when nothing is measured yet.
const OPENING: usize = 256;

/// What a client that reads nothing lets the kernel hold for it, in bytes.
const STALLED_BUFFER: u32 = 4096;

/// Clients of one hub, all of the same topic, which takes every event.
#[derive(Debug)]
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    clients: Vec<Arc<AtomicU64>>,
    gate: watch::Sender<Gate>,
    tasks: JoinSet<()>,
}

/// When clients may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// All at once, as fast as they can.
    Open,
    /// Each after some time up to this.
    Spread(Duration),
    /// Not at all: who is connected hangs up.
    Shut,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    opening: Semaphore,
    /// The number that clients are to reach.
    target: AtomicU64,
    tally: Mutex<Tally>,
}

/// What all clients of a fleet saw since the tally was taken.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) deliveries: u64,
    /// Events that did not follow on the one before.
    pub(crate) out_of_order: u64,
    /// Streams that ended, and connections that failed, though the gate was not shut.
    pub(crate) broken: u64,
    /// From before an event's INSERT was sent until a client has read it, in microseconds.
    pub(crate) latencies: Histogram<u64>,
    /// From before a client connects until it has reached the target, in microseconds.
    pub(crate) catch_ups: Histogram<u64>,
}

/// One client's stream, as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The last number it has.
    seq: u64,
    epoch: String,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    is_heartbeat: bool,
    /// The number that the present event gives itself.
    id: Option<u64>,
    deliveries: u64,
    out_of_order: u64,
    latencies: Vec<u64>,
}

// === impl Fleet ===

impl Fleet {
    /// Opens so many streams and waits until all of them have begun.
    pub(crate) async fn open(address: SocketAddr, count: u32) -> Result<Self> {
        let shared = Arc::new(Shared {
            address,
            opening: Semaphore::new(OPENING),
            target: AtomicU64::new(u64::MAX),
            tally: Mutex::new(Tally::new()?),
        });
        let gate = watch::Sender::new(Gate::Open);
        let mut fleet = Self {
            clients: Vec::new(),
            tasks: JoinSet::new(),
            shared,
            gate,
        };
        for n in 0..count {
            let seq = Arc::new(AtomicU64::new(u64::MAX));
            fleet.clients.push(Arc::clone(&seq));
            let (shared, gate) = (Arc::clone(&fleet.shared), fleet.gate.subscribe());
            fleet.tasks.spawn(run(n, shared, seq, gate));
        }
        fleet
            .wait_until("all streams have begun", |seq| seq < u64::MAX)
            .await?;
        Ok(fleet)
    }

    /// Has every client hang up; none comes back for now.
    pub(crate) fn cut(&self) {
        self.gate.send_replace(Gate::Shut);
    }

    /// Lets them come back over some time, and waits until all have reached a number. Returns
    /// how long that took.
    pub(crate) async fn come_back(&self, over: Duration, target: u64) -> Result<Duration> {
        self.shared.target.store(target, Relaxed);
        let start = Instant::now();
        self.gate.send_replace(Gate::Spread(over));
        self.reach(target).await?;
        Ok(start.elapsed())
    }

    /// Waits until all have reached a number.
    pub(crate) async fn reach(&self, target: u64) -> Result<()> {
        let what = format!("all clients have event {target}");
        self.wait_until(&what, |seq| (target..u64::MAX).contains(&seq))
            .await
    }

    /// What happened since this was last called.
    pub(crate) fn take_tally(&self) -> Result<Tally> {
        let fresh = Tally::new()?;
        Ok(std::mem::replace(&mut *self.shared.tally(), fresh))
    }

    async fn wait_until(&self, what: &str, holds: impl Fn(u64) -> bool) -> Result<()> {
        let limit = Instant::now() + LIMIT;
        loop {
            let missing = self
                .clients
                .iter()
                .filter(|seq| !holds(seq.load(Relaxed)))
                .count();
            if missing == 0 {
                return Ok(());
            }
            if Instant::now() > limit {
                let all = self.clients.len();
                bail!("waited {LIMIT:?} until {what}: {missing} of {all} have not");
            }
            time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Streams that nobody reads, for as long as they are held.
pub(crate) async fn stalled(
    address: SocketAddr,
    topic: &str,
    count: u32,
) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for n in 0..count {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(STALLED_BUFFER)?;
        streams.push(request(socket, n, address, topic, None).await?);
    }
    Ok(streams)
}

async fn request(
    socket: TcpSocket,
    n: u32,
    address: SocketAddr,
    topic: &str,
    cursor: Option<String>,
) -> io::Result<TcpStream> {
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + n % SOURCES);
    socket.bind((source, 0).into())?;
    let mut stream = socket.connect(address).await?;
    let cursor = cursor.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
    let request = format!("GET /v1/stream?topic={topic} HTTP/1.1\r\nHost: hub\r\n{cursor}\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// A client's life.
async fn run(n: u32, shared: Arc<Shared>, seq: Arc<AtomicU64>, mut gate: watch::Receiver<Gate>) {
    let mut reader = Reader::default();
    let mut pause = Duration::ZERO;
    loop {
        let Ok(open) = gate
            .wait_for(|gate| *gate != Gate::Shut)
            .await
            .map(|gate| *gate)
        else {
            return;
        };
        if let Gate::Spread(over) = open {
            time::sleep(pause.max(over.mul_f64(fastrand::f64()))).await;
        }
        let shut = async { gate.wait_for(|gate| *gate == Gate::Shut).await.map(drop) };
        tokio::select! {
            biased;
            _ = shut => pause = Duration::ZERO,
            // However it ends, the client comes back.
            _ = follow(n, &shared, &mut reader, &seq, open) => {
                shared.tally().broken += 1;
                pause = Duration::from_millis(fastrand::u64(500..1500));
            }
        }
        reader.hang_up();
    }
}

async fn follow(
    n: u32,
    shared: &Shared,
    reader: &mut Reader,
    seq: &AtomicU64,
    open: Gate,
) -> Result<()> {
    // One for all clients of a thread, so that it stays in the processor's cache.
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
    }

    let mut permit = match open {
        Gate::Open => Some(shared.opening.acquire().await?),
        _ => None,
    };
    let mut began = Some(Instant::now());
    let mut stream = request(
        TcpSocket::new_v4()?,
        n,
        shared.address,
        "load",
        reader.cursor(),
    )
    .await?;
    loop {
        let read = future::poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut stream).poll_read(cx, &mut buffer))?;
                Poll::Ready(anyhow::Ok(reader.take(buffer.filled())?))
            })
        });
        read.await?;
        if reader.epoch.is_empty() {
            continue;
        }
        drop(permit.take());
        seq.store(reader.seq, Relaxed);
        let is_there = reader.seq >= shared.target.load(Relaxed);
        let caught_up = is_there.then(|| began.take()).flatten();
        reader.report(&mut shared.tally(), caught_up.map(|began| began.elapsed()))?;
    }
}

// === impl Reader ===

impl Reader {
    fn cursor(&self) -> Option<String> {
        (!self.epoch.is_empty()).then(|| format!("{}-{}", self.epoch, self.seq))
    }

    /// Forgets the block that has not come to its end.
    fn hang_up(&mut self) {
        self.partial.clear();
        self.id = None;
        self.is_heartbeat = false;
    }

    /// Whether it has a cursor.
    pub(crate) fn has_begun(&self) -> bool {
        !self.epoch.is_empty()
    }

    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            bail!("the stream has ended");
        }
        let at = now();
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() {
                self.line(line, at)?;
            } else {
                let mut partial = std::mem::take(&mut self.partial);
                partial.extend_from_slice(line);
                self.line(&partial, at)?;
            }
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// A line of the format; or of HTTP, which looks like none of these.
    fn line(&mut self, line: &[u8], at: u64) -> Result<()> {
        if let Some(id) = line.strip_prefix(b"id: ") {
            let dash = memchr(b'-', id).context("an id is a cursor")?;
            let (seq, rest) = number(&id[dash + 1..]);
            ensure!(rest.is_empty(), "a cursor ends with a number");
            if self.epoch.is_empty() {
                str::from_utf8(&id[..dash])?.clone_into(&mut self.epoch);
                self.seq = seq;
            }
            self.id = Some(seq);
        } else if let Some(name) = line.strip_prefix(b"event: ") {
            match name {
                b"heartbeat" => self.is_heartbeat = true,
                b"gap" => self.out_of_order += 1,
                _ => {}
            }
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            if let Some(inserted) = inserted_at(data) {
                self.latencies.push(at.saturating_sub(inserted));
            }
        } else if line.is_empty() {
            // A block without an id is none of an event.
            if let Some(id) = self.id.take() {
                let is_event = u64::from(!self.is_heartbeat);
                self.out_of_order += u64::from(id != self.seq + is_event);
                self.deliveries += is_event;
                self.seq = id;
            }
            self.is_heartbeat = false;
        }
        Ok(())
    }

    pub(crate) fn report(&mut self, tally: &mut Tally, caught_up: Option<Duration>) -> Result<()> {
        tally.deliveries += std::mem::take(&mut self.deliveries);
        tally.out_of_order += std::mem::take(&mut self.out_of_order);
        for latency in self.latencies.drain(..) {
            tally.latencies.record(latency)?;
        }
        if let Some(time) = caught_up {
            tally.catch_ups.record(u64::try_from(time.as_micros())?)?;
        }
        Ok(())
    }
}

/// The number after `"t" : `, which comes first.
fn inserted_at(data: &[u8]) -> Option<u64> {
    let digits = data.iter().position(u8::is_ascii_digit)?;
    let (inserted, _) = number(&data[digits..]);
    (inserted > 0).then_some(inserted)
}

impl Tally {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            deliveries: 0,
            out_of_order: 0,
            broken: 0,
            latencies: Histogram::new(3)?,
            catch_ups: Histogram::new(3)?,
        })
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
