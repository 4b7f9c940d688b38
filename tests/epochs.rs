use hub::Epoch;
use pg::{Database, History};
use serde_json::{Value, json};
use std::process::Output;
use tokio::process::Command;

use crate::harness::{Client, Hub, TestDatabase, eventually, server_major, within};

async fn run(program: &str, args: &[&str]) -> String {
    let ran = within(program, Command::new(program).args(args).output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = ran.unwrap();
    assert!(
        status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8(stdout).unwrap()
}

/// A copy of a database that nobody is connected to: a restored dump, or where `pg_dump` is
/// too old for the server, what the server copies itself.
async fn copy(database: &TestDatabase) -> TestDatabase {
    let version = run("pg_dump", &["--version"]).await; // pg_dump (PostgreSQL) 15.18 (Debian …
    let version = version.split(' ').nth(2).unwrap();
    let pg_dump: u32 = version.split('.').next().unwrap().trim().parse().unwrap();
    if pg_dump < server_major().await {
        eprintln!("pg_dump {pg_dump} is too old for this server, which copies by itself instead");
        return TestDatabase::copy_of(database).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    let dump = dump.to_str().unwrap();
    let dump_args = ["--format=custom", "--file", dump, &database.url];
    run("pg_dump", &dump_args).await;
    let copy = TestDatabase::create().await;
    run("pg_restore", &["--no-owner", "--dbname", &copy.url, dump]).await;
    copy
}

fn epoch(cursor: &str) -> &str {
    cursor.split_once('-').unwrap().0
}

/// Reads these numbers, which must be of this epoch.
async fn read(client: &mut Client, epoch: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(
            client.events(1).await.remove(0).id,
            format!("{epoch}-{number}")
        );
    }
}

#[tokio::test]
async fn a_copy_is_another_epoch_that_continues_the_first() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=events").await;
    let old = epoch(client.opened().await.cursor()).to_owned();
    database.insert(50).await;
    read(&mut client, &old, 1..=50).await;
    hub.kill().await;
    let copy = copy(&database).await;
    let hub = Hub::start(&database).await;
    database.insert(20).await; // of which the copy knows nothing
    let mut client = hub.resume("topic=events", client.cursor()).await;
    read(&mut client, &old, 51..=70).await;
    hub.kill().await;

    let psql = copy.connect().await;
    // As from a server whose transaction ids were far ahead; one of them never numbered.
    psql.batch_execute(
        "UPDATE bellwether.event SET xid = (pg_current_xact_id()::text::bigint + 1000000 + id)::text::xid8;
         UPDATE bellwether.stream SET last_seq = 49 WHERE last_seq = 50; DELETE FROM bellwether.batch WHERE last_seq = 50;
         INSERT INTO bellwether.batch (last_seq, seen) VALUES (49, '5000000:5000000:')",
    )
    .await
    .unwrap();
    let hub = Hub::spawn(&copy.url, crate::harness::HubOptions::default())
        .await
        .unwrap();
    copy.insert(5).await;

    // In what both have in common, a client goes on as if nothing had happened.
    let mut client = hub.resume("topic=events", &format!("{old}-40")).await;
    let new = epoch(client.opened().await.cursor()).to_owned();
    assert_ne!(new, old);
    read(&mut client, &new, 41..=55).await;
    // One that saw what the copy did not is told, and gets nothing twice.
    let mut client = hub.resume("topic=events", &format!("{old}-60")).await;
    let gap: Value = serde_json::from_str(&client.event().await.data).unwrap();
    let expected =
        json!({"reason": "epoch", "from": format!("{old}-60"), "to": format!("{new}-50")});
    assert_eq!(gap, expected);
    read(&mut client, &new, 51..=55).await;
    copy.insert(5).await;
    read(&mut client, &new, 56..=60).await;
    let count = "SELECT sum(last_seq - first_seq + 1)::bigint FROM bellwether.stream";
    assert_eq!(
        psql.query_one(count, &[]).await.unwrap().get::<_, i64>(0),
        60
    );
}

#[tokio::test]
async fn a_database_made_again_is_another_stream() {
    let mut cursors: Vec<String> = Vec::new();
    for _ in 0..2 {
        let database = TestDatabase::create().await;
        let hub = Hub::start(&database).await;
        let mut client = hub.stream("topic=events").await;
        client.opened().await;
        database.insert(3).await;
        client.events(3).await;
        if let Some(foreign) = cursors.pop() {
            let mut client = hub.resume("topic=events", &foreign).await;
            let gap: Value = serde_json::from_str(&client.event().await.data).unwrap();
            assert_eq!(
                (&gap["reason"], &gap["from"]),
                (&json!("epoch"), &json!(foreign))
            );
            client.events(3).await;
        }
        cursors.push(client.cursor().to_owned());
    }
}

/// Who reads history for an epoch that is over gets nothing: the numbers may be others'.
#[tokio::test]
async fn history_of_another_epoch_is_refused() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=events").await;
    let own = epoch(client.opened().await.cursor()).parse().unwrap();
    database.insert(3).await;
    client.events(3).await;
    let history = History::new(
        &Database::parse(&database.url).unwrap(),
        &pg::Metrics::default(),
    );
    assert_eq!(history.page(own, 1, 10).await.unwrap().len(), 2);
    let other = history.page(Epoch::new(0), 1, 10).await;
    assert!(matches!(other, Err(pg::Error::EpochEnded(_))), "{other:?}");
}

/// After a failover that lost its tail: numbers that clients have seen are given again.
#[tokio::test]
async fn a_head_that_went_backwards_is_another_epoch() {
    let database = TestDatabase::create().await;
    let hubs = [Hub::start(&database).await, Hub::start(&database).await];
    let mut client = hubs[0].stream("topic=events").await;
    let old = epoch(client.opened().await.cursor()).to_owned();
    for number in 1..=30 {
        database.insert(1).await;
        read(&mut client, &old, number..=number).await;
    }
    for hub in &hubs {
        eventually("both have all", 30, async || {
            hub.metric("bellwether_stream_head").await
        })
        .await;
        hub.is_asleep().await;
    }
    let psql = database.connect().await;
    psql.batch_execute(
        "BEGIN;
         DELETE FROM bellwether.event WHERE id IN (SELECT id FROM bellwether.stretch(20, 30));
         DELETE FROM bellwether.stream WHERE last_seq > 20; DELETE FROM bellwether.batch WHERE last_seq > 20;
         UPDATE bellwether.batch SET seen = pg_current_snapshot() WHERE last_seq = 20;
         COMMIT;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await
    .unwrap();
    // The stream that cannot be continued ends, and the client comes back with its cursor.
    while client.next().await != crate::harness::Delivery::End {}
    let cursor = client.cursor().to_owned();
    assert_eq!(cursor, format!("{old}-30"));
    let changes = hubs[0].metric("bellwether_epoch_changes_total").await;
    let closed = hubs[0].metric("bellwether_streams_closed_total{reason=\"epoch\"}");
    assert_eq!((changes, closed.await), (1, 1));
    database.insert(5).await;
    for hub in &hubs {
        eventually("it goes on", 25, async || {
            hub.metric("bellwether_stream_head").await
        })
        .await;
        let mut client = hub.resume("topic=events", &cursor).await;
        let gap: Value = serde_json::from_str(&client.event().await.data).unwrap();
        let new = epoch(gap["to"].as_str().unwrap()).to_owned();
        assert_ne!(new, old);
        assert_eq!(
            gap,
            json!({"reason": "epoch", "from": cursor, "to": format!("{new}-20")})
        );
        read(&mut client, &new, 21..=25).await;
    }
}
