use http::Request;
use http_body_util::Full;
use hyper::{
    body::{Body, Bytes},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::harness::{
    Client, Delivery, Hub, HubOptions, TestDatabase, bellwether, eventually, request_whole, within,
};

async fn hub(args: &[&str]) -> Hub {
    let database = TestDatabase::create().await;
    Hub::start_with(&database, HubOptions::args(args)).await
}

async fn refusals(hub: &Hub, limit: &str) -> u64 {
    let name = format!("bellwether_refusals_total{{limit=\"{limit}\"}}");
    hub.metric(&name).await
}

/// A connection from an address of this machine.
async fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(source.parse().unwrap(), 0))
        .unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends bytes, and reads until the hub hangs up.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> String {
    // The hub may answer and hang up before it has read everything.
    let _: std::io::Result<()> = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _: std::io::Result<usize> = within("the end of an answer", read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether a connection is one that the hub talks to.
async fn is_served(stream: TcpStream) -> bool {
    let request = b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    exchange(stream, request).await.starts_with("HTTP/1.1 200")
}

fn publication(
    address: SocketAddr,
    headers: &[(&str, &str)],
    events: usize,
) -> Request<Full<Bytes>> {
    let events = vec![r#"{"topic": "a", "event": "n", "data": 1}"#; events].join(",");
    let mut request = Request::post(format!("http://{address}/v1/events"))
        .header("Host", "test")
        .header("Content-Type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(format!("[{events}]"))).unwrap()
}

#[tokio::test]
async fn a_stream_too_many_is_told_to_come_back_later() {
    let hub = hub(&["--max-streams", "3", "--max-streams-per-client", "3"]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = hub.stream("topic=events").await;
        stream.opened().await;
        streams.push(stream);
    }
    // Not `Client::opened`: it says when to come back, and no more.
    let mut shed = hub.stream("topic=events").await;
    assert_eq!(shed.status, 200, "a browser gives up for ever on any other");
    let Delivery::Retry(pause) = shed.next().await else {
        panic!("retry comes first");
    };
    let usual = Duration::from_secs(3);
    assert!(pause >= usual, "{pause:?} is longer than any usual one");
    assert_eq!(shed.next().await, Delivery::End);
    assert_eq!(refusals(&hub, "streams").await, 1);
    assert_eq!(hub.metric("bellwether_clients").await, 3);

    // Who leaves makes room.
    streams.pop();
    eventually("there is room", true, async || {
        let mut next = hub.stream("topic=events").await;
        next.next().await;
        matches!(next.next().await, Delivery::Event(_))
    })
    .await;
}

#[tokio::test]
async fn streams_of_one_connection_count_one_by_one() {
    let hub = hub(&["--max-streams", "10", "--max-streams-per-client", "4"]).await;
    let socket = TcpStream::connect(hub.address).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..6 {
        let uri = format!("http://{}/v1/stream?topic=events", hub.address);
        let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
        let answer = within("an answer", sender.send_request(request))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        bodies.push(answer.into_body());
    }
    assert_eq!(hub.metric("bellwether_clients").await, 4);
    assert_eq!(refusals(&hub, "streams_per_client").await, 2);
    // Another address has streams left.
    let stream = connect_from("127.0.0.2", hub.address).await;
    let mut stream = tokio::io::BufReader::new(stream);
    let request = b"GET /v1/stream?topic=events HTTP/1.1\r\nHost: t\r\n\r\n";
    stream.write_all(request).await.unwrap();
    eventually("it has", 5, async || hub.metric("bellwether_clients").await).await;
    assert!(bodies.iter().any(|body| !body.is_end_stream()));
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_others_are_served() {
    let hub = hub(&[
        "--max-connections",
        "20",
        "--max-connections-per-address",
        "5",
    ])
    .await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(connect_from("127.0.0.9", hub.address).await);
    }
    eventually("they are there", true, async || {
        hub.metric("bellwether_connections").await >= 6 // and the one that asks
    })
    .await;
    assert!(!is_served(connect_from("127.0.0.9", hub.address).await).await);
    assert_eq!(refusals(&hub, "connections_per_address").await, 1);
    assert!(is_served(connect_from("127.0.0.10", hub.address).await).await);
    for nth in 0..15 {
        let source = format!("127.0.1.{}", 1 + nth % 5);
        open.push(connect_from(&source, hub.address).await);
    }
    eventually("no place is left", false, async || {
        // Whoever has just left may have had a place until now.
        open.push(connect_from("127.0.1.6", hub.address).await);
        is_served(connect_from("127.0.0.10", hub.address).await).await
    })
    .await;
    open.truncate(10);
    eventually("who leaves makes room", true, async || {
        is_served(connect_from("127.0.0.10", hub.address).await).await
    })
    .await;
    assert!(refusals(&hub, "connections").await >= 1);
}

#[tokio::test]
async fn more_connections_than_files() {
    let many = "1000000000";
    let mut command = bellwether();
    command.args(["serve", "--database-url", "postgres://nobody@127.0.0.1:1/x"]);
    let output = command.args(["--max-connections", many]).output();
    let output = within("its end", output).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("may open only"), "{said}");
}

#[tokio::test]
async fn who_publishes_too_fast_is_told_when_to_go_on() {
    let hub = hub(&["--publish-rate", "10", "--trusted-proxy", "127.0.0.1"]).await;
    let from = |client: &'static str| [("X-Forwarded-For", client)];
    // As many as fit into one request, and then not one more.
    let request = publication(hub.address, &from("192.0.2.1"), 1000);
    assert_eq!(request_whole(hub.address, request).await.0, 201);
    let request = publication(hub.address, &from("192.0.2.1"), 1000);
    let (status, headers, text) = request_whole(hub.address, request).await;
    assert_eq!(status, 429, "{text}");
    let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=100).contains(&wait), "{wait} s");
    assert!(text.contains("too_fast"), "{text}");
    assert!(refusals(&hub, "publish_rate").await >= 1);
    // Another client is not held up.
    let request = publication(hub.address, &from("192.0.2.2"), 1);
    assert_eq!(request_whole(hub.address, request).await.0, 201);
    assert_eq!(hub.metric("bellwether_stream_head").await, 1001);
}

#[tokio::test]
async fn sizes_and_times() {
    let hub = hub(&[
        "--max-body-bytes",
        "1000",
        "--max-head-bytes",
        "8192",
        "--max-patterns",
        "2",
        "--request-timeout",
        "500ms",
    ])
    .await;
    let request = publication(hub.address, &[], 100);
    assert_eq!(request_whole(hub.address, request).await.0, 413);
    assert_eq!(refusals(&hub, "body").await, 1);

    let connect = async || TcpStream::connect(hub.address).await.unwrap();
    let big = "x".repeat(9000);
    let head = format!("GET /v1/stream?topic=a HTTP/1.1\r\nHost: t\r\nX: {big}\r\n\r\n");
    let answer = exchange(connect().await, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    eventually("it is counted", 1, async || refusals(&hub, "head").await).await;

    let three =
        b"GET /v1/stream?topic=a&topic=b&topic=c HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let answer = exchange(connect().await, three).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("more than 2 topics are named"), "{answer}");
    assert_eq!(refusals(&hub, "patterns").await, 1);

    // Heads and bodies that do not come to their end.
    let before = refusals(&hub, "time").await;
    let answer = exchange(connect().await, b"GET /v1/stream?topic=a HTTP/1.1\r\nHo").await;
    assert_eq!(answer, "");
    let answer = exchange(connect().await, b"PRI * HTTP/2.0\r\n\r\nSM").await;
    assert_eq!(answer, "", "the preface of HTTP/2 likewise");
    let body = b"POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n[";
    let answer = exchange(connect().await, body).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(refusals(&hub, "time").await >= before + 3);
}

#[tokio::test]
async fn a_pattern_may_hold_what_belongs_escaped() {
    let hub = hub(&[]).await;
    let mut stream = connect_from("127.0.0.1", hub.address).await;
    let request = b"GET /v1/stream?topic=> HTTP/1.1\r\nHost: t\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut bytes = [0; 15];
    within("an answer", stream.read_exact(&mut bytes))
        .await
        .unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 200 OK");
}

mod proxies {
    use super::*;

    const STREAM: &str = "GET /v1/stream?topic=events HTTP/1.1\r\nHost: t\r\n\r\n";

    /// Opens a stream, after these bytes, and says whether there was a place.
    async fn has_place(hub: &Hub, source: &str, bytes: &str) -> (bool, TcpStream) {
        let mut stream = connect_from(source, hub.address).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        loop {
            let mut part = [0; 1024];
            let read = within("an answer", stream.read(&mut part))
                .await
                .unwrap_or(0);
            text.extend_from_slice(&part[..read]);
            let so_far = String::from_utf8_lossy(&text);
            if so_far.contains("event: heartbeat") {
                return (true, stream);
            }
            if read == 0 {
                return (false, stream);
            }
        }
    }

    fn told(client: &str) -> String {
        STREAM.replace(
            "\r\n\r\n",
            &format!("\r\nX-Forwarded-For: {client}\r\n\r\n"),
        )
    }

    #[tokio::test]
    async fn a_client_is_whom_a_proxy_tells_of() {
        let args = [
            "--trusted-proxy",
            "127.0.0.5",
            "--max-streams-per-client",
            "1",
        ];
        let hub = hub(&args).await;
        let mut open = Vec::new();
        let mut place = async |source: &str, client: &str| {
            let (is_there, stream) = has_place(&hub, source, &told(client)).await;
            open.push(stream);
            is_there
        };
        assert!(place("127.0.0.5", "192.0.2.1").await);
        assert!(place("127.0.0.5", "192.0.2.2").await);
        assert!(!place("127.0.0.5", "192.0.2.1").await);
        assert!(!place("127.0.0.5", "9.9.9.9, 192.0.2.1").await);
        assert!(place("127.0.0.5", "2001:db8::1").await);
        assert!(!place("127.0.0.5", "2001:db8::2").await, "the same network");
        // Anybody else is not believed.
        assert!(place("127.0.0.6", "192.0.2.3").await);
        assert!(!place("127.0.0.6", "192.0.2.4").await);
    }

    #[tokio::test]
    async fn the_proxy_protocol() {
        let args = [
            "--trusted-proxy",
            "127.0.0.5",
            "--proxy-protocol",
            "--max-connections-per-address",
            "1",
            "--max-streams-per-client",
            "1",
            "--request-timeout",
            "2s",
        ];
        let hub = hub(&args).await;
        let v1 = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 5000 80\r\n{STREAM}");
        let first = has_place(&hub, "127.0.0.5", &v1("192.0.2.1")).await;
        let second = has_place(&hub, "127.0.0.5", &v1("192.0.2.2")).await;
        assert!(first.0 && second.0);
        assert!(!has_place(&hub, "127.0.0.5", &v1("192.0.2.1")).await.0);
        assert_eq!(refusals(&hub, "connections_per_address").await, 1);
        // Without one, or with half of one.
        assert!(!has_place(&hub, "127.0.0.5", STREAM).await.0);
        let stream = connect_from("127.0.0.5", hub.address).await;
        assert_eq!(exchange(stream, b"PROXY TCP4 192.0.2.7").await, "");
        // Who is no proxy does not announce anybody, but himself.
        let answer = connect_from("127.0.0.6", hub.address).await;
        let answer = exchange(answer, v1("192.0.2.8").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        // Once the hub has let go of that connection, too.
        eventually("it has a place", true, async || {
            has_place(&hub, "127.0.0.6", STREAM).await.0
        })
        .await;
        let mut client = Client::connect(hub.address, "topic=events", None).await;
        client.opened().await;
    }
}
