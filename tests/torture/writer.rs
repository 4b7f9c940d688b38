//! Writers: transactions of all kinds, whose ends may stay unknown.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time;
use tokio_postgres::NoTls;

use super::Over;
use crate::harness::{Committed, TestDatabase, now};

static NAMES: AtomicU64 = AtomicU64::new(1);

/// Writes until it is over, on as many connections as it takes.
pub(super) async fn write(
    database: TestDatabase,
    over: Over,
    mut random: fastrand::Rng,
) -> Vec<Committed> {
    let mut ledger = Vec::new();
    while !over.is_over() {
        // Whatever goes wrong, a fault has struck; what was not answered is not noted.
        if session(&database, &over, &mut random, &mut ledger)
            .await
            .is_err()
        {
            time::sleep(Duration::from_millis(20)).await;
        }
    }
    ledger
}

async fn session(
    database: &TestDatabase,
    over: &Over,
    random: &mut fastrand::Rng,
    ledger: &mut Vec<Committed>,
) -> Result<(), tokio_postgres::Error> {
    let (psql, connection) = tokio_postgres::connect(&database.url, NoTls).await?;
    tokio::spawn(connection);
    let insert = psql
        .prepare("INSERT INTO events (name, properties) VALUES ($1, '{\"a\":1}')")
        .await?;
    while !over.is_over() {
        let mut rows = Vec::new();
        psql.batch_execute("BEGIN").await?;
        for _ in 0..random.usize(1..5) {
            let name = format!("n{}", NAMES.fetch_add(1, Ordering::Relaxed));
            let is_undone = random.u8(0..8) == 0;
            if is_undone {
                psql.batch_execute("SAVEPOINT s").await?;
            }
            let at = now();
            psql.execute(&insert, &[&name]).await?;
            if is_undone {
                psql.batch_execute("ROLLBACK TO s").await?;
            } else {
                rows.push((name, at));
            }
        }
        if random.u8(0..30) == 0 {
            // Long enough for a hub to have fallen asleep meanwhile.
            time::sleep(Duration::from_millis(random.u64(0..800))).await;
        }
        if random.u8(0..5) == 0 {
            psql.batch_execute("ROLLBACK").await?;
        } else {
            psql.batch_execute("COMMIT").await?;
            ledger.push(Committed { rows, at: now() });
        }
        time::sleep(Duration::from_micros(random.u64(0..8000))).await;
    }
    Ok(())
}
