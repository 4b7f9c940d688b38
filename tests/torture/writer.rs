//! Writers: transactions of all kinds, whose ends may stay unknown.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time;
use tokio_postgres::NoTls;

use super::Over;
use crate::harness::{Committed, TestDatabase, now};

/// A second table, whose events go to as many topics as there are tenants.
pub(super) const TENANTS: &str = "
    CREATE TABLE tenants (name text, tenant integer);
    CREATE FUNCTION publish_tenants() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO bellwether.event (topic, name, data)
        SELECT 'tenant.' || tenant, name, row_to_json(inserted) FROM inserted;
        PERFORM bellwether.ring();
        RETURN NULL;
    END $$;
    CREATE TRIGGER publish AFTER INSERT ON tenants REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION publish_tenants()";

const INSERTS: [&str; 2] = [
    "INSERT INTO events (name, properties) SELECT name, '{\"a\":1}' FROM unnest($1::text[]) AS name",
    "INSERT INTO tenants (name, tenant)
     SELECT name, abs(hashtext(name) % 20) FROM unnest($1::text[]) AS name",
];

static NAMES: AtomicU64 = AtomicU64::new(1);

/// Writes until it is over, on as many connections as it takes.
pub(super) async fn write(
    number: usize,
    database: TestDatabase,
    over: Over,
    mut random: fastrand::Rng,
) -> Vec<Committed> {
    let mut ledger = Vec::new();
    while !over.is_over() {
        // Whatever goes wrong, a fault has struck; what was not answered is not noted.
        if session(number, &database, &over, &mut random, &mut ledger)
            .await
            .is_err()
        {
            time::sleep(Duration::from_millis(20)).await;
        }
    }
    ledger
}

async fn session(
    number: usize,
    database: &TestDatabase,
    over: &Over,
    random: &mut fastrand::Rng,
    ledger: &mut Vec<Committed>,
) -> Result<(), tokio_postgres::Error> {
    let (psql, connection) = tokio_postgres::connect(&database.url, NoTls).await?;
    tokio::spawn(connection);
    // What was prepared before a fault survived it, and is committed late.
    let commit_prepared = format!("COMMIT PREPARED 'writer {number}'");
    let prepared = "SELECT FROM pg_prepared_xacts WHERE gid = 'writer ' || $1";
    if !psql
        .query(prepared, &[&number.to_string()])
        .await?
        .is_empty()
    {
        psql.batch_execute(&commit_prepared).await?;
    }
    let inserts = [
        psql.prepare(INSERTS[0]).await?,
        psql.prepare(INSERTS[1]).await?,
    ];
    while !over.is_over() {
        let mut rows = Vec::new();
        psql.batch_execute("BEGIN").await?;
        let is_to_be_prepared = random.u8(0..50) == 0;
        if is_to_be_prepared {
            psql.batch_execute("SET LOCAL bellwether.doorbell = off")
                .await?;
        }
        for _ in 0..random.usize(1..5) {
            // Now and then more than a page of history, and than a ring holds.
            let count = match random.u16(0..10_000) {
                0 => random.usize(1000..5000),
                1..1000 => random.usize(2..20),
                _ => 1,
            };
            let names: Vec<String> = (0..count)
                .map(|_| format!("n{}", NAMES.fetch_add(1, Ordering::Relaxed)))
                .collect();
            let is_undone = random.u8(0..8) == 0;
            if is_undone {
                psql.batch_execute("SAVEPOINT s").await?;
            }
            let at = now();
            let insert = &inserts[random.usize(..2)];
            psql.execute(insert, &[&names]).await?;
            if is_undone {
                psql.batch_execute("ROLLBACK TO s").await?;
            } else {
                rows.extend(names.into_iter().map(|name| (name, at)));
            }
        }
        if random.u8(0..30) == 0 {
            // Long enough for a hub to have fallen asleep meanwhile.
            time::sleep(Duration::from_millis(random.u64(0..800))).await;
        }
        if random.u8(0..5) == 0 {
            psql.batch_execute("ROLLBACK").await?;
        } else if is_to_be_prepared {
            psql.batch_execute(&format!("PREPARE TRANSACTION 'writer {number}'"))
                .await?;
            time::sleep(Duration::from_millis(random.u64(0..800))).await;
            psql.batch_execute(&commit_prepared).await?;
            ledger.push(Committed { rows, at: now() });
        } else {
            psql.batch_execute("COMMIT").await?;
            ledger.push(Committed { rows, at: now() });
        }
        time::sleep(Duration::from_micros(random.u64(0..8000))).await;
    }
    Ok(())
}
