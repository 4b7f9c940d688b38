use http::Request;
use serde_json::{Value, json};

use crate::harness::{Hub, TestDatabase, bellwether, get, request_whole, within};

/// Ends a literal, an identifier and a dollar quote, whichever it stands in.
const EVIL: &str =
    "x'); DROP TABLE precious; --\"); DROP TABLE precious; --$$; DROP TABLE precious; --";

async fn is_there(database: &TestDatabase) -> bool {
    let psql = database.connect().await;
    psql.query("SELECT * FROM precious", &[]).await.is_ok()
}

#[tokio::test]
async fn nothing_that_is_no_sql_is_run() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    // Postgres cuts names after 63 bytes.
    let name = &EVIL[..60];
    psql.batch_execute(&format!(
        "CREATE TABLE precious (id int);
        CREATE TABLE {0} (id int PRIMARY KEY, {0} text, \"{{table}}\" text)",
        quoted(name)
    ))
    .await
    .unwrap();
    // Names and templates, as they are given to the command line.
    let mut command = bellwether();
    command.args(["attach", &quoted(name), "--database-url", &database.url]);
    command.args([
        "--topic",
        &format!("evil.{{{name}}}"),
        "--event",
        &format!("{{{name}}} {EVIL}"),
    ]);
    command.args(["--columns", &format!("id,{name}")]);
    let output = within("its end", command.output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(is_there(&database).await);

    let mut stream = hub.stream("topic=%3E&envelope=1").await;
    stream.opened().await;
    let insert = format!("INSERT INTO {} VALUES (1, $1, 'no')", quoted(name));
    psql.execute(&insert, &[&EVIL]).await.unwrap();
    let event = stream.event().await;
    assert_eq!(event.name, format!("{EVIL} {EVIL}"));
    let envelope: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(envelope["data"], json!({"id": 1, name: EVIL}));
    assert!(is_there(&database).await);

    // All that comes in over HTTP.
    let evil: String = form_urlencoded::byte_serialize(EVIL.as_bytes()).collect();
    let topic = EVIL.replace([' ', '*'], "");
    let body = json!({"topic": topic, "event": EVIL, "key": EVIL, "data": EVIL});
    let request = Request::post("/v1/events")
        .header("Host", "test")
        .header("Content-Type", "application/json")
        .header("Idempotency-Key", EVIL)
        .body(body.to_string().into())
        .unwrap();
    let (status, _, text) = request_whole(hub.address, request).await;
    assert_eq!(status, 201, "{text}");
    let event = stream.event().await;
    assert_eq!(event.name, EVIL);
    let envelope: Value = serde_json::from_str(&event.data).unwrap();
    for part in ["key", "data"] {
        assert_eq!(envelope[part], EVIL);
    }
    assert_eq!(envelope["topic"], topic.as_str());
    let topic: String = form_urlencoded::byte_serialize(topic.as_bytes()).collect();
    let page = format!("/v1/events?topic={topic}&event={evil}&last=10");
    let (status, text) = get(hub.address, &page).await;
    let page: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, page["events"].as_array().map(Vec::len)),
        (200, Some(1)),
        "{text}"
    );
    for path in [
        format!("/v1/events?topic=a&after={evil}"),
        format!("/v1/events?topic=a&limit={evil}"),
        format!("/v1/events?topic={evil}"),
    ] {
        get(hub.address, &path).await;
    }
    assert!(is_there(&database).await);
}
