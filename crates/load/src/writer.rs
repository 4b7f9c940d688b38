//! Inserts events.

use anyhow::Result;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::{
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_postgres::{Client, NoTls, Statement};

/// Connections that insert at the same time.
const WRITERS: u32 = 8;

/// What a trigger does for a row of a user's table.
const INSERT: &str = "
    WITH inserted AS (
        INSERT INTO bellwether.event (topic, name, data)
        SELECT 'load', 'e', json_build_object('t', $1::bigint, 'pad', repeat('x', $2))
        FROM generate_series(1, $3) RETURNING id
    )
    SELECT bellwether.ring() FROM (SELECT count(*) FROM inserted) AS all_of_it";

/// Inserts so many events in one transaction.
pub(crate) async fn insert(url: &str, events: u32, bytes: u32) -> Result<()> {
    let client = connect(url).await?;
    let insert = client.prepare(INSERT).await?;
    insert_with(&client, &insert, events, bytes).await
}

/// Inserts events one by one at a steady rate, each in a transaction of its own, for so long.
/// Returns how many it were.
pub(crate) async fn run(url: &str, rate: u32, bytes: u32, time: Duration) -> Result<u64> {
    let writers = WRITERS.min(rate);
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for n in 0..writers {
        let client = connect(url).await?;
        let insert = client.prepare(INSERT).await?;
        let pause = Duration::from_secs(1) * writers / rate;
        let mut ticks = time::interval_at(Instant::now() + pause * n / writers, pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        tasks.spawn(async move {
            let mut inserted = 0;
            while Instant::now() < end {
                ticks.tick().await;
                insert_with(&client, &insert, 1, bytes).await?;
                inserted += 1;
            }
            anyhow::Ok(inserted)
        });
    }
    let mut inserted = 0;
    while let Some(done) = tasks.join_next().await {
        inserted += done??;
    }
    Ok(inserted)
}

/// Microseconds since 1970, by the clock that writers and clients share.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_micros();
    u64::try_from(now).unwrap_or(u64::MAX)
}

async fn insert_with(client: &Client, insert: &Statement, events: u32, bytes: u32) -> Result<()> {
    let (now, bytes) = (i64::try_from(now())?, i32::try_from(bytes)?);
    client
        .query(insert, &[&now, &bytes, &i32::try_from(events)?])
        .await?;
    Ok(())
}

pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Its client sees the same error.
    tokio::spawn(connection);
    Ok(client)
}
