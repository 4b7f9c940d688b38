use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::exchange;
use crate::harness::{Hub, TestDatabase, within};

const STREAM: &str = "GET /v1/stream?topic=events HTTP/1.1\r\nHost: t\r\n";
const LAST: &str = "GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";

/// The status of each answer.
fn statuses(answer: &str) -> Vec<&str> {
    let lines = answer.split("HTTP/1.1 ").skip(1);
    lines.map(|rest| rest.get(..3).unwrap_or(rest)).collect()
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let post = "POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n";
    for (head, body) in [
        (
            post,
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            post,
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
        ),
        (post, "Content-Length: 1\r\nContent-Length: 6\r\n\r\n{"),
        (post, "Content-Length: 1, 6\r\n\r\n{"),
        (post, "Content-Length: +1\r\n\r\n{"),
        (post, "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (
            post,
            "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (post, "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        (post, "X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (STREAM, "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        (STREAM, "X: a\r\n obs: fold\r\n\r\n"),
        (STREAM, "X: a\0b\r\n\r\n"),
        (STREAM, "X: a\rb\r\n\r\n"),
        (STREAM, " Content-Length: 3\r\n\r\n"),
    ] {
        let request = format!("{head}{body}{LAST}");
        let answer = exchange(&hub, request.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{request}\n{answer}");
    }
}

#[tokio::test]
async fn requests_in_a_row_are_each_answered() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let get = "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n";
    let post = "POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
        Content-Length: 43\r\n\r\n{\"topic\": \"a\", \"event\": \"n\", \"data\": 12345}";
    let bad = "GET /v1/stream?topic= HTTP/1.1\r\nHost: t\r\n\r\n";
    let row = format!("{get}{post}{bad}{LAST}");
    let answer = exchange(&hub, row.as_bytes()).await;
    assert_eq!(statuses(&answer), ["200", "201", "400", "200"], "{answer}");
    // A refused stream first: what follows it is a request like any other.
    let row = format!("{bad}{post}{LAST}");
    assert_eq!(
        statuses(&exchange(&hub, row.as_bytes()).await),
        ["400", "201", "200"]
    );
    assert_eq!(hub.metric("bellwether_stream_head").await, 2);
}

/// What comes after a stream's head belongs to no request: the stream ends with the connection.
#[tokio::test]
async fn what_follows_a_stream_is_not_carried_out() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let post = "POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
        Content-Length: 39\r\n\r\n{\"topic\": \"a\", \"event\": \"n\", \"data\": 1}";
    for (first, second) in [
        (format!("{STREAM}\r\n"), post.to_owned()),
        (format!("{STREAM}\r\n{post}"), String::new()),
        (
            format!("{STREAM}Content-Length: 3\r\n\r\nGET"),
            post.to_owned(),
        ),
        (
            format!("{STREAM}Content-Length: {}\r\n\r\n", post.len()),
            post.to_owned(),
        ),
        (
            format!("{STREAM}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            post.to_owned(),
        ),
    ] {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut text = String::new();
        let mut wait_for = async |wanted: &str, stream: &mut TcpStream| {
            while !text.contains(wanted) {
                let mut part = [0; 4096];
                let read = within(wanted, stream.read(&mut part)).await.unwrap();
                assert!(read > 0, "it goes on: {text}");
                text.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
        };
        wait_for("event: heartbeat", &mut stream).await;
        stream.write_all(second.as_bytes()).await.unwrap();
        database.insert(1).await;
        wait_for("event: n\n", &mut stream).await;
        assert_eq!(statuses(&text), ["200"]);
    }
    assert_eq!(
        hub.metric("bellwether_stream_head").await,
        5,
        "only the rows"
    );
}
