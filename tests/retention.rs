use serde_json::{Value, json};

use crate::harness::{Hub, HubOptions, TestDatabase, eventually};

/// A hub with a small ring, so that what was deleted is not still there.
async fn start(database: &TestDatabase, args: &[&str]) -> Hub {
    let args = [&["--ring-events", "100"], args].concat();
    Hub::start_with(database, HubOptions::args(&args)).await
}

async fn deleted(hub: &Hub, count: u64) {
    let deleted = async || hub.metric("bellwether_events_deleted_total").await;
    eventually("the old ones are deleted", count, deleted).await;
}

/// Events, places and batches that are left.
async fn left(database: &TestDatabase) -> (i64, i64, i64) {
    let count = "SELECT (SELECT count(*) FROM bellwether.event),
        (SELECT coalesce(sum(last_seq - first_seq + 1), 0)::bigint FROM bellwether.stream),
        (SELECT count(*) FROM bellwether.batch)";
    let row = database
        .connect()
        .await
        .query_one(count, &[])
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn only_the_newest_are_kept() {
    let database = TestDatabase::create().await;
    let hub = start(&database, &[]).await;
    let mut client = hub.stream("topic=events").await;
    let first = client.opened().await.cursor().to_owned();
    for _ in 0..5 {
        // Larger than one transaction deletes.
        database.insert(12_000).await;
        client.events(12_000).await;
    }
    hub.kill().await;
    // What is not numbered yet is not touched.
    let open = database.connect().await;
    open.batch_execute("BEGIN; INSERT INTO events (name) VALUES ('open')")
        .await
        .unwrap();

    let options = HubOptions::args(&["--ring-events", "100", "--max-events", "1000"]);
    let hub = Hub::spawn(&database.url, options).await.unwrap();
    deleted(&hub, 59_000).await;
    let (events, places, batches) = left(&database).await;
    assert_eq!((events, places), (1000, 1000));
    assert!((1..=5).contains(&batches));

    let mut client = hub.resume("topic=events", &first).await;
    let (epoch, _) = first.split_once('-').unwrap();
    let gap: Value = serde_json::from_str(&client.events(1).await[0].data).unwrap();
    let to = format!("{epoch}-59000");
    assert_eq!(
        gap,
        json!({"reason": "retention", "from": first, "to": to, "missing": 59_000})
    );
    let events = client.events(1000).await;
    assert_eq!(events[0].id, format!("{epoch}-59001"));
    open.batch_execute("COMMIT").await.unwrap();
    assert_eq!(client.events(1).await[0].id, format!("{epoch}-60001"));
}

#[tokio::test]
async fn the_old_are_not_kept() {
    let database = TestDatabase::create().await;
    let hub = start(&database, &[]).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    for _ in 0..10 {
        database.insert(50).await;
        client.events(50).await;
    }
    hub.kill().await;
    let psql = database.connect().await;
    psql.batch_execute(
        "UPDATE bellwether.batch SET at = at - interval '8 days' WHERE last_seq <= 300",
    )
    .await
    .unwrap();
    let hub = start(&database, &[]).await;
    deleted(&hub, 300).await;
    assert_eq!(left(&database).await.1, 200);
    hub.kill().await;

    // All of them; the next number is the next one all the same.
    psql.batch_execute("UPDATE bellwether.batch SET at = at - interval '8 days'")
        .await
        .unwrap();
    let hub = start(&database, &[]).await;
    deleted(&hub, 200).await;
    assert_eq!(left(&database).await, (0, 0, 1));
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    database.insert(1).await;
    assert!(client.event().await.id.ends_with("-501"));
    hub.kill().await;

    let keep = "SELECT bellwether.retain(NULL, NULL, 1000)";
    psql.batch_execute("UPDATE bellwether.batch SET at = at - interval '8 days'")
        .await
        .unwrap();
    assert_eq!(
        psql.query_one(keep, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "whatever their age, they stay"
    );
}
