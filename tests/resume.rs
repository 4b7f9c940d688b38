use serde_json::{Value, json};
use sse::Message;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

use crate::harness::{Client, Delivery, Hub, HubOptions, TestDatabase, eventually, within};

const RING: u64 = 100;

/// A hub with a small ring, after so many events; and its epoch.
async fn hub_after(database: &TestDatabase, events: u64) -> (Hub, String) {
    let hub = Hub::start_with(
        database,
        HubOptions::args(&["--ring-events", &RING.to_string()]),
    )
    .await;
    let mut client = hub.stream("topic=events").await;
    let cursor = client.opened().await.cursor().to_owned();
    let psql = database.connect().await;
    let insert =
        "INSERT INTO events (name) SELECT 'n' || n FROM generate_series(1, $1::bigint) AS n";
    psql.execute(insert, &[&i64::try_from(events).unwrap()])
        .await
        .unwrap();
    client.events(usize::try_from(events).unwrap()).await;
    let epoch = cursor.split_once('-').unwrap().0.to_owned();
    (hub, epoch)
}

fn seq(event: &Message) -> u64 {
    event.id.split_once('-').unwrap().1.parse().unwrap()
}

/// The events from here to 300, and then nothing.
async fn check_rest(client: &mut Client, from: u64) {
    let count = usize::try_from(301 - from).unwrap();
    let seqs: Vec<u64> = client.events(count).await.iter().map(seq).collect();
    assert_eq!(seqs, (from..=300).collect::<Vec<_>>());
    assert!(client.is_quiet_for(Duration::from_millis(300)).await);
}

#[track_caller]
fn check_gap(event: &Message, expected: &Value) {
    assert_eq!(event.name, "gap");
    let data: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(&data, expected);
}

#[tokio::test]
async fn a_cursor_of_any_kind_is_answered() {
    let database = TestDatabase::create().await;
    let (hub, epoch) = hub_after(&database, 300).await;
    assert_eq!(hub.metric("bellwether_ring_floor").await, 200);
    let cursor = |seq: u64| format!("{epoch}-{seq}");

    for after in [299, 250, 200, 199, 150, 10, 0] {
        let mut client = hub.resume("topic=events", &cursor(after)).await;
        assert_eq!(client.opened().await.cursor(), cursor(after));
        check_rest(&mut client, after + 1).await;
    }
    let mut client = hub.resume("topic=events", &cursor(300)).await;
    assert!(client.is_quiet_for(Duration::from_millis(300)).await);

    let too_long = "x".repeat(300);
    let unhonoured = [
        (format!("{:08x}-5", 0), "epoch"),
        (cursor(301), "unknown"),
        (cursor(u64::MAX), "unknown"),
        ("what's this?".to_owned(), "unknown"),
        (format!("{epoch}-"), "unknown"),
        (too_long, "unknown"),
    ];
    for (text, reason) in &unhonoured {
        let mut client = hub.resume("topic=events", text).await;
        let gap = client.event().await;
        let from: String = text.chars().take(100).collect();
        check_gap(
            &gap,
            &json!({"reason": reason, "from": from, "to": cursor(0)}),
        );
        assert_eq!(client.cursor(), text, "a gap is no position");
        check_rest(&mut client, 1).await;
    }

    // The query's counts only without a header's.
    let mut client = hub
        .stream(&format!("topic=events&last_event_id={}", cursor(290)))
        .await;
    check_rest(&mut client, 291).await;
    let mut client = hub
        .resume(
            &format!("topic=events&last_event_id={}", cursor(290)),
            &cursor(295),
        )
        .await;
    check_rest(&mut client, 296).await;
}

#[tokio::test]
async fn what_retention_took_is_told() {
    let database = TestDatabase::create().await;
    let (hub, epoch) = hub_after(&database, 300).await;
    let cursor = |seq: u64| format!("{epoch}-{seq}");
    let psql = database.connect().await;
    psql.batch_execute("SELECT bellwether.retain(NULL, 250, 50)")
        .await
        .unwrap();

    let mut client = hub.resume("topic=events", &cursor(10)).await;
    let gap = json!({"reason": "retention", "from": cursor(10), "to": cursor(50), "missing": 40});
    check_gap(&client.events(1).await[0], &gap);
    check_rest(&mut client, 51).await;
    let mut client = hub.resume("topic=events", "nonsense").await;
    check_gap(
        &client.events(1).await[0],
        &json!({"reason": "unknown", "from": "nonsense", "to": cursor(50)}),
    );
    check_rest(&mut client, 51).await;
}

#[tokio::test]
async fn what_retention_took_up_to_into_the_ring_is_still_in_the_ring() {
    let database = TestDatabase::create().await;
    let (hub, epoch) = hub_after(&database, 300).await;
    let cursor = |seq: u64| format!("{epoch}-{seq}");
    let psql = database.connect().await;
    psql.batch_execute("SELECT bellwether.retain(NULL, 50, 250)")
        .await
        .unwrap();
    let gap = json!({"reason": "retention", "from": cursor(10), "to": cursor(200), "missing": 190});
    let mut client = hub.resume("topic=events", &cursor(10)).await;
    check_gap(&client.events(1).await[0], &gap);
    check_rest(&mut client, 201).await;
}

#[tokio::test]
async fn when_retention_took_everything_the_ring_is_what_there_is() {
    let database = TestDatabase::create().await;
    let (hub, epoch) = hub_after(&database, 300).await;
    let cursor = |seq: u64| format!("{epoch}-{seq}");
    let psql = database.connect().await;
    psql.batch_execute("SELECT bellwether.retain(NULL, 0, 300)")
        .await
        .unwrap();
    let mut client = hub.resume("topic=events", &cursor(10)).await;
    let gap = json!({"reason": "retention", "from": cursor(10), "to": cursor(200), "missing": 190});
    check_gap(&client.events(1).await[0], &gap);
    check_rest(&mut client, 201).await;
}

#[tokio::test]
async fn the_last_few() {
    let database = TestDatabase::create().await;
    let (hub, _) = hub_after(&database, 300).await;
    for (last, from) in [
        (0, 301),
        (1, 300),
        (100, 201),
        (101, 200),
        (299, 2),
        (300, 1),
        (5000, 1),
    ] {
        let mut client = hub.stream(&format!("topic=events&last={last}")).await;
        client.opened().await;
        check_rest(&mut client, from).await;
    }
    // Those of a rare topic, which the ring has long forgotten.
    let psql = database.connect().await;
    psql.batch_execute(
        "INSERT INTO bellwether.event (topic, name, data) VALUES ('rare', 'one', '1'), ('rare', 'two', '2');
         INSERT INTO events (name) SELECT 'n' FROM generate_series(1, 300)",
    )
    .await
    .unwrap();
    let head = async || hub.metric("bellwether_stream_head").await;
    eventually("all of it is published", 602, head).await;
    let mut client = hub.stream("topic=rare&last=1").await;
    assert_eq!(client.events(1).await[0].name, "two");
}

#[tokio::test]
async fn a_restarted_hub_honours_cursors() {
    let database = TestDatabase::create().await;
    let (hub, epoch) = hub_after(&database, 300).await;
    hub.kill().await;
    let hub = Hub::start(&database).await;
    assert_eq!(
        hub.metric("bellwether_ring_floor").await,
        0,
        "the ring is filled at the start"
    );
    let mut client = hub.resume("topic=events", &format!("{epoch}-120")).await;
    check_rest(&mut client, 121).await;
}

/// Twenty clients that come and go fifty times each, some stalling for a while, with inserts
/// running at full speed and a ring that is often too small.
#[tokio::test]
async fn a_thousand_reconnects_without_a_hole_or_a_double() {
    let database = TestDatabase::create().await;
    let hub =
        Arc::new(Hub::start_with(&database, HubOptions::args(&["--ring-events", "300"])).await);
    let mut first = hub.stream("topic=events").await;
    let start = first.opened().await.cursor().to_owned();

    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for _ in 0..4 {
        let psql = database.connect().await;
        let done = Arc::clone(&done);
        writers.spawn(async move {
            let insert = psql
                .prepare("INSERT INTO events (name) VALUES ('n')")
                .await
                .unwrap();
            while !done.load(Ordering::Relaxed) {
                psql.execute(&insert, &[]).await.unwrap();
            }
        });
    }
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let (hub, mut cursor) = (Arc::clone(&hub), start.clone());
        clients.spawn(async move {
            let mut seen = 0;
            for _ in 0..50 {
                let mut client = hub.resume("topic=events", &cursor).await;
                client.opened().await;
                for event in client.events(fastrand::usize(0..400)).await {
                    seen += 1;
                    assert_eq!(seq(&event), seen, "{}: neither hole nor double", event.name);
                }
                client.cursor().clone_into(&mut cursor);
            }
            seen
        });
    }
    let seen = within("a thousand reconnects", clients.join_all()).await;
    done.store(true, Ordering::Relaxed);
    writers.join_all().await;
    eprintln!(
        "{} events seen over a thousand connections",
        seen.iter().sum::<u64>()
    );
    assert_eq!(hub.metric("bellwether_safety_poll_events_total").await, 0);
}

/// A plain request is answered without hyper, and any other by it: with the same events, from the
/// tables, from the ring and live, and to the same end.
#[tokio::test]
async fn both_ways_to_the_socket_bring_the_same() {
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--ring-events", "100"]);
    let mut hub = Hub::start_with(&database, options).await;
    database.insert(500).await;
    let mut first = hub.stream("topic=events&last=1").await;
    let newest = first.events(1).await.remove(0).id;
    let (epoch, _) = newest.split_once('-').unwrap();
    let start = format!("{epoch}-0");
    let plain = [("Host", "test"), ("Last-Event-ID", start.as_str())];
    let unusual = [plain.as_slice(), &[("Content-Length", "0")]].concat();
    let mut both = Vec::new();
    for headers in [plain.as_slice(), &unusual] {
        let client = Client::with_headers(hub.address, "topic=events", headers).await;
        both.push(client.unwrap());
    }
    let is_chunked = |client: &Client| client.headers.contains_key("transfer-encoding");
    assert!(!is_chunked(&both[0]) && is_chunked(&both[1]));
    for name in ["content-type", "cache-control", "x-accel-buffering"] {
        assert_eq!(both[0].headers[name], both[1].headers[name]);
    }
    assert!(
        both.iter()
            .all(|client| client.headers.contains_key("date"))
    );

    database.insert(50).await;
    let events = both[0].events(550).await;
    assert_eq!(both[1].events(550).await, events);
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!(event.id, format!("{epoch}-{seq}"));
    }
    hub.terminate();
    for client in &mut both {
        loop {
            match client.next().await {
                Delivery::Event(event) => assert_eq!(event.name, "heartbeat"),
                Delivery::Retry(_) => break,
                Delivery::End => panic!("it says when to come back"),
            }
        }
        assert_eq!(client.next().await, Delivery::End);
    }
    assert_eq!(hub.exit_code().await, Some(0));
}
