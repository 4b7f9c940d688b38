//! The process that has a crowd's sockets: one thread, one epoll, as little as can be.

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use memchr::memchr;
use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream};
use socket2::{Domain, Socket, Type};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
    time::Duration,
};
use tokio::time::Instant;

use super::{Ask, Request, Seen};
use crate::{digits::number, writer::now};

/// Addresses that clients connect from. Each has 28,000 ports towards one address and port of a
/// server, and a port that was used rests for a minute.
const SOURCES: u32 = 8;

/// When nothing has come for so long, nothing will.
const SILENCE: Duration = Duration::from_secs(10);

/// How long a server may take to answer all clients.
const OPENING: Duration = Duration::from_mins(1);

const WAKER: Token = Token(usize::MAX);

struct Client {
    stream: TcpStream,
    lane: u32,
    is_answered: bool,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    events: u64,
    /// Of their numbers.
    sum: u64,
}

/// What was seen since the last [`Ask::Begin`].
struct Log {
    stride: u64,
    seen: Seen,
    since_insert: Histogram<u64>,
    /// Numbers of events, and when they were read.
    reads: Vec<(u64, u64)>,
    newest: Instant,
}

/// Connects, says so, and answers until nobody asks any more.
pub(crate) fn run(request: &Request) -> Result<()> {
    let mut poll = Poll::new()?;
    let asks = listen(Waker::new(poll.registry(), WAKER)?);
    let mut clients = Vec::new();
    for n in 0..request.clients {
        let mut stream = connect(request, n).context("cannot connect")?;
        let token = Token(clients.len());
        let readable = Interest::READABLE;
        poll.registry().register(&mut stream, token, readable)?;
        clients.push(Client {
            stream,
            lane: n % request.lanes,
            is_answered: false,
            partial: Vec::new(),
            events: 0,
            sum: 0,
        });
    }

    let mut events = Events::with_capacity(4096);
    let mut buffer = vec![0; 256 * 1024];
    let mut log = Log::new(1)?;
    let opened = Instant::now();
    let mut is_open = false;
    let mut ending = None;
    loop {
        let tick = Duration::from_millis(100);
        match poll.poll(&mut events, Some(tick)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if let Some(client) = clients.get_mut(event.token().0) {
                client.read(&mut buffer, &mut log)?;
            }
        }
        if !is_open {
            is_open = clients.iter().all(|client| client.is_answered);
            if is_open {
                answer(&Seen::default())?;
            }
            ensure!(opened.elapsed() < OPENING, "not all were answered");
            continue;
        }
        if ending.is_none() {
            match asks.try_recv() {
                Ok(Ask::Begin { stride }) => {
                    log = Log::new(stride)?;
                    for client in &mut clients {
                        (client.events, client.sum) = (0, 0);
                    }
                    answer(&Seen::default())?;
                }
                Ok(end @ Ask::End { .. }) => {
                    log.newest = log.newest.max(Instant::now());
                    ending = Some(end);
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        if let Some(Ask::End {
            deliveries,
            first,
            committed,
            due,
        }) = &ending
            && (log.seen.deliveries >= *deliveries || log.newest.elapsed() > SILENCE)
        {
            log.seen.incomplete = count_incomplete(&clients, due);
            answer(&log.report(*first, committed)?)?;
            ending = None;
        }
    }
}

/// Asks, as they come on standard input.
fn listen(waker: Waker) -> Receiver<Ask> {
    let (sender, asks) = mpsc::channel();
    let waker = Arc::new(waker);
    thread::spawn(move || {
        for line in io::stdin().lines() {
            let Some(ask) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                break;
            };
            if sender.send(ask).is_err() || waker.wake().is_err() {
                break;
            }
        }
    });
    asks
}

fn answer(seen: &Seen) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(seen)?)?;
    out.flush()?;
    Ok(())
}

fn connect(request: &Request, n: u32) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + n % SOURCES);
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&request.address.into())?;
    let lane = n % request.lanes;
    let path = request.path.replace("{lane}", &lane.to_string());
    let after = u64::from(lane) * request.apart;
    let header = request
        .header
        .as_deref()
        .map_or_else(String::new, |header| {
            header.replace("{after}", &after.to_string()) + "\r\n"
        });
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: hub\r\nAccept: text/event-stream\r\n{header}\r\n");
    (&socket).write_all(head.as_bytes())?;
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket.into()))
}

fn count_incomplete(clients: &[Client], due: &[(u64, u64)]) -> u64 {
    let lane = |client: &Client| usize::try_from(client.lane).expect("it is small");
    let is_complete =
        |client: &&Client| due.get(lane(client)) == Some(&(client.events, client.sum));
    let complete = clients.iter().filter(is_complete).count();
    (clients.len() - complete) as u64
}

impl Client {
    /// All there is: a read that does not fill the buffer was the last.
    fn read(&mut self, buffer: &mut [u8], log: &mut Log) -> Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    log.seen.closed += 1;
                    return Ok(());
                }
                Ok(len) => {
                    log.seen.reads += 1;
                    self.take(&buffer[..len], log)?;
                    if len < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {
                    log.seen.closed += 1;
                    return Ok(());
                }
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8], log: &mut Log) -> Result<()> {
        let at = now();
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() {
                self.line(line, at, log)?;
            } else {
                let mut partial = std::mem::take(&mut self.partial);
                partial.extend_from_slice(line);
                self.line(&partial, at, log)?;
                partial.clear();
                self.partial = partial;
            }
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// A line of the format, or of HTTP; of interest are the end of the head and the data.
    fn line(&mut self, line: &[u8], at: u64, log: &mut Log) -> Result<()> {
        if let Some(json) = line.strip_prefix(br#"data: {"n":"#) {
            let (n, rest) = number(json);
            self.events += 1;
            self.sum += n;
            log.seen.deliveries += 1;
            if n.is_multiple_of(log.stride) {
                let rest = rest.strip_prefix(br#","t":"#).context("then the time")?;
                log.timed(n, number(rest).0, at)?;
            }
        } else if line == b"\r" {
            self.is_answered = true;
        }
        Ok(())
    }
}

impl Log {
    fn new(stride: u64) -> Result<Self> {
        Ok(Self {
            stride,
            seen: Seen::default(),
            since_insert: Histogram::new(3)?,
            reads: Vec::new(),
            newest: Instant::now(),
        })
    }

    /// One of the events that are timed was read.
    fn timed(&mut self, n: u64, inserted: u64, at: u64) -> Result<()> {
        self.newest = Instant::now();
        self.since_insert.record(at.saturating_sub(inserted))?;
        self.reads.push((n, at));
        Ok(())
    }

    fn report(&mut self, first: u64, committed: &[u64]) -> Result<Seen> {
        let mut since_commit = Histogram::<u64>::new(3)?;
        for (n, at) in &self.reads {
            let nth = n.checked_sub(first).map(|n| n / self.stride);
            let nth = nth.and_then(|nth| usize::try_from(nth).ok());
            match nth.and_then(|nth| committed.get(nth)) {
                None | Some(0) => {}
                Some(committed) => since_commit.record(at.saturating_sub(*committed))?,
            }
        }
        let mut seen = std::mem::take(&mut self.seen);
        seen.since_insert = counts(&self.since_insert);
        seen.since_commit = counts(&since_commit);
        Ok(seen)
    }
}

fn counts(times: &Histogram<u64>) -> Vec<(u64, u64)> {
    times
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_at_value()))
        .collect()
}
