use http::Request;
use serde_json::json;

use super::{exchange, is_well};
use crate::harness::{Hub, TestDatabase, get, request_whole};

async fn status(hub: &Hub, body: &str) -> (u16, String) {
    let request = Request::post("/v1/events")
        .header("Host", "test")
        .header("Content-Type", "application/json");
    let request = request.body(body.to_owned().into()).unwrap();
    let (status, _, text) = request_whole(hub.address, request).await;
    (status, text)
}

#[tokio::test]
async fn too_much_is_refused_and_costs_little() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let before = hub.resident_kib();
    let event = |topic: &str, name: &str, key: &str, data: &str| {
        format!(r#"{{"topic": "{topic}", "event": "{name}", "key": "{key}", "data": {data}}}"#)
    };
    let long = "x".repeat(300);
    for (body, expected) in [
        (event(&long, "n", "k", "1"), 400),
        (event("a", &long, "k", "1"), 400),
        (event("a", "n", &long, "1"), 400),
        (
            event("a", "n", "k", &json!("x".repeat(300_000)).to_string()),
            400,
        ),
        (
            event("a", "n", "k", &json!("x".repeat(3_000_000)).to_string()),
            413,
        ),
        (format!("[{}1]", "1,".repeat(400_000)), 400),
    ] {
        let (status, text) = status(&hub, &body).await;
        assert_eq!(status, expected, "{text}");
        assert!(text.len() < 2000, "an answer is short: {text}");
    }
    // Said to be larger than anything, or without an end.
    for length in [
        "99999999999999999999999",
        "18446744073709551615",
        "-1",
        "2000000",
    ] {
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
            Content-Length: {length}\r\nConnection: close\r\n\r\n{}",
            "[".repeat(1_200_000)
        );
        let answer = exchange(&hub, head.as_bytes()).await;
        // Where it hangs up before all is sent, the answer may be lost on the way.
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }

    let topics = "topic=a&".repeat(65);
    let names = "&event=a".repeat(65);
    let cursor = "7".repeat(10_000);
    let deep = "a.".repeat(5000);
    for path in [
        format!("/v1/stream?{topics}"),
        format!("/v1/stream?topic=a{names}"),
        format!("/v1/stream?topic={long}"),
        format!("/v1/stream?topic={deep}a"),
        "/v1/stream?topic=a&last=99999999999999999999".to_owned(),
        "/v1/events?topic=a&limit=18446744073709551616".to_owned(),
    ] {
        let (status, text) = get(hub.address, &path).await;
        assert_eq!(status, 400, "{path}");
        assert!(text.len() < 20_000, "{}", text.len());
    }
    // A cursor is told to be none of ours, and an excerpt of it comes back.
    let mut stream = hub.stream(&format!("topic=a&last_event_id={cursor}")).await;
    let gap = stream.event().await;
    assert_eq!(gap.name, "gap");
    assert!(gap.data.len() < 300, "{}", gap.data);
    let (status, _) = get(hub.address, &format!("/v1/events?topic=a&after={cursor}")).await;
    assert_eq!(status, 200);
    let (status, text) = get(hub.address, &format!("/{}", "a/".repeat(7000))).await;
    assert!(status == 404 && text.len() < 20_000, "{status} {text}");

    assert!(is_well(&hub).await);
    let grown = hub.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB");
}

/// A text of JSON that is nothing but depth: neither this program's stack nor Postgres's.
#[tokio::test]
async fn nested_without_end() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for depth in [129, 5_000, 40_000] {
            let data = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let whole = format!(r#"{{"topic": "a", "event": "n", "data": {data}}}"#);
            let (code, text) = status(&hub, &whole).await;
            assert_eq!(code, 400, "{depth}: {text}");
            // Nor where data is not expected, or without an end.
            for body in [&data, &data[..data.len() / 2]] {
                let (code, text) = status(&hub, body).await;
                assert_eq!(code, 400, "{depth}: {text}");
            }
        }
        let data = format!("{}1{}", open.repeat(128), close.repeat(128));
        let whole = format!(r#"{{"topic": "a", "event": "n", "data": {data}}}"#);
        let (code, text) = status(&hub, &whole).await;
        assert_eq!(code, 201, "{text}");
    }
    assert!(is_well(&hub).await);
}
