use http::Request;
use serde_json::json;
use std::collections::BTreeMap;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    doorbell::count_rings,
    harness::{Client, Hub, HubOptions, TestDatabase, eventually, request_whole, within},
};

/// All samples whose names begin so, with the rest of their names.
async fn samples(hub: &Hub, prefix: &str) -> Vec<(String, u64)> {
    let (_, text) = crate::harness::get(hub.address, "/metrics").await;
    let samples = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix(prefix)?.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    samples.collect()
}

/// The values of a metric by the values of its label, but for those that are zero.
async fn by_label(hub: &Hub, name: &str) -> Vec<(String, u64)> {
    let all = samples(hub, &format!("{name}{{")).await;
    let seen = all.into_iter().filter(|&(_, value)| value > 0);
    let by_value = seen.map(|(label, value)| {
        let label = label.split('"').nth(1).expect("it has a value");
        (label.to_owned(), value)
    });
    by_value.collect::<BTreeMap<_, _>>().into_iter().collect()
}

fn pairs(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    let owned = expected
        .iter()
        .map(|&(name, value)| (name.to_owned(), value));
    owned.collect()
}

/// A stream that is hyper's business, as it says that it has a body.
async fn by_hyper(hub: &Hub, query: &str) -> Client {
    let headers = [("Host", "test"), ("Content-Length", "0")];
    Client::with_headers(hub.address, query, &headers)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_delivered_is_counted_once_for_each_client() {
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--ring-events", "100", "--heartbeat", "1h"]);
    let hub = Hub::start_with(&database, options).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(hub.stream("topic=events").await);
    }
    for _ in 0..2 {
        clients.push(by_hyper(&hub, "topic=events").await);
    }
    let mut received = 0;
    for client in &mut clients {
        client.opened().await;
    }
    let cursor = clients[0].cursor().to_owned();
    assert_eq!(
        by_label(&hub, "bellwether_streams").await,
        pairs(&[("direct", 3), ("http1", 2)])
    );
    // One at a time, so that it is known how many batches there were.
    for _ in 0..20 {
        database.insert(1).await;
        for client in &mut clients {
            client.events(1).await;
        }
    }
    database.insert(280).await;
    for client in &mut clients {
        client.events(280).await;
        received += client.received;
    }
    assert_eq!(
        by_label(&hub, "bellwether_deliveries_total").await,
        pairs(&[("live", 5 * 300)])
    );
    assert_eq!(
        hub.metric("bellwether_delivered_bytes_total").await,
        received
    );
    let batches = hub
        .metric("bellwether_delivery_latency_seconds_count")
        .await;
    assert!(
        (5 * 21..=5 * 300).contains(&batches) && batches.is_multiple_of(5),
        "{batches}"
    );
    let buckets = samples(&hub, "bellwether_delivery_latency_seconds_bucket").await;
    assert!(buckets.is_sorted_by_key(|&(_, count)| count), "{buckets:?}");
    assert_eq!(buckets.last().unwrap().1, batches);
    assert_eq!(hub.metric("bellwether_events_read_total").await, 300);
    assert_eq!(hub.metric("bellwether_lag_events").await, 0);
    assert_eq!(hub.metric("bellwether_ring_events").await, 100);
    assert_eq!(hub.metric("bellwether_lanes").await, 1);

    // Of the 300, the ring has 100. The first to come reads a page, which has all of them.
    let (epoch, _) = cursor.split_once('-').unwrap();
    for (after, due) in [(0, 300), (100, 200), (250, 50)] {
        let mut back = hub
            .resume("topic=events", &format!("{epoch}-{after}"))
            .await;
        back.events(due).await;
        received += back.received;
    }
    let delivered = by_label(&hub, "bellwether_deliveries_total").await;
    assert_eq!(
        delivered,
        pairs(&[
            ("cache", 200),
            ("database", 300),
            ("live", 1500),
            ("ring", 50)
        ])
    );
    assert_eq!(hub.metric("bellwether_history_pages_read_total").await, 1);
    assert_eq!(
        hub.metric("bellwether_delivered_bytes_total").await,
        received
    );
    assert_eq!(
        hub.metric("bellwether_pool_connections{pool=\"history\"}")
            .await,
        1
    );
    assert_eq!(
        hub.metric("bellwether_pool_busy{pool=\"history\"}").await,
        0
    );

    drop(clients);
    eventually("all have left", 0, async || {
        hub.metric("bellwether_clients").await
    })
    .await;
    assert_eq!(
        by_label(&hub, "bellwether_streams_closed_total").await,
        pairs(&[("left", 8)])
    );
    assert_eq!(
        by_label(&hub, "bellwether_streams_opened_total").await,
        pairs(&[("direct", 6), ("http1", 2)])
    );
    assert_eq!(by_label(&hub, "bellwether_streams").await, []);
}

/// Whichever way it goes to the socket, a stream that is closed because nobody reads it says so.
#[tokio::test]
async fn who_takes_nothing_is_told_from_who_leaves() {
    let database = TestDatabase::create().await;
    let options = ["--stall-timeout", "2s", "--heartbeat", "300ms"];
    let hub = Hub::start_with(&database, HubOptions::args(&options)).await;
    let mut stalled = Vec::new();
    for header in ["", "Content-Length: 0\r\n"] {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let request = format!("GET /v1/stream?topic=events HTTP/1.1\r\nHost: t\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    let open = async || by_label(&hub, "bellwether_streams").await;
    eventually(
        "both are there",
        pairs(&[("direct", 1), ("http1", 1)]),
        open,
    )
    .await;
    let insert = "INSERT INTO events (name, properties)
        SELECT 'big', jsonb_build_object('text', repeat('x', 100000)) FROM generate_series(1, 60)";
    database
        .connect()
        .await
        .batch_execute(insert)
        .await
        .unwrap();
    let closed = async || by_label(&hub, "bellwether_streams_closed_total").await;
    eventually("both are closed", pairs(&[("stalled", 2)]), closed).await;
}

#[tokio::test]
async fn rings_and_looks() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    hub.is_asleep().await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    let heard = async || hub.metric("bellwether_doorbell_rings_total").await;
    let counted = count_rings(&database).await;
    let counted = || counted.load(std::sync::atomic::Ordering::Relaxed) as u64;
    let before = heard().await;
    let found_before = hub.metric("bellwether_looks_found_total").await;
    for _ in 0..5 {
        hub.is_asleep().await;
        // The first rings. The others are found without, unless this machine is so busy that the
        // hub falls asleep between them.
        for _ in 0..10 {
            database.insert(1).await;
        }
        client.events(10).await;
    }
    hub.is_asleep().await;
    let rung = heard().await - before;
    assert!(rung >= 5, "each time it slept");
    eventually("everybody heard the same", rung, async || counted()).await;
    assert_eq!(hub.metric("bellwether_events_numbered_total").await, 50);
    let found = hub.metric("bellwether_looks_found_total").await - found_before;
    assert!((5..=50).contains(&found), "{found} of 50");
    let unrung = hub.metric("bellwether_events_numbered_unrung_total").await;
    // A ring finds at least the event that it was rung for, unless a look was there before.
    assert!(unrung <= 45, "{unrung} of 50 without a ring");
    assert!(
        unrung + rung >= 50 || found < 50,
        "{unrung} found without {rung} rings, by {found} looks"
    );
}

#[tokio::test]
async fn requests_to_publish() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let event = json!({"topic": "a", "event": "n", "data": 1});
    let three = json!([event, event, event]);
    for (body, status) in [
        (three, 201),
        (event.clone(), 201),
        (json!({"topic": "a"}), 400),
        (event, 415),
    ] {
        let kind = if status == 415 {
            "text/plain"
        } else {
            "application/json"
        };
        let request = Request::post("/v1/events")
            .header("Host", "test")
            .header("Content-Type", kind)
            .body(body.to_string().into())
            .unwrap();
        assert_eq!(
            within("an answer", request_whole(hub.address, request))
                .await
                .0,
            status
        );
    }
    assert_eq!(
        by_label(&hub, "bellwether_publish_requests_total").await,
        pairs(&[("201", 2), ("400", 1), ("415", 1)])
    );
    assert_eq!(
        hub.metric("bellwether_publish_transaction_requests_count")
            .await,
        2
    );
    let events = samples(&hub, "bellwether_publish_transaction_events_bucket").await;
    let counts: Vec<u64> = events.iter().map(|&(_, count)| count).collect();
    assert_eq!(counts, [1, 2, 2, 2, 2, 2], "of one event and of three");
}
