use std::ops::RangeInclusive;
use tokio::task::JoinSet;

use crate::harness::{Client, Hub, HubOptions, TestDatabase, eventually, within};

const CLIENTS: u64 = 300;

/// A hub with a small ring, after these events; and its epoch.
async fn hub_after(database: &TestDatabase, insert: &str, events: u64) -> (Hub, String) {
    let options = HubOptions::args(&["--ring-events", "100"]);
    let hub = Hub::start_with(database, options).await;
    let cursor = hub
        .stream("topic=none")
        .await
        .opened()
        .await
        .cursor()
        .to_owned();
    let psql = database.connect().await;
    psql.batch_execute(insert).await.unwrap();
    let head = async || hub.metric("bellwether_stream_head").await;
    eventually("all of it is published", events, head).await;
    assert_eq!(hub.metric("bellwether_ring_floor").await, events - 100);
    hub.is_asleep().await;
    (hub, cursor.split_once('-').unwrap().0.to_owned())
}

/// Reads what is in this range and a multiple of `every`, and nothing else.
async fn read(mut client: Client, range: RangeInclusive<u64>, every: u64) {
    let due: Vec<u64> = range.filter(|seq| seq % every == 0).collect();
    let events = client.events(due.len()).await;
    let seqs = events
        .iter()
        .map(|event| event.id.split_once('-').unwrap().1.parse().unwrap());
    assert_eq!(seqs.collect::<Vec<u64>>(), due);
}

/// Index scans of the stream so far.
async fn scans(database: &TestDatabase) -> i64 {
    let scans = "SELECT idx_scan FROM pg_stat_user_tables
        WHERE schemaname = 'bellwether' AND relname = 'stream'";
    let psql = database.connect().await;
    psql.query_one(scans, &[]).await.unwrap().get(0)
}

/// Hundreds come back at once with cursors from before the ring, each with its own. What they
/// missed is read once for all of them.
#[tokio::test]
async fn clients_that_come_back_at_once_share_what_is_read() {
    let database = TestDatabase::create().await;
    let insert = "INSERT INTO bellwether.event (topic, name, data)
        SELECT CASE WHEN n % 10 = 0 THEN 'rare' ELSE 'often' END, 'n', '{}'
        FROM generate_series(1, 3000) AS n";
    let (hub, epoch) = hub_after(&database, insert, 3000).await;
    let before = scans(&database).await;
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let after = n * 3;
        let (query, every) = match n % 3 {
            0 => ("topic=%3E", 1),
            _ => ("topic=rare&topic=none", 10),
        };
        let client = hub.resume(query, &format!("{epoch}-{after}")).await;
        clients.spawn(read(client, after + 1..=3000, every));
    }
    within("everything for everybody", clients.join_all()).await;
    // After 0, 1024 and 2048.
    assert_eq!(
        hub.metric("bellwether_history_pages_read_total").await,
        3,
        "each page is read once"
    );
    // Sessions report what they did with a delay, and the safety poll looks there as well.
    let scans = async || (3..100).contains(&(scans(&database).await - before));
    eventually("the database says the same", true, scans).await;
}

/// The same where a page holds few events, as they are large.
#[tokio::test]
async fn large_events_are_shared_too() {
    let database = TestDatabase::create().await;
    let insert = "INSERT INTO bellwether.event (topic, name, data)
        SELECT 'big', 'n', to_json(repeat(md5(n::text), 6000)) FROM generate_series(1, 150) AS n";
    let (hub, epoch) = hub_after(&database, insert, 150).await;
    let mut clients = JoinSet::new();
    for n in 0..100 {
        let after = n % 50;
        let client = hub.resume("topic=big", &format!("{epoch}-{after}")).await;
        clients.spawn(read(client, after + 1..=150, 1));
    }
    within("everything for everybody", clients.join_all()).await;
    // Six fit into one: nine for those who read from the beginning on; and as many again at most for
    // those who begin somewhere within.
    let pages = hub.metric("bellwether_history_pages_read_total").await;
    assert!((9..=40).contains(&pages), "{pages} pages read");
}

/// Whoever asked first may leave: the others still get what it had read for all of them.
#[tokio::test]
async fn a_read_that_others_wait_for_outlives_who_asked_first() {
    let database = TestDatabase::create().await;
    let insert = "INSERT INTO bellwether.event (topic, name, data)
        SELECT 'often', 'n', '{}' FROM generate_series(1, 500)";
    let (hub, epoch) = hub_after(&database, insert, 500).await;
    let come_back = async || {
        let mut client = hub.resume("topic=often", &format!("{epoch}-5")).await;
        client.opened().await;
        client
    };
    // Within a transaction, a session is always shown the same activity.
    let (psql, other) = (database.connect().await, database.connect().await);
    psql.batch_execute("BEGIN; LOCK TABLE bellwether.stream")
        .await
        .unwrap();
    let reads = async || -> i64 {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND query LIKE '%LATERAL bellwether.stretch%'";
        other.query_one(waiting, &[]).await.unwrap().get(0)
    };
    let first = come_back().await;
    eventually("the first one's page is being read", 1, reads).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(come_back().await);
    }
    drop(first);
    let clients = async || hub.metric("bellwether_clients").await;
    eventually("it is gone", 5, clients).await;
    psql.batch_execute("COMMIT").await.unwrap();
    for client in others {
        read(client, 6..=500, 1).await;
    }
    let pages = hub.metric("bellwether_history_pages_read_total").await;
    assert_eq!(pages, 1, "it is read once for all who stayed");
}
