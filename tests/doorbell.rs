use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::harness::{
    Hub, TestDatabase, connect, eventually, is_promised, private_postgres, within,
};

const INSERT: &str = "INSERT INTO events (name) VALUES ('tick')";

/// Counts the notifications that the hub's listener hears too.
pub(crate) async fn count_rings(database: &TestDatabase) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (client, mut connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    let counted = Arc::clone(&count);
    let (listens, listening) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let drain = async {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(rung) = message {
                    assert_eq!((rung.channel(), rung.payload()), ("bellwether", ""));
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let listen = async {
            client.batch_execute("LISTEN bellwether").await.unwrap();
            listens.send(()).unwrap();
            std::future::pending::<()>().await;
        };
        tokio::join!(drain, listen);
    });
    listening.await.unwrap();
    count
}

#[tokio::test]
async fn a_busy_table_hardly_ever_rings() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let rings = count_rings(&database).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;

    // 4 writers, each every 2 ms: 2,000 a second for 10 seconds.
    let mut writers = JoinSet::new();
    for _ in 0..4 {
        let psql = database.connect().await;
        writers.spawn(async move {
            let insert = psql.prepare(INSERT).await.unwrap();
            let mut ticks = time::interval(Duration::from_millis(2));
            for _ in 0..5000 {
                ticks.tick().await;
                psql.execute(&insert, &[]).await.unwrap();
            }
            5000
        });
    }
    let inserted = within("the inserts", writers.join_all())
        .await
        .into_iter()
        .sum();
    client.events(inserted).await;
    let rings = rings.load(Ordering::Relaxed);
    eprintln!("{inserted} inserts rang {rings} times");
    assert!(
        rings * 100 < inserted,
        "{rings} rings for {inserted} inserts"
    );
    assert_eq!(hub.metric("bellwether_safety_poll_events_total").await, 0);
}

#[tokio::test]
async fn when_all_is_quiet_so_is_the_hub() {
    // On a server of its own: another test's open transaction would keep this hub looking.
    let folder = tempfile::tempdir().unwrap();
    let server = private_postgres(folder.path()).await;
    let database = TestDatabase::of(&server);
    let hub = Hub::start(&database).await;
    let _client = hub.stream("topic=events").await;
    database
        .connect()
        .await
        .batch_execute(INSERT)
        .await
        .unwrap();
    hub.is_asleep().await;

    let beside = connect(&server.database_url("postgres")).await;
    let transactions = async || -> i64 {
        let count =
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'bellwether'";
        beside.query_one(count, &[]).await.unwrap().get(0)
    };
    // Sessions report their transactions at most once a second.
    time::sleep(Duration::from_secs(3)).await;
    let before = transactions().await;
    time::sleep(Duration::from_secs(10)).await;
    let queries = transactions().await - before;
    eprintln!("{queries} queries in 10 s of quiet");
    assert!((5..=20).contains(&queries), "{queries} queries in 10 s");
}

/// A transaction that inserted while a hub was awake does not ring, and may commit at any
/// time. Whoever let it off the bell has to go on looking for it.
#[tokio::test]
async fn a_late_commit_is_found_without_the_safety_poll() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    hub.is_asleep().await;
    let rings = count_rings(&database).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;

    // Two, so that one of them has a transaction id beyond any snapshot's xmax: that is one
    // more than the newest that has *ended*, and neither of these has.
    let (one, other, psql) = (
        database.connect().await,
        database.connect().await,
        database.connect().await,
    );
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert!(rounds <= 50, "no promise is made, or none that lasts");
        hub.is_asleep().await;
        // One after the other: rings are answered by looks first, and by a promise soon.
        for _ in 0..30 {
            psql.batch_execute(INSERT).await.unwrap();
        }
        for late in [&one, &other] {
            let begin = format!("BEGIN; {INSERT}");
            late.batch_execute(&begin).await.unwrap();
        }
        let is_promised = is_promised(&psql).await;
        client.events(30).await;
        if is_promised {
            break;
        }
        // Too late on a busy machine: they may have rung.
        for late in [&one, &other] {
            late.batch_execute("ROLLBACK").await.unwrap();
        }
    }

    // Ten times as long as it stays awake.
    time::sleep(Duration::from_secs(4)).await;
    let before = rings.load(Ordering::Relaxed);
    one.batch_execute("COMMIT").await.unwrap();
    client.events(1).await;
    time::sleep(Duration::from_secs(2)).await;
    other.batch_execute("COMMIT").await.unwrap();
    client.events(1).await;

    let rung = rings.load(Ordering::Relaxed) - before;
    assert_eq!(rung, 0, "neither of the late ones rang");
    assert_eq!(hub.metric("bellwether_safety_poll_events_total").await, 0);
    hub.is_asleep().await;
}

#[tokio::test]
async fn the_safety_poll_finds_what_nobody_rang_for() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    hub.is_asleep().await;
    let psql = database.connect().await;
    psql.batch_execute(
        "SET bellwether.doorbell = off; INSERT INTO events (name) VALUES ('silent')",
    )
    .await
    .unwrap();
    assert_eq!(client.event().await.name, "silent");
    let found = async || hub.metric("bellwether_safety_poll_events_total").await;
    eventually("it is counted", 1, found).await;
}

/// Bulk loads, dead rows and size must not turn a look into a scan of the table.
#[tokio::test]
async fn every_plan_stays_an_index_scan() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    // Statistics of an empty table, and plans that were made for it and are kept; then many rows without
    // new statistics, then with them.
    psql.batch_execute("ANALYZE").await.unwrap();
    let looks = async || hub.metric("bellwether_looks_total").await;
    for _ in 0..20 {
        let before = looks().await;
        psql.batch_execute(
            "BEGIN; SELECT pg_current_xact_id(); SELECT bellwether.notify(''); COMMIT",
        )
        .await
        .unwrap();
        eventually("it looks", true, async || looks().await > before).await;
    }
    psql.batch_execute("INSERT INTO events (name) SELECT 'load' FROM generate_series(1, 300000)")
        .await
        .unwrap();
    let read = async || hub.metric("bellwether_events_read_total").await;
    eventually("all of it is read", 300_000, read).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    // Scans of whole tables, and events found by an index.
    let scans = async || -> (i64, i64) {
        let count = "SELECT sum(seq_scan)::bigint, sum(idx_tup_fetch) FILTER (WHERE relname = 'event')::bigint
            FROM pg_stat_user_tables
            WHERE schemaname = 'bellwether' AND relname IN ('event', 'stream', 'batch')";
        // Sessions report at most once a second.
        time::sleep(Duration::from_millis(1500)).await;
        let row = psql.query_one(count, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    // What the hub did for the load is reported when it looks the next time.
    hub.is_asleep().await;
    let before = scans().await;
    for analyze in ["", "ANALYZE"] {
        psql.batch_execute(analyze).await.unwrap();
        for _ in 0..20 {
            psql.batch_execute(INSERT).await.unwrap();
            client.event().await;
        }
        let cursor = client.cursor().to_owned();
        let (epoch, _) = cursor.split_once('-').unwrap();
        hub.resume("topic=events", &format!("{epoch}-100"))
            .await
            .events(3000)
            .await;
        hub.stream("topic=none&last=1").await.opened().await;
    }
    let after = scans().await;
    assert_eq!(after.0, before.0, "no sequential scan");
    let found = after.1 - before.1;
    assert!(
        found < 300_000,
        "{found} were read, as many as there are: some index from end to end"
    );
}

/// Or batches would become ever larger where there is more than can be read, and promises run out.
#[tokio::test]
async fn what_comes_while_much_is_read_is_numbered_along() {
    is_numbered_along(200_000, 0).await;
}

/// As many as a page holds, if they are small.
#[tokio::test]
async fn what_comes_while_few_but_large_are_read_is_numbered_along() {
    is_numbered_along(900, 60_000).await;
}

async fn is_numbered_along(loaded: u64, bytes: u32) {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let read = async || hub.metric("bellwether_events_read_total").await;
    let psql = database.connect().await;
    let load = format!(
        "INSERT INTO events (name, properties)
         SELECT 'load', to_jsonb(repeat('x', {bytes})) FROM generate_series(1, {loaded})"
    );
    psql.batch_execute(&load).await.unwrap();
    eventually("it is being read", true, async || read().await > 0).await;
    psql.batch_execute(INSERT).await.unwrap();
    eventually("what came meanwhile is numbered", loaded + 1, async || {
        hub.metric("bellwether_events_numbered_total").await
    })
    .await;
    let read_so_far = read().await;
    assert!(read_so_far < loaded, "{read_so_far} were read already");
    eventually("all of it is read", loaded + 1, read).await;
    hub.is_asleep().await;
}
