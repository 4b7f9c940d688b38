//! Dashboards that take down how old each row of `events` is when they get it.

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time,
};

use crate::writer::now;

/// The hub's route; the other one serves anything.
const REQUEST: &str =
    "GET /v1/stream?topic=events&topic=metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// What stands before the time at which a row was sent, in microseconds since 1970.
const MARK: &str = "\"sent_us\":";

/// Closed when dropped.
pub(super) struct Dashboards {
    tasks: JoinSet<Result<()>>,
    ages: Arc<Mutex<Histogram<u64>>>,
}

impl Dashboards {
    /// Opens so many, evenly over some time, as people do.
    pub(super) async fn open(address: SocketAddr, count: u32, over: Duration) -> Result<Self> {
        let ages = Arc::new(Mutex::new(Histogram::new(3)?));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(follow(
                TcpStream::connect(address).await?,
                Arc::clone(&ages),
            ));
            time::sleep(over / count).await;
        }
        Ok(Self { tasks, ages })
    }

    /// Begins anew.
    pub(super) fn forget(&self) {
        lock(&self.ages).reset();
    }

    /// What they have seen since, in microseconds. An error if one of them has ended.
    pub(super) fn ages(&mut self) -> Result<Histogram<u64>> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended?.context("a dashboard has ended")?;
        }
        Ok(lock(&self.ages).clone())
    }
}

async fn follow(socket: TcpStream, ages: Arc<Mutex<Histogram<u64>>>) -> Result<()> {
    let mut socket = BufReader::new(socket);
    socket.write_all(REQUEST.as_bytes()).await?;
    let (mut line, mut last) = (String::new(), 0);
    while socket.read_line(&mut line).await? > 0 {
        let now = now();
        let had = last;
        // What is newest may have been shown before, and what was shown be gone.
        for sent in sent(&line).filter(|&sent| sent > had) {
            lock(&ages).record(now.saturating_sub(sent))?;
            last = last.max(sent);
        }
        line.clear();
    }
    bail!("its stream has ended")
}

/// When the rows in a line were sent.
fn sent(line: &str) -> impl Iterator<Item = u64> {
    line.split(MARK).skip(1).filter_map(|rest| {
        let rest = rest.trim_start();
        let digits = rest
            .find(|it: char| !it.is_ascii_digit())
            .unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}

fn lock(ages: &Mutex<Histogram<u64>>) -> std::sync::MutexGuard<'_, Histogram<u64>> {
    ages.lock().unwrap_or_else(PoisonError::into_inner)
}
