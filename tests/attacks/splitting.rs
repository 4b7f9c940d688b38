use http::Request;
use serde_json::{Value, json};

use super::exchange;
use crate::harness::{Hub, TestDatabase, request_whole};

/// Would be an event of its own if it got out of its line.
const EVIL: &str = "x\r\nid: 00000000-1\revent: evil\ndata: evil\n\n: \u{2028}\u{85}evil";

async fn publish(hub: &Hub, body: &str) -> (u16, String) {
    let request = Request::post("/v1/events")
        .header("Host", "test")
        .header("Content-Type", "application/json");
    let request = request.body(body.to_owned().into()).unwrap();
    let (status, _, text) = request_whole(hub.address, request).await;
    (status, text)
}

#[tokio::test]
async fn no_text_becomes_an_event() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let mut plain = hub.stream("topic=%3E").await;
    let mut envelopes = hub.stream("topic=%3E&envelope=1").await;
    let mut lines = hub.lines("topic=%3E").await;
    plain.opened().await;
    envelopes.opened().await;

    // From a table: as its name, its topic, its key and its data.
    psql.batch_execute(
        "CREATE TABLE evil (id text PRIMARY KEY, what text, data text);
        SELECT bellwether.attach('evil', topic => 'evil.{what}', event => '{what}')",
    )
    .await
    .unwrap();
    let insert = "INSERT INTO evil VALUES ($1, $1, $1)";
    psql.execute(insert, &[&EVIL]).await.unwrap();
    let event = plain.event().await;
    assert!(!event.name.contains(['\r', '\n']), "{event:?}");
    assert_ne!(event.name, "evil");
    let row: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(row["data"], EVIL);
    let envelope: Value = serde_json::from_str(&envelopes.event().await.data).unwrap();
    assert_eq!((&envelope["key"], &envelope["data"]), (&json!(EVIL), &row));
    assert_eq!(lines.next().await, envelope);

    // Over HTTP: JSON whose white space is lines.
    let (status, text) = publish(
        &hub,
        "{\"topic\": \"a\", \"event\": \"n\", \"key\": \"\\r\\n\\nid: 7\", \"data\": {\"a\"\r\n\r\n:\n\n\n1,\r\r\"b\": 2}}",
    )
    .await;
    assert_eq!(status, 201, "{text}");
    let event = plain.event().await;
    assert_eq!(event.name, "n");
    let data: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(data, json!({"a": 1, "b": 2}));
    let envelope: Value = serde_json::from_str(&envelopes.event().await.data).unwrap();
    assert_eq!(envelope["key"], "\r\n\nid: 7");
    assert_eq!(lines.next().await, envelope);

    // Names and topics that would have to be written as they are.
    for (topic, name) in [("a", EVIL), (EVIL, "n"), ("a", "gap"), ("a", "x\0")] {
        let body = json!({"topic": topic, "event": name, "data": 1}).to_string();
        let (status, text) = publish(&hub, &body).await;
        assert_eq!(status, 400, "{text}");
        let call = "SELECT bellwether.publish($1, $2, '1'::json)";
        assert!(psql.execute(call, &[&topic, &name]).await.is_err());
    }

    // After all of it, the next event is the next one.
    database.insert(1).await;
    assert_eq!(plain.event().await.name, "n");
    assert_eq!(plain.cursor().split_once('-').unwrap().1, "3");
}

#[tokio::test]
async fn a_cursor_comes_back_as_text() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    database.insert(1).await;
    let escaped: String = form_urlencoded::byte_serialize(EVIL.as_bytes()).collect();
    let mut stream = hub
        .stream(&format!("topic=%3E&last_event_id={escaped}"))
        .await;
    let gap = stream.event().await;
    assert_eq!(gap.name, "gap");
    let data: Value = serde_json::from_str(&gap.data).unwrap();
    assert_eq!(
        (&data["reason"], &data["from"]),
        (&json!("unknown"), &json!(EVIL))
    );
    assert_eq!(stream.event().await.name, "heartbeat");
    assert_eq!(stream.event().await.name, "n");
}

#[tokio::test]
async fn no_request_writes_a_header_of_the_answer() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    for path in [
        "/a%0d%0aX-Evil:%20yes",
        "/v1/stream?topic=a%0d%0aX-Evil:%20yes",
        "/v1/stream?topic=a&last=%0d%0aX-Evil:%20yes",
        "/v1/events?topic=a&after=%0d%0aX-Evil:%20yes",
        "/v1/events?%0d%0aX-Evil:%20yes",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        let answer = exchange(&hub, request.as_bytes()).await;
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        assert!(!head.to_ascii_lowercase().contains("x-evil"), "{answer}");
    }
}
