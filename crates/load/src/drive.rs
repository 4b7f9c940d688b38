//! Publishes events at a steady rate, in each server's own way.

use anyhow::{Context, Result, ensure};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_postgres::{Client, Statement};

use crate::{
    crowd::Written,
    writer::{connect, now},
};

/// Connections that publish at the same time.
pub(crate) const WRITERS: u32 = 8;

/// Most transactions a second, where nothing else is asked for. Above, each has several rows.
pub(crate) const TRANSACTIONS: u32 = 1000;

/// Most events of a run that are timed.
const TIMED: u64 = 10_000;

/// How events come to a server.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// Inserted into a table.
    Rows { url: String, table: &'static str },
    /// Each in a POST of its own.
    Http {
        address: SocketAddr,
        path: &'static str,
    },
    /// By Redis's PUBLISH.
    Resp(SocketAddr),
    /// As they are to be sent on.
    Raw(SocketAddr),
}

/// How much is to be published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Events a second.
    pub(crate) rate: u32,
    /// Most transactions a second. Above, each has several of them.
    pub(crate) transactions: u32,
    pub(crate) time: Duration,
    /// Event n is for lane n modulo this.
    pub(crate) lanes: u32,
    /// Bytes beside the numbers in an event's data.
    pub(crate) pad: u32,
    /// The first event's number.
    pub(crate) first: u64,
}

/// One of the connections that publish.
pub(crate) enum Writer {
    Rows(Client, Statement),
    Http(TcpStream, &'static str),
    Resp(TcpStream),
    Raw(TcpStream),
}

impl Pace {
    /// Events in one transaction, or one request.
    fn batch(&self) -> u32 {
        self.rate.div_ceil(self.transactions)
    }

    /// Only events whose number is a multiple of this are timed.
    pub(crate) fn stride(&self) -> u64 {
        let events = u64::from(self.rate) * (self.time.as_secs() + 1);
        events.div_ceil(TIMED)
    }

    /// The connections to publish over, which are as ready as if they had been there for long.
    pub(crate) async fn connect(&self, way: &Way) -> Result<Vec<Writer>> {
        let writers = match way {
            Way::Raw(_) => 1,
            _ => WRITERS.min(self.rate.div_ceil(self.batch())),
        };
        let mut ready = Vec::new();
        for _ in 0..writers {
            let writer = Writer::connect(way).await?;
            writer.warm_up(self).await?;
            ready.push(writer);
        }
        Ok(ready)
    }

    /// Publishes. Returns what was.
    pub(crate) async fn publish(self, over: Vec<Writer>) -> Result<Written> {
        let batch = u64::from(self.batch());
        let writers = u32::try_from(over.len())?;
        let stride = self.stride();
        let due = self.rate.div_ceil(self.batch());
        let pause = Duration::from_secs(1) * writers / due;
        let most = u64::from(self.rate) * (self.time.as_secs() + 2) + batch * u64::from(WRITERS);
        let slots = (0..=most / stride).map(|_| AtomicU64::new(0));
        let committed: Arc<[AtomicU64]> = slots.collect();
        let first = self.first.next_multiple_of(stride);

        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for (nth, mut writer) in (0..writers).zip(over) {
            let mut ticks = time::interval_at(start + pause * nth / writers, pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let committed = Arc::clone(&committed);
            tasks.spawn(async move {
                let mut own = Vec::new();
                for step in 0.. {
                    if ticks.tick().await >= start + self.time {
                        break;
                    }
                    let n = self.first + (step * u64::from(writers) + u64::from(nth)) * batch;
                    writer.write(n, &self).await.context("cannot publish")?;
                    let at = now();
                    for n in (n..n + batch).filter(|n| n.is_multiple_of(stride)) {
                        let slot = usize::try_from((n - first) / stride)?;
                        if let Some(slot) = committed.get(slot) {
                            slot.store(at, Relaxed);
                        }
                    }
                    own.push(n);
                }
                anyhow::Ok(own)
            });
        }
        let mut written = Written {
            due: vec![(0, 0); usize::try_from(self.lanes)?],
            first,
            ..Written::default()
        };
        while let Some(done) = tasks.join_next().await {
            for n in done??.into_iter().flat_map(|n| n..n + batch) {
                written.events += 1;
                let (events, sum) = &mut written.due[usize::try_from(n % u64::from(self.lanes))?];
                *events += 1;
                *sum += n;
            }
        }
        written.time = start.elapsed();
        written.committed = committed.iter().map(|slot| slot.load(Relaxed)).collect();
        Ok(written)
    }

    /// The number that comes after all that are published at this pace.
    pub(crate) fn beyond(&self) -> u64 {
        let margin = u64::from(self.batch()) * u64::from(WRITERS) * 2;
        self.first + u64::from(self.rate) * (self.time.as_secs() + 2) + margin
    }
}

impl Writer {
    async fn connect(way: &Way) -> Result<Self> {
        let open = async |address: &SocketAddr| {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            anyhow::Ok(stream)
        };
        Ok(match way {
            Way::Rows { url, table } => {
                let client = connect(url).await?;
                let insert = format!(
                    "INSERT INTO {table} (n, t, lane, pad)
                     SELECT n, $2, n % $4, repeat('x', $5) FROM generate_series($1::bigint, $1 + $3 - 1) AS n"
                );
                let types = [
                    tokio_postgres::types::Type::INT8,
                    tokio_postgres::types::Type::INT8,
                    tokio_postgres::types::Type::INT8,
                    tokio_postgres::types::Type::INT8,
                    tokio_postgres::types::Type::INT4,
                ];
                let insert = client.prepare_typed(&insert, &types).await?;
                Self::Rows(client, insert)
            }
            Way::Http { address, path } => Self::Http(open(address).await?, path),
            Way::Resp(address) => Self::Resp(open(address).await?),
            Way::Raw(address) => Self::Raw(open(address).await?),
        })
    }

    /// Has a session of Postgres plan what it is to do, and publishes nothing.
    async fn warm_up(&self, pace: &Pace) -> Result<()> {
        let Self::Rows(client, insert) = self else {
            return Ok(());
        };
        client.batch_execute("BEGIN").await?;
        insert_rows(client, insert, pace.first, pace).await?;
        client.batch_execute("ROLLBACK").await?;
        Ok(())
    }

    /// Publishes a batch from this number on, and waits until it is.
    async fn write(&mut self, n: u64, pace: &Pace) -> Result<()> {
        let batch = u64::from(pace.batch());
        match self {
            Self::Rows(client, insert) => insert_rows(client, insert, n, pace).await?,
            Self::Http(stream, path) => {
                for n in n..n + batch {
                    let data = data(n, pace.pad);
                    let request = format!(
                        "POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Length: {}\r\n\r\n{data}",
                        data.len()
                    );
                    stream.write_all(request.as_bytes()).await?;
                    let answer = answer(stream).await?;
                    ensure!(answer.starts_with("HTTP/1.1 20"), "{answer}");
                }
            }
            Self::Resp(stream) => {
                let mut commands = String::new();
                for n in n..n + batch {
                    let data = data(n, pace.pad);
                    let len = data.len();
                    let command =
                        format!("*3\r\n$7\r\nPUBLISH\r\n$4\r\nload\r\n${len}\r\n{data}\r\n");
                    commands.push_str(&command);
                }
                stream.write_all(commands.as_bytes()).await?;
                // `:` and how many subscribers there are.
                let mut answers = vec![0; 4 * usize::try_from(batch)?];
                stream.read_exact(&mut answers).await?;
            }
            Self::Raw(stream) => {
                let block = |n| {
                    format!(
                        "id: 00000000-{n}\nevent: e\ndata: {}\n\n",
                        data(n, pace.pad)
                    )
                };
                let blocks: String = (n..n + batch).map(block).collect();
                stream.write_all(blocks.as_bytes()).await?;
            }
        }
        Ok(())
    }
}

async fn insert_rows(client: &Client, insert: &Statement, n: u64, pace: &Pace) -> Result<()> {
    let (n, t) = (i64::try_from(n)?, i64::try_from(now())?);
    let (batch, lanes) = (i64::from(pace.batch()), i64::from(pace.lanes));
    let pad = i32::try_from(pace.pad)?;
    client
        .execute(insert, &[&n, &t, &batch, &lanes, &pad])
        .await?;
    Ok(())
}

/// What an attached row looks like.
fn data(n: u64, pad: u32) -> String {
    let pad = "x".repeat(pad.try_into().unwrap_or_default());
    format!(r#"{{"n":{n},"t":{},"pad":"{pad}"}}"#, now())
}

/// A whole answer: its head, and as much as that says.
async fn answer(stream: &mut TcpStream) -> Result<String> {
    let mut answer = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "hung up");
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            let length = length.map_or(Ok(0), str::parse::<usize>)?;
            if body.len() >= length {
                return Ok(text.into_owned());
            }
        }
    }
}
