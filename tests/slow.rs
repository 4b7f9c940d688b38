use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use crate::harness::{Hub, HubOptions, TestDatabase, eventually, within};

/// A client that asks for a stream and then reads nothing.
async fn stalled(hub: &Hub) -> TcpStream {
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream
        .write_all(b"GET /v1/stream?topic=events HTTP/1.1\r\nHost: t\r\n\r\n")
        .await
        .unwrap();
    stream
}

async fn clients(hub: &Hub) -> u64 {
    hub.metric("bellwether_clients").await
}

/// Inserts so many rows of 100 kB, and returns when they are published.
async fn insert(database: &TestDatabase, hub: &Hub, rows: u64) {
    let head = hub.metric("bellwether_stream_head").await;
    let insert = "INSERT INTO events (name, properties)
        SELECT 'big', jsonb_build_object('text', repeat('x', 100000)) FROM generate_series(1, $1::bigint)";
    let rows_wanted = i64::try_from(rows).unwrap();
    database
        .connect()
        .await
        .execute(insert, &[&rows_wanted])
        .await
        .unwrap();
    let published = async || hub.metric("bellwether_stream_head").await;
    eventually("it is published", head + rows, published).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_and_can_come_back() {
    let database = TestDatabase::create().await;
    let hub = Hub::start_with(
        &database,
        HubOptions::args(&["--stall-timeout", "2s", "--heartbeat", "300ms"]),
    )
    .await;
    let mut healthy = hub.stream("topic=events").await;
    let cursor = healthy.opened().await.cursor().to_owned();
    let quiet = stalled(&hub).await;
    eventually("both are there", 2, async || clients(&hub).await).await;
    insert(&database, &hub, 60).await;
    healthy.events(60).await;
    eventually("the one that reads nothing is closed", 1, async || {
        clients(&hub).await
    })
    .await;
    drop(quiet);
    let mut back = hub.resume("topic=events", &cursor).await;
    back.events(60).await;
    // One for whom nothing happens reads nothing but heartbeats, and stays.
    let idle = stalled(&hub).await;
    eventually("it is there", 3, async || clients(&hub).await).await;
    time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        clients(&hub).await,
        3,
        "there was room for all that was sent"
    );
    drop(idle);
}

#[tokio::test]
async fn a_client_that_reads_a_little_stays() {
    let database = TestDatabase::create().await;
    let hub = Hub::start_with(&database, HubOptions::args(&["--stall-timeout", "2s"])).await;
    let mut slow = stalled(&hub).await;
    eventually("it is there", 1, async || clients(&hub).await).await;
    insert(&database, &hub, 100).await;
    for _ in 0..8 {
        time::sleep(Duration::from_millis(500)).await;
        // Enough for the kernel to tell the other side that there is room again.
        let mut bytes = vec![0; 400_000];
        within("some bytes", slow.read_exact(&mut bytes))
            .await
            .unwrap();
    }
    assert_eq!(clients(&hub).await, 1);
}

/// Clients of one topic are written to together for as long as they keep pace. Who does not is
/// given the rest from the ring, or from history, and then keeps pace again.
#[tokio::test]
async fn who_is_slow_and_who_is_not_get_the_same() {
    const ROUNDS: usize = 20;
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--ring-events", "40", "--heartbeat", "1h"]);
    let hub = Hub::start_with(&database, options).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(hub.stream("topic=events").await);
    }
    for client in &mut clients {
        client.opened().await;
    }
    let mut taken = vec![0; clients.len()];
    let mut last = vec![0; clients.len()];
    for round in 1..=ROUNDS {
        insert(&database, &hub, 10).await;
        for (nth, client) in clients.iter_mut().enumerate() {
            // Every round, every second one, ... ; and all of it in the end.
            let (due, pace) = (10 * round, nth % 8 + 1);
            if round % pace != 0 && round < ROUNDS {
                continue;
            }
            for event in client.events(due - taken[nth]).await {
                let (_, seq) = event.id.split_once('-').unwrap();
                let seq: u64 = seq.parse().unwrap();
                assert_eq!(seq, last[nth] + 1, "client {nth} in round {round}");
                last[nth] = seq;
            }
            taken[nth] = due;
        }
    }
    let read = "bellwether_deliveries_total{source=\"database\"}";
    assert!(hub.metric(read).await > 0, "some were behind the ring");
    database.insert(1).await;
    for client in &mut clients {
        client.events(1).await;
        assert!(client.cursor().ends_with(&format!("-{}", 10 * ROUNDS + 1)));
    }
    assert_eq!(self::clients(&hub).await, 40);
}

/// On one HTTP/2 connection: a client that takes nothing of one stream loses that one, and
/// not the others, be they read or not.
#[tokio::test]
async fn an_http2_stream_whose_window_stays_shut_is_reset() {
    let database = TestDatabase::create().await;
    let options = ["--stall-timeout", "2s", "--heartbeat", "300ms"];
    let hub = Hub::start_with(&database, HubOptions::args(&options)).await;
    let socket = TcpStream::connect(hub.address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    // Room for what the others get, when this one's is full.
    builder.initial_stream_window_size(64 * 1024);
    builder.initial_connection_window_size(1024 * 1024);
    let handshake = builder.handshake(TokioIo::new(socket)).await;
    let (sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let open = async |topic: &str| -> Incoming {
        let uri = format!("http://{}/v1/stream?topic={topic}", hub.address);
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let answer = within("an answer", sender.clone().send_request(request)).await;
        answer.unwrap().into_body()
    };
    // What hyper's client is not asked for it does not make room for.
    let mut stalled = open("events").await;
    let idle = open("none").await;
    let mut read = open("events").await;
    eventually("all are there", 3, async || clients(&hub).await).await;
    let reading = tokio::spawn(async move {
        let mut bytes = 0;
        while bytes < 60 * 100_000 {
            let frame = read.frame().await.expect("it goes on").unwrap();
            bytes += frame.into_data().unwrap().len();
        }
        read
    });
    insert(&database, &hub, 60).await;
    let mut read = within("all of it", reading).await.unwrap();
    eventually("the one that stalls is gone", 2, async || {
        clients(&hub).await
    })
    .await;
    let end = async {
        loop {
            match stalled.frame().await {
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    };
    let end = within("its end", end).await;
    assert!(
        matches!(end, Some(Err(_))),
        "not as if all were well: {end:?}"
    );
    let stalled = hub.metric("bellwether_streams_closed_total{reason=\"stalled\"}");
    assert_eq!(stalled.await, 1);
    // Longer than the timeout, and heartbeats that fit into the window all the while.
    for _ in 0..10 {
        within("a heartbeat", read.frame()).await.unwrap().unwrap();
    }
    assert_eq!(clients(&hub).await, 2, "the others stay");
    drop(idle);
}

/// A hundred that read nothing, while 100 MB go by: what waits for them is bounded.
#[tokio::test]
async fn clients_that_read_nothing_cost_little() {
    let database = TestDatabase::create().await;
    let options = ["--ring-bytes", "4000000", "--ring-events", "100"];
    let hub = Hub::start_with(&database, HubOptions::args(&options)).await;
    let mut healthy = hub.stream("topic=events").await;
    healthy.opened().await;
    let mut publish = async || {
        for _ in 0..10 {
            insert(&database, &hub, 100).await;
            healthy.events(100).await;
        }
    };
    // What it takes for these events with one client, and keeps.
    publish().await;
    let before = hub.resident_kib();
    let mut quiet = Vec::new();
    for _ in 0..100 {
        quiet.push(stalled(&hub).await);
    }
    eventually("all are there", 101, async || clients(&hub).await).await;
    publish().await;
    let grown = hub.resident_kib().saturating_sub(before);
    eprintln!("a hundred stalled clients: {grown} KiB more than before");
    assert!(grown < 48 * 1024, "{grown} KiB");
    drop(quiet);
}
