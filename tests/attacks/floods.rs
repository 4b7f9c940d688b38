use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time,
};

use super::{connect_from, is_well};
use crate::harness::{Hub, HubOptions, TestDatabase, eventually, within};

const ATTACKERS: usize = 2000;
const CLIENTS: usize = 200;

/// Says a byte now and then, and never comes to an end.
async fn drip(mut stream: TcpStream, begin: &'static [u8]) {
    let mut rest = b"X-Slow: a\r\n".iter().cycle();
    if stream.write_all(begin).await.is_err() {
        return;
    }
    loop {
        let mut byte = [0];
        // Until the hub hangs up.
        if let Ok(Ok(0) | Err(_)) =
            time::timeout(Duration::from_millis(500), stream.read(&mut byte)).await
        {
            return;
        }
        let next = *rest.next().expect("it has no end");
        if stream.write_all(&[next]).await.is_err() {
            return;
        }
    }
}

/// `cargo xtask load slow` has it with ten thousand, and says what it costs.
#[tokio::test]
async fn those_who_never_finish_hold_up_nobody() {
    let database = TestDatabase::create().await;
    let hub = Hub::start_with(&database, HubOptions::args(&["--request-timeout", "3s"])).await;
    let before = hub.resident_kib();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = hub.stream("topic=events").await;
        client.opened().await;
        clients.spawn(async move { client.events(30).await.len() });
    }
    let mut attackers = JoinSet::new();
    for n in 0..ATTACKERS {
        let source = [127, 1, 0, u8::try_from(1 + n % 8).unwrap()];
        let stream = within("a connection", connect_from(source, hub.address)).await;
        let stream = stream.unwrap();
        attackers.spawn(match n % 4 {
            0 => drip(stream, b""),
            1 => drip(stream, b"GET /v1/stream?topic=events HTTP/1.1\r\nHost: t\r\n"),
            2 => drip(stream, b"POST /v1/events HTTP/1.1\r\nContent-Length: 9999\r\nContent-Type: application/json\r\nHost: t\r\n\r\n["),
            _ => drip(stream, b"PRI * HTTP/2.0\r\n"),
        });
    }
    for _ in 0..10 {
        database.insert(3).await;
        assert!(is_well(&hub).await);
    }
    while let Some(events) = within("every client", clients.join_next()).await {
        assert_eq!(events.unwrap(), 30);
    }
    // And their places are free again.
    within("the end of all who never finish", async {
        while attackers.join_next().await.is_some() {}
    })
    .await;
    eventually("only who asks is left", 1, async || {
        hub.metric("bellwether_connections").await
    })
    .await;
    let refused = hub
        .metric("bellwether_refusals_total{limit=\"Time\"}")
        .await;
    assert!(refused >= 1000, "{refused}");
    let grown = hub.resident_kib().saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB");
}

/// As fast as it can, on a few connections, until it is told to stop.
#[tokio::test]
async fn a_publisher_that_floods_is_held_back_and_others_are_not() {
    let database = TestDatabase::create().await;
    let args = ["--publish-rate", "100", "--trusted-proxy", "127.0.0.0/8"];
    let hub = Hub::start_with(&database, HubOptions::args(&args)).await;
    let mut stream = hub.stream("topic=quiet").await;
    stream.opened().await;
    let post = |client: &str, topic: &str| {
        let body = format!(r#"{{"topic": "{topic}", "event": "n", "data": 1}}"#);
        format!(
            "POST /v1/events HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: {client}\r\n\
            Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let (flood, quiet) = (post("192.0.2.1", "flood"), post("192.0.2.2", "quiet"));
    let last = "GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let mut floods = JoinSet::new();
    for _ in 0..4 {
        let (address, flood) = (hub.address, flood.repeat(50));
        floods.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            let (mut reader, mut writer) = stream.split();
            let write = async {
                for _ in 0..50 {
                    writer.write_all(flood.as_bytes()).await?;
                }
                writer.write_all(last.as_bytes()).await
            };
            let mut answers = String::new();
            tokio::try_join!(write, reader.read_to_string(&mut answers))?;
            let count = |status: &str| answers.matches(&format!("HTTP/1.1 {status}")).count();
            Ok::<_, io::Error>((count("201"), count("429")))
        });
    }
    for _ in 0..10 {
        let mut other = TcpStream::connect(hub.address).await.unwrap();
        other.write_all(quiet.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        within("an answer", other.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(&answer, b"HTTP/1.1 201");
    }
    stream.events(10).await;
    let (mut published, mut refused) = (0, 0);
    while let Some(done) = within("the floods' end", floods.join_next()).await {
        let (ok, not) = done.unwrap().unwrap();
        published += ok;
        refused += not;
    }
    assert_eq!(published + refused, 4 * 50 * 50, "each is answered");
    assert!(
        published >= 1000 && refused > 2000,
        "{published} and {refused}"
    );
}
