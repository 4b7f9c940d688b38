//! A crowd: thousands of clients of one server, in a process of their own.
//!
//! So each server's clients have file descriptors and a processor of their own, whatever else runs
//! here, and all servers' clients can stay connected while one after the other is measured. The
//! harness and a crowd's process talk in lines of JSON, one [`Ask`] and one [`Seen`] at a time.

pub(crate) mod process;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{env, net::SocketAddr, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time,
};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_mins(3);

/// What to connect to, and how often.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// In it, `{lane}` stands for a client's lane.
    #[arg(long)]
    pub(crate) path: String,
    /// Beside Host. In it, `{after}` stands for a client's lane times `apart`.
    #[arg(long)]
    pub(crate) header: Option<String>,
    #[arg(long)]
    pub(crate) apart: u64,
    #[arg(long)]
    pub(crate) clients: u32,
    /// Client n is on lane n modulo this.
    #[arg(long)]
    pub(crate) lanes: u32,
}

/// What a crowd's process is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Forget what was seen. Only events whose number is a multiple of this are timed.
    Begin { stride: u64 },
    /// Say what was seen, once there were so many deliveries, or none for a while.
    End {
        deliveries: u64,
        /// The first event's number that is a multiple of the stride.
        first: u64,
        /// When it and those that follow by the stride were committed, as far as the writer knows,
        /// in microseconds since 1970; 0 if that is not known.
        committed: Vec<u64>,
        /// How many events there were on each lane, and the sum of their numbers.
        due: Vec<(u64, u64)>,
    },
}

/// What a crowd's process has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    deliveries: u64,
    reads: u64,
    incomplete: u64,
    closed: u64,
    since_insert: Vec<(u64, u64)>,
    since_commit: Vec<(u64, u64)>,
}

/// Clients of one server.
#[derive(Debug)]
pub(crate) struct Crowd {
    _child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub(crate) clients: u32,
    pub(crate) lanes: u32,
}

/// What the clients saw of some events.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) deliveries: u64,
    /// How often something could be read from a socket.
    pub(crate) reads: u64,
    /// Clients that did not get each of their events once.
    pub(crate) incomplete: u64,
    /// Connections that the server has ended.
    pub(crate) closed: u64,
    /// From before an event's INSERT was sent, or its publication, until a client has read it, in
    /// microseconds.
    pub(crate) since_insert: Histogram<u64>,
    /// The same from when its writer was told that it is committed; 0 if the client was faster.
    pub(crate) since_commit: Histogram<u64>,
}

/// Events that were written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// How many.
    pub(crate) events: u64,
    /// By lane, how many and the sum of their numbers.
    pub(crate) due: Vec<(u64, u64)>,
    pub(crate) first: u64,
    pub(crate) committed: Vec<u64>,
    /// How long it took to write them.
    pub(crate) time: Duration,
}

impl Crowd {
    /// Connects, and waits until every client has been answered.
    pub(crate) async fn open(request: &Request) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg("crowd")
            .args(["--address", &request.address.to_string()])
            .args(["--path", &request.path])
            .args(
                request
                    .header
                    .iter()
                    .flat_map(|header| ["--header", header]),
            )
            .args(["--apart", &request.apart.to_string()])
            .args(["--clients", &request.clients.to_string()])
            .args(["--lanes", &request.lanes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let asks = child.stdin.take().context("it has a standard input")?;
        let answers = child.stdout.take().context("it has a standard output")?;
        let mut crowd = Self {
            _child: child,
            asks,
            answers: BufReader::new(answers).lines(),
            clients: request.clients,
            lanes: request.lanes,
        };
        crowd.answer().await.context("clients cannot connect")?;
        Ok(crowd)
    }

    /// Forgets what was seen so far.
    pub(crate) async fn begin(&mut self, stride: u64) -> Result<()> {
        self.ask(&Ask::Begin { stride }).await.map(drop)
    }

    /// Waits until all of these events have been seen, or none comes any more.
    pub(crate) async fn end(&mut self, written: &Written) -> Result<Tally> {
        let lanes = written.due.iter().zip(0..);
        let clients = |lane: u32| self.clients.saturating_sub(lane).div_ceil(self.lanes);
        let deliveries = lanes.map(|(&(events, _), lane)| events * u64::from(clients(lane)));
        let ask = Ask::End {
            deliveries: deliveries.sum(),
            first: written.first,
            committed: written.committed.clone(),
            due: written.due.clone(),
        };
        let seen = self.ask(&ask).await?;
        Ok(Tally {
            deliveries: seen.deliveries,
            reads: seen.reads,
            incomplete: seen.incomplete,
            closed: seen.closed,
            since_insert: histogram(&seen.since_insert)?,
            since_commit: histogram(&seen.since_commit)?,
        })
    }

    async fn ask(&mut self, ask: &Ask) -> Result<Seen> {
        let line = serde_json::to_string(ask)? + "\n";
        self.asks.write_all(line.as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Seen> {
        let line = time::timeout(LIMIT, self.answers.next_line()).await??;
        let line = line.context("the process that has the clients has ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Tally {
    /// With what another crowd saw of the same events.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.deliveries += other.deliveries;
        self.reads += other.reads;
        self.incomplete += other.incomplete;
        self.closed += other.closed;
        self.since_insert.add(&other.since_insert)?;
        self.since_commit.add(&other.since_commit)?;
        Ok(())
    }

    /// An error if somebody got too little, too much or was cut off.
    pub(crate) fn is_complete(&self) -> Result<()> {
        let Self {
            incomplete, closed, ..
        } = self;
        ensure!(
            *incomplete == 0 && *closed == 0,
            "{incomplete} clients did not get each of their events once, {closed} were cut off"
        );
        Ok(())
    }
}

fn histogram(counts: &[(u64, u64)]) -> Result<Histogram<u64>> {
    let mut all = Histogram::new(3)?;
    for &(value, count) in counts {
        all.record_n(value, count)?;
    }
    Ok(all)
}
