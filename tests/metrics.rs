use http::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    auth,
    doorbell::count_rings,
    harness::{Client, Hub, HubOptions, TestDatabase, eventually, request_whole, within},
};

/// All samples whose names begin so, with the rest of their names.
async fn samples(hub: &Hub, prefix: &str) -> Vec<(String, u64)> {
    let (_, text) = crate::harness::get(hub.address, "/metrics").await;
    samples_in(&text, prefix)
}

fn samples_in(text: &str, prefix: &str) -> Vec<(String, u64)> {
    let samples = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix(prefix)?.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    samples.collect()
}

/// The values of a metric by the values of its label, but for those that are zero.
async fn by_label(hub: &Hub, name: &str) -> Vec<(String, u64)> {
    by_label_of(samples(hub, &format!("{name}{{")).await)
}

fn by_label_of(all: Vec<(String, u64)>) -> Vec<(String, u64)> {
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
    assert!((5 * 21..=5 * 300).contains(&batches), "{batches}");
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

/// Who is not let in, or may not do what he asks for: each time once, by why.
#[tokio::test]
async fn denials() {
    let database = TestDatabase::create().await;
    let rules = [
        "--auth-issuer",
        "app",
        "--auth-audience",
        "hub",
        "--auth-cookie",
        "session",
        "--allow-origin",
        "https://app.example",
    ];
    let hub = auth::locked(&database, &rules).await;
    let now = auth::now();
    let good = json!({"iss": "app", "aud": "hub", "iat": now, "exp": now + 60,
        "bellwether": {"subscribe": ["a"], "publish": ["a"], "metrics": true}});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        let of = claims.as_object_mut().unwrap();
        match value {
            Value::Null => of.remove(name),
            value => of.insert(name.to_owned(), value),
        };
        auth::sign(&claims)
    };
    let token = auth::sign(&good);
    let nosy = with("bellwether", json!({"subscribe": ["a"]}));
    let metrics = async || auth::ask_with(&hub, "/metrics", &token).await.2;
    let counted = async || {
        let samples = samples_in(&metrics().await, "bellwether_denials_total{");
        by_label_of(samples)
    };
    assert_eq!(counted().await, [], "nobody was denied anything yet");

    // A stream by the short way, one that is not plain, a page and a publication.
    let everywhere = async |headers: &[(&str, &str)], status: u16| {
        let stream = "/v1/stream?topic=a";
        let by_hyper = [headers, &[("Content-Length", "0")]].concat();
        assert_eq!(auth::ask(&hub, stream, headers).await.0, status);
        assert_eq!(auth::ask(&hub, stream, &by_hyper).await.0, status);
        let page = auth::ask(&hub, "/v1/events?topic=a", headers).await;
        assert_eq!(page.0, status, "{}", page.2);
        let event = auth::event("a", "n");
        assert_eq!(auth::post(&hub, &event, headers).await.0, status);
    };
    everywhere(&[], 401).await;
    everywhere(&[("Authorization", "Basic eDp5")], 401).await;
    let [head, body, signature]: [&str; 3] =
        token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzM4NCJ9"; // {"typ":"JWT","alg":"HS384"}
    for bad in [
        "x".to_owned(),
        format!("{other}.{body}.{signature}"),
        format!("{head}.{body}.{}", "A".repeat(43)),
        with("exp", json!(now - 60)),
        with("nbf", json!(now + 60)),
        with("iss", json!("other")),
        with("aud", json!("other")),
        with("iss", Value::Null),
        with("bellwether", json!("all")),
    ] {
        everywhere(&[("Authorization", &auth::bearer(&bad))], 401).await;
    }
    let long = with("exp", json!(now + 3600));
    let path = format!("/v1/events?topic=a&token={long}");
    assert_eq!(auth::ask(&hub, &path, &[]).await.0, 401);
    let bearer = auth::bearer(&token);
    let cookie = format!("session={token}");
    let foreign = [("Cookie", &*cookie), ("Origin", "https://evil.example")];
    everywhere(&foreign, 403).await;
    for path in ["/v1/stream?topic=b", "/v1/events?topic=b"] {
        assert_eq!(auth::ask_with(&hub, path, &token).await.0, 403);
    }
    let headers = [("Authorization", &*bearer)];
    let elsewhere = auth::post(&hub, &auth::event("b", "n"), &headers).await;
    assert_eq!(elsewhere.0, 403);
    for path in ["/metrics", "/v1/status"] {
        assert_eq!(auth::ask_with(&hub, path, &nosy).await.0, 403);
    }
    // None of these is one: what is let in, what makes no sense, what is not there.
    assert_eq!(
        auth::ask_with(&hub, "/v1/events?topic=a", &token).await.0,
        200
    );
    assert_eq!(
        auth::ask_with(&hub, "/v1/events?topic=", &token).await.0,
        400
    );
    assert_eq!(auth::ask(&hub, "/nothing", &[]).await.0, 404);
    assert_eq!(
        counted().await,
        pairs(&[
            ("algorithm", 4),
            ("audience", 4),
            ("claim", 4),
            ("expired", 4),
            ("issuer", 4),
            ("lives_too_long", 1),
            ("malformed", 4),
            ("metrics", 2),
            ("missing_claim", 4),
            ("no_token", 4),
            ("not_bearer", 4),
            ("not_yet", 4),
            ("origin", 4),
            ("publish", 1),
            ("signature", 4),
            ("subscribe", 2),
        ])
    );
    // All that may happen is shown from the beginning, so that it can be seen to grow.
    let shown = samples_in(&metrics().await, "bellwether_denials_total{");
    assert_eq!(shown.len(), 17);
}
