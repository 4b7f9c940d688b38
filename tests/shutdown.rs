use http::Request;
use http_body_util::Full;
use nix::sys::signal::{Signal, kill};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{
    Client, Delivery, Hub, HubOptions, TestDatabase, eventually, request_whole, within,
};

#[tokio::test]
async fn streams_end_with_a_time_to_come_back() {
    let database = TestDatabase::create().await;
    let mut hub = Hub::start(&database).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = hub.stream("topic=events").await;
        client.opened().await;
        clients.push(client);
    }
    assert_eq!(hub.metric("bellwether_clients").await, 20);
    let psql = database.connect().await;
    psql.batch_execute("INSERT INTO events (name) VALUES ('last')")
        .await
        .unwrap();
    for client in &mut clients {
        client.event().await;
    }
    hub.terminate();
    let mut pauses = Vec::new();
    for client in &mut clients {
        let Delivery::Retry(pause) = client.next().await else {
            panic!("no retry")
        };
        assert_eq!(client.next().await, Delivery::End);
        pauses.push(pause);
    }
    pauses.sort();
    pauses.dedup();
    assert!(
        pauses.len() > 10,
        "they do not all come back at once: {pauses:?}"
    );
    assert_eq!(hub.exit_code().await, Some(0));
    assert!(
        TcpStream::connect(hub.own).await.is_err(),
        "nobody listens any more"
    );
}

/// For a load balancer that asks now and then: not ready first, and gone later.
#[tokio::test]
async fn a_hub_can_give_notice() {
    let database = TestDatabase::create().await;
    let mut hub = Hub::start_with(&database, HubOptions::args(&["--drain-delay", "3s"])).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    hub.terminate();
    let ready = async || crate::harness::get(hub.own, "/readyz").await;
    let said = r#"{"ready":false,"reasons":["shutting down"],"warnings":[]}"#;
    eventually("it gives notice", (503, format!("{said}\n")), ready).await;
    let request = Request::get("/healthz").header("Host", "test");
    let (status, headers, _) = request_whole(hub.own, request.body(Full::default()).unwrap()).await;
    let kept = headers.get("connection").map(|it| it.to_str().unwrap());
    assert_eq!((status, kept), (200, Some("close")), "not to be kept");
    let mut late = hub.stream("topic=events").await;
    late.opened().await;
    database.insert(1).await;
    client.events(1).await;
    late.events(1).await;
    assert!(matches!(late.next().await, Delivery::Retry(_)));
    assert_eq!(late.next().await, Delivery::End);
    assert_eq!(hub.exit_code().await, Some(0));
}

/// Proxies do not repeat a POST whose connection broke, so none may break because of a shutdown.
#[tokio::test]
async fn requests_on_their_way_are_answered() {
    const PUBLICATION: &[u8] = b"POST /v1/events HTTP/1.1\r\nHost: t\r\n\
        Content-Type: application/json\r\nContent-Length: 34\r\n\r\n\
        {\"topic\":\"t\",\"event\":\"n\",\"data\":0}";
    const CONNECTIONS: u64 = 5;

    let database = TestDatabase::create().await;
    let mut hub = Hub::start(&database).await;
    let mut stream = hub.stream("topic=other").await;
    let cursor = stream.opened().await.cursor().to_owned();
    let mut quiet = Vec::new();
    for _ in 0..CONNECTIONS {
        quiet.push(TcpStream::connect(hub.own).await.unwrap());
    }
    eventually("they are accepted", true, async || {
        hub.metric("bellwether_connections").await >= CONNECTIONS + 2 // a stream's, and who asks
    })
    .await;
    let mut kept = TcpStream::connect(hub.own).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n";
    kept.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    let read = within("an answer", kept.read_exact(&mut answer));
    read.await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    quiet.push(kept);

    // So connections, requests and the signal come to the hub at once.
    kill(hub.pid(), Signal::SIGSTOP).unwrap();
    let mut asking = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(hub.own).await.unwrap();
        connection.write_all(PUBLICATION).await.unwrap();
        asking.push(connection);
    }
    hub.terminate();
    kill(hub.pid(), Signal::SIGCONT).unwrap();
    assert!(matches!(stream.next().await, Delivery::Retry(_)));
    assert_eq!(stream.next().await, Delivery::End);
    // It is stopping now.
    for mut connection in quiet {
        connection.write_all(PUBLICATION).await.unwrap();
        asking.push(connection);
    }
    for mut connection in asking {
        let mut answer = String::new();
        let read = within("the answer", connection.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "{read:?}");
        assert!(answer.contains("HTTP/1.1 201 Created"), "{answer:?}");
    }
    assert_eq!(hub.exit_code().await, Some(0));
    let hub = Hub::start(&database).await;
    let mut client = Client::connect(hub.own, "topic=t", Some(&cursor)).await;
    let published = 1 + 2 * usize::try_from(CONNECTIONS).unwrap();
    client.events(published).await;
}

/// A client that does not take what is left for it.
#[tokio::test]
async fn a_client_that_does_not_leave_is_left_behind() {
    let database = TestDatabase::create().await;
    let mut hub = Hub::start_with(&database, HubOptions::args(&["--grace", "500ms"])).await;
    let stalled = TcpStream::connect(hub.address).await.unwrap();
    let request = b"GET /v1/stream?topic=events HTTP/1.1\r\nHost: t\r\n\r\n";
    stalled.writable().await.unwrap();
    assert_eq!(stalled.try_write(request).unwrap(), request.len());
    eventually("it is subscribed", 1, async || {
        hub.metric("bellwether_clients").await
    })
    .await;
    let psql = database.connect().await;
    // More than both sockets' buffers hold.
    let insert = "INSERT INTO events (name, properties)
        SELECT 'big', jsonb_build_object('text', repeat('x', 200000)) FROM generate_series(1, 200)";
    psql.batch_execute(insert).await.unwrap();
    eventually("it is published", 200, async || {
        hub.metric("bellwether_stream_head").await
    })
    .await;
    hub.terminate();
    assert_eq!(hub.exit_code().await, Some(2));
    drop(stalled);
}

/// What was published before the end is not lost for a client that comes back elsewhere.
#[tokio::test]
async fn another_instance_takes_over_where_one_ends() {
    let database = TestDatabase::create().await;
    let mut hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    let psql = database.connect().await;
    let insert = "INSERT INTO events (name) SELECT 'n' FROM generate_series(1, 1000)";
    psql.batch_execute(insert).await.unwrap();
    let before = client.events(300).await.len();
    hub.terminate();
    let cursor = client.cursor().to_owned();
    psql.batch_execute(insert).await.unwrap();
    drop(client);
    assert_eq!(hub.exit_code().await, Some(0));
    psql.batch_execute(insert).await.unwrap();
    let hub = Hub::start(&database).await;
    let mut client = hub.resume("topic=events", &cursor).await;
    for (event, seq) in client.events(3000 - before).await.iter().zip(before + 1..) {
        assert!(
            event.id.ends_with(&format!("-{seq}")),
            "{} is not {seq}",
            event.id
        );
    }
    assert!(client.is_quiet_for(Duration::from_millis(300)).await);
}
