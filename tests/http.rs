use http::{Method, Request, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use sse::{Decoder, Item};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Hub, TestDatabase, get, request_whole, within};

async fn request(hub: &Hub, method: Method, path: &str) -> (u16, http::HeaderMap, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "test");
    request_whole(hub.address, request.body(Full::default()).unwrap()).await
}

/// The status line of the answer to raw bytes.
async fn raw(hub: &Hub, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        // The hub may answer and hang up before it has read everything.
        let _: std::io::Result<()> = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _: std::io::Result<usize> = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    within("an answer to raw bytes", exchange).await
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;

    let (status, headers, text) = request(&hub, Method::GET, "/v1/streams?topic=a").await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap()),
        (404, "application/json")
    );
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["error"]["code"], "not_found");
    assert_eq!(
        answer["error"]["message"],
        "nothing is at /v1/streams: streams are at /v1/stream?topic=PATTERN"
    );

    for (method, path, allowed) in [
        (Method::POST, "/v1/stream?topic=a", "GET"),
        (Method::HEAD, "/v1/stream?topic=a", "GET"),
        (Method::DELETE, "/readyz", "GET, HEAD"),
    ] {
        let (status, headers, text) = request(&hub, method.clone(), path).await;
        assert_eq!(
            (status, headers["allow"].to_str().unwrap()),
            (405, allowed),
            "{method} {path}"
        );
        if method != Method::HEAD {
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["error"]["code"], "method_not_allowed");
        }
    }
}

#[tokio::test]
async fn bad_queries() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    for (query, part) in [
        ("", "no topic is named"),
        ("?topic=", "\"\" is no topic pattern: it is empty"),
        (
            "?topic=a..b",
            "nothing stands before, after or between its dots",
        ),
        ("?topic=a.%3E.b", "can only come last"),
        ("?topic=a%0Ab", "it holds the character '\\n'"),
        ("?topic=a&last=some", "last=\"some\" is not a number"),
        ("?topic=a&since=1", "\"since\" is no parameter"),
    ] {
        let (status, _, text) = request(&hub, Method::GET, &format!("/v1/stream{query}")).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &"bad_query".into()),
            "{query}"
        );
        assert!(message.contains(part), "{query}: {message}");
    }
    let many = "topic=a&".repeat(65);
    let (status, _, text) = request(&hub, Method::GET, &format!("/v1/stream?{many}")).await;
    assert_eq!(status, 400);
    assert!(text.contains("more than 64 topics"), "{text}");
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let big = "x".repeat(20_000);
    let header = format!("GET /v1/stream?topic=a HTTP/1.1\r\nHost: t\r\nX: {big}\r\n\r\n");
    assert_eq!(
        raw(&hub, header.as_bytes()).await,
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
    let cursor =
        format!("GET /v1/stream?topic=a HTTP/1.1\r\nHost: t\r\nLast-Event-ID: {big}\r\n\r\n");
    assert_eq!(
        raw(&hub, cursor.as_bytes()).await,
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
    let headers = "X: y\r\n".repeat(200);
    let header = format!("GET /healthz HTTP/1.1\r\nHost: t\r\n{headers}\r\n");
    assert_eq!(
        raw(&hub, header.as_bytes()).await,
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
    assert_eq!(
        raw(&hub, b"nonsense\r\n\r\n").await,
        "HTTP/1.1 400 Bad Request"
    );
    assert_eq!(
        raw(&hub, b"GET /healthz HTTP/1.0\r\n\r\n").await,
        "HTTP/1.0 200 OK"
    );
    assert_eq!(get(hub.address, "/healthz").await.0, 200, "and it goes on");
}

#[tokio::test]
async fn health_readiness_and_the_index() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    assert_eq!(
        get(hub.address, "/healthz").await,
        (200, "{\"alive\":true}\n".to_owned())
    );
    assert_eq!(
        get(hub.address, "/readyz").await,
        (
            200,
            "{\"ready\":true,\"reasons\":[],\"warnings\":[]}\n".to_owned()
        )
    );
    let (status, text) = get(hub.address, "/").await;
    assert_eq!(status, 200);
    assert!(text.contains("/v1/stream?topic=PATTERN"), "{text}");
    let (status, headers, text) = request(&hub, Method::HEAD, "/readyz").await;
    assert_eq!((status, text.as_str()), (200, ""));
    assert_eq!(headers["cache-control"], "no-store");
}

#[tokio::test]
async fn pages_are_served_and_kept() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    for (path, content_type) in [
        ("/index", "text/html; charset=utf-8"),
        ("/bellwether.js", "text/javascript; charset=utf-8"),
        ("/vendor/uPlot.min.css", "text/css; charset=utf-8"),
    ] {
        let (status, headers, text) = request(&hub, Method::GET, path).await;
        assert_eq!((status, text.is_empty()), (200, false), "{path}");
        assert_eq!(headers["content-type"], content_type);
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["cache-control"], "no-cache");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");

        let again = Request::get(path)
            .header("Host", "test")
            .header("If-None-Match", &headers["etag"])
            .body(Full::default())
            .unwrap();
        let (status, known, text) = request_whole(hub.address, again).await;
        assert_eq!((status, text.as_str()), (304, ""), "{path}");
        assert_eq!(known["etag"], headers["etag"]);

        let (status, head, text) = request(&hub, Method::HEAD, path).await;
        assert_eq!((status, text.as_str()), (200, ""), "{path}");
        assert_eq!(head["content-length"], headers["content-length"]);
    }
    let (status, headers, _) = request(&hub, Method::POST, "/").await;
    assert_eq!(
        (status, headers["allow"].to_str().unwrap()),
        (405, "GET, HEAD")
    );
    for path in [
        "../Cargo.toml",
        "/../Cargo.toml",
        "//etc/passwd",
        "/%2e%2e/x",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        let line = raw(&hub, head.as_bytes()).await;
        let is_refused = line.contains(" 400 ") || line.contains(" 404 ");
        assert!(is_refused, "{path}: {line}");
    }
}

/// HTTP/2 by prior knowledge: many streams on one connection, each with its own filter.
#[tokio::test]
async fn many_streams_on_one_http2_connection() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;

    let stream = TcpStream::connect(hub.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for topic in 0..50 {
        let uri = format!("http://{}/v1/stream?topic=t.{topic}", hub.address);
        let request = Request::get(uri)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let response = within("an answer", sender.clone().send_request(request))
            .await
            .unwrap();
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (200, Version::HTTP_2)
        );
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        bodies.push(response.into_body());
    }
    let insert = "INSERT INTO bellwether.event (topic, name, data)
        SELECT 't.' || n % 50, 'n' || n, '{}' FROM generate_series(0, 99) AS n";
    psql.batch_execute(insert).await.unwrap();
    for (topic, mut body) in bodies.into_iter().enumerate() {
        let (mut decoder, mut names) = (Decoder::new(), Vec::new());
        while names.len() < 2 {
            let frame = within("a frame", body.frame()).await.unwrap().unwrap();
            decoder.feed(&frame.into_data().unwrap());
            names.extend(decoder.by_ref().filter_map(|item| match item.unwrap() {
                Item::Event(message) if message.name != "heartbeat" => Some(message.name),
                _ => None,
            }));
        }
        assert_eq!(names, [format!("n{topic}"), format!("n{}", topic + 50)]);
    }
}
