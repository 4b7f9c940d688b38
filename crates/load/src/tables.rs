//! One table three times, and those who write to them.

use anyhow::Result;
use futures_util::{StreamExt, stream};
use hdrhistogram::Histogram;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::writer::{connect, now};

/// By itself, attached, and with the trigger of the textbooks.
pub(crate) const TABLES: [&str; 3] = ["plain", "attached", "textbook"];

/// What else is in a row.
const NOTE: &str = "a note of sixty-four bytes, as somebody would write for a purpose";

/// Who listens for what the textbook's trigger notifies.
#[derive(Debug)]
pub(crate) struct Listener {
    _client: Client,
    heard: Arc<AtomicU64>,
}

/// What writers did.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    /// How long it took until the last of them had ended.
    pub(crate) time: Duration,
    /// Each row's, in microseconds; from when it was due, if they wrote at a steady rate.
    pub(crate) latencies: Histogram<u64>,
}

/// Makes the tables. A hub must have made its schema.
pub(crate) async fn create(url: &str) -> Result<()> {
    let client = connect(url).await?;
    client.batch_execute(include_str!("tables.sql")).await?;
    Ok(())
}

/// Writers that each insert row after row into a table for so long, each row in a transaction
/// of its own: all together so many a second, or as many as they can.
pub(crate) async fn write(
    url: &str,
    table: &str,
    writers: u32,
    rate: Option<u32>,
    time: Duration,
) -> Result<Written> {
    let insert = format!("INSERT INTO {table} (t, note) VALUES ($1, '{NOTE}')");
    let mut ready = Vec::new();
    for _ in 0..writers {
        let client = connect(url).await?;
        let insert = client.prepare(&insert).await?;
        ready.push((client, insert));
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (n, (client, insert)) in (0..writers).zip(ready) {
        let mut ticks = rate.map(|rate| {
            let pause = Duration::from_secs(1) * writers / rate;
            let mut ticks = time::interval_at(start + pause * n / writers, pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            ticks
        });
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new(3)?;
            loop {
                let due = match &mut ticks {
                    Some(ticks) => ticks.tick().await,
                    None => Instant::now(),
                };
                if due >= start + time {
                    return anyhow::Ok(latencies);
                }
                client.execute(&insert, &[&i64::try_from(now())?]).await?;
                latencies.record(u64::try_from(due.elapsed().as_micros())?)?;
            }
        });
    }
    let mut latencies = Histogram::new(3)?;
    while let Some(done) = tasks.join_next().await {
        latencies.add(done??)?;
    }
    Ok(Written {
        rows: latencies.len(),
        time: start.elapsed(),
        latencies,
    })
}

impl Listener {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
        let heard = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(_) = message {
                    count.fetch_add(1, Relaxed);
                }
            }
        });
        client.batch_execute("LISTEN new_event").await?;
        Ok(Self {
            _client: client,
            heard,
        })
    }

    /// How many notifications have come so far.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }
}
