use http::{Request, header};
use http_body_util::Full;
use serde_json::{Value, json};
use std::{process::Stdio, time::Duration};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::{
    Client, Delivery, Hub, HubOptions, Lines, Proxy, ProxyKind, TestDatabase, eventually, get,
    request_whole, try_request, within,
};

/// Timeouts of two seconds instead of two heartbeats and a little.
pub(crate) const HASTY: (&str, &str) = ("35s", "2s");

/// All that `docs/proxies.md` promises of one.
async fn works_behind(kind: ProxyKind) {
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--heartbeat", "500ms"]);
    let hub = Hub::start_with(&database, options.clone()).await;
    let proxy = Proxy::start_with(kind, &[hub.own], &[HASTY]).await;

    // One event, and nothing after it that would push it out of a buffer.
    let mut client = Client::connect(proxy.address, "topic=events", None).await;
    assert_eq!(client.opened().await.status, 200);
    assert_eq!(client.headers[header::CONTENT_TYPE], "text/event-stream");
    database.insert(1).await;
    assert_eq!(client.events(1).await[0].name, "n");
    let mut lines = Lines::connect(proxy.address, "topic=events&last=1").await;
    assert_eq!(lines.next().await["event"], "n");
    database.insert(1).await;
    assert_eq!(lines.next().await["event"], "n");
    client.events(1).await;

    // Heartbeats keep an idle stream for longer than the proxy would.
    for _ in 0..7 {
        assert_eq!(client.event().await.name, "heartbeat");
    }
    let cursor = client.cursor().to_owned();
    drop((client, lines));
    let clients = async || hub.metric("bellwether_clients").await;
    eventually("the hub knows that they left", 0, clients).await;
    database.insert(300).await;
    let mut client = Client::connect(proxy.address, "topic=events", Some(&cursor)).await;
    client.events(300).await;

    let event =
        json!({"topic": "events", "event": "posted", "data": {"text": "x".repeat(200_000)}});
    let post = Request::post("/v1/events")
        .header("Host", "test")
        .header("Content-Type", "application/json")
        .body(event.to_string().into());
    let (status, _, text) = request_whole(proxy.address, post.unwrap()).await;
    assert_eq!(status, 201, "{text}");
    assert_eq!(client.events(1).await[0].name, "posted");
    let (status, text) = get(proxy.address, "/v1/events?topic=events&limit=1000").await;
    let page: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, page["events"].as_array().unwrap().len()),
        (200, 303)
    );

    http2(&proxy, &database).await;
    client.events(1).await;

    // The hub dies and comes back. Meanwhile a browser is told to come again, and not refused.
    let cursor = client.cursor().to_owned();
    let back = options.in_place_of(&hub);
    hub.kill().await;
    while client.next().await != Delivery::End {}
    eventually(
        "a browser is told to come again",
        "retry: 3000\n\n".to_owned(),
        async || {
            let request = Request::get("/v1/stream?topic=events").header("Host", "test");
            let request = request.body(Full::default()).unwrap();
            // One that waits for the dead hub when it is found to be dead is cut, and a browser
            // asks again.
            match try_request(proxy.address, request).await {
                Ok((200, _, text)) => text,
                Ok((status, ..)) => status.to_string(),
                Err(error) => error.to_string(),
            }
        },
    )
    .await;
    database.insert(5).await;
    let hub = Hub::spawn(&database.url, back).await.unwrap();
    let mut client = loop {
        let mut client = Client::connect(proxy.address, "topic=events", Some(&cursor)).await;
        let is_open = client.status == 200
            && matches!(client.next().await, Delivery::Retry(_))
            && matches!(client.next().await, Delivery::Event(_));
        if is_open {
            break client;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    client.events(5).await;
    drop(hub);
}

/// A stream over TLS and HTTP/2, as far as the proxy.
async fn http2(proxy: &Proxy, database: &TestDatabase) {
    let mut curl = tokio::process::Command::new("curl");
    let url = format!("https://{}/v1/stream?topic=events", proxy.tls);
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--http2",
        "--include",
        "--no-buffer",
    ])
    .arg(url)
    .stdout(Stdio::piped())
    .kill_on_drop(true);
    let mut curl = curl.spawn().unwrap();
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = within("a line of curl's", lines.next_line()).await;
        line.unwrap().expect("it goes on")
    };
    assert_eq!(next().await.trim(), "HTTP/2 200");
    while next().await != "event: heartbeat" {}
    database.insert(1).await;
    while next().await != "event: n" {}
}

#[tokio::test]
async fn nginx() {
    works_behind(ProxyKind::Nginx).await;
}

#[tokio::test]
async fn caddy() {
    works_behind(ProxyKind::Caddy).await;
}

#[tokio::test]
async fn haproxy() {
    works_behind(ProxyKind::Haproxy).await;
}

/// What heartbeats are for: without them, a proxy takes silence for death.
#[tokio::test]
async fn without_heartbeats_an_idle_stream_is_cut() {
    let database = TestDatabase::create().await;
    let hub = Hub::start_with(&database, HubOptions::args(&["--heartbeat", "1h"])).await;
    for kind in [ProxyKind::Nginx, ProxyKind::Caddy, ProxyKind::Haproxy] {
        let proxy = Proxy::start_with(kind, &[hub.own], &[HASTY]).await;
        let mut client = Client::connect(proxy.address, "topic=events", None).await;
        client.opened().await;
        assert_eq!(client.next().await, Delivery::End, "{kind:?}");
    }
}
