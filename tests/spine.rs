use std::time::Duration;

use crate::harness::{Hub, TestDatabase};

#[tokio::test]
async fn an_insert_arrives() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    let opening = String::from_utf8(client.bytes.clone()).unwrap();
    let (retry, id) = opening.trim_end_matches('\n').split_once("\n\n").unwrap();
    let retry: u64 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!(
        (1000..3000).contains(&retry),
        "{retry} is jittered around 2 s"
    );
    let (id, rest) = id.split_once('\n').unwrap();
    assert_eq!(rest, "event: heartbeat\ndata: ");
    let cursor = id.strip_prefix("id: ").unwrap();
    let (epoch, seq) = cursor.split_once('-').unwrap();
    assert_eq!((epoch.len(), seq), (8, "0"));

    let psql = database.connect().await;
    psql.batch_execute(
        r#"INSERT INTO events (name, properties) VALUES ('signup', '{"plan":"pro"}')"#,
    )
    .await
    .unwrap();

    let event = client.event().await;
    assert_eq!(event.name, "signup");
    assert_eq!(event.id, format!("{epoch}-1"));
    let created_at: String = psql
        .query_one("SELECT to_json(created_at)::text FROM events", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        String::from_utf8(client.bytes.clone()).unwrap()[opening.len()..],
        format!(
            "id: {epoch}-1\nevent: signup\ndata: {{\"id\":1,\"name\":\"signup\",\
             \"properties\":{{\"plan\": \"pro\"}},\"created_at\":{created_at}}}\n\n"
        )
    );
}

#[tokio::test]
async fn what_says_that_it_is_a_stream() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let client = hub.stream("topic=events").await;
    assert_eq!(client.status, 200);
    let header = |name: &str| {
        client
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap())
    };
    assert_eq!(header("content-type"), Some("text/event-stream"));
    assert_eq!(header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(header("x-accel-buffering"), Some("no"));
    assert_eq!(header("content-encoding"), None);
}

#[tokio::test]
async fn only_what_the_patterns_match() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let mut one = hub.stream("topic=org.7.*").await;
    let mut other = hub.stream("topic=org.8.%3E&topic=events").await;
    let mut all = hub.stream("topic=%3E").await;
    for client in [&mut one, &mut other, &mut all] {
        client.opened().await;
    }
    psql.batch_execute(
        "INSERT INTO bellwether.event (topic, name, data) VALUES
            ('org.7.probe', 'a', '1'), ('org.8.probe.eu', 'b', '2'), ('org.7.probe.eu', 'c', '3'), ('org.7.incident', 'd', '4');
         INSERT INTO events (name) VALUES ('e')",
    )
    .await
    .unwrap();
    let names = |events: Vec<sse::Message>| {
        events
            .into_iter()
            .map(|event| event.name)
            .collect::<String>()
    };
    assert_eq!(names(all.events(5).await), "abcde");
    assert_eq!(names(one.events(2).await), "ad");
    assert_eq!(names(other.events(2).await), "be");
}

#[tokio::test]
async fn any_text_arrives_as_it_is() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    let texts = [
        "",
        " leading",
        "line\nline",
        "cr\rcr",
        "crlf\r\ncrlf",
        "tab\t",
        "\u{1F980} größe \u{2028}",
        "\u{FEFF}bom",
        "data: x\nid: 9\n\nevent: y",
    ];
    for text in texts {
        psql.execute(
            "INSERT INTO events (name, properties) VALUES ('text', to_jsonb($1::text))",
            &[&text],
        )
        .await
        .unwrap();
    }
    for text in texts {
        let data: serde_json::Value = serde_json::from_str(&client.event().await.data).unwrap();
        assert_eq!(data["properties"], text);
    }
    // A document that was written over several lines stays one, and names cannot break out.
    let lines = "{\"a\":\r\n1,\r\"b\":\n2}";
    psql.execute(
        "INSERT INTO bellwether.event (topic, name, data) VALUES ('events', E'odd\\nid: 1\\r\\n: name', $1::text::json)",
        &[&lines],
    )
    .await
    .unwrap();
    let event = client.event().await;
    assert_eq!(event.data, "{\"a\":\n1,\n\"b\":\n2}");
    assert_eq!(event.name, "odd\u{FFFD}id: 1\u{FFFD}\u{FFFD}: name");
    psql.execute("INSERT INTO events (name) VALUES (E'two\\nlines')", &[])
        .await
        .unwrap();
    assert_eq!(client.event().await.name, "two\u{FFFD}lines");
}

#[tokio::test]
async fn a_huge_row_neither_fails_nor_blocks() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    let insert = "INSERT INTO events (name, properties) VALUES ('big', jsonb_build_object('text', repeat($1, $2::int)))";
    psql.execute(insert, &[&"line\n", &(1024 * 1024 / 5)])
        .await
        .unwrap();
    psql.execute(insert, &[&"line\n", &(40 * 1024)])
        .await
        .unwrap();
    psql.execute(insert, &[&"x", &1]).await.unwrap();

    assert_eq!(
        client.event().await.data,
        r#"{"id" : 1, "truncated" : true}"#
    );
    let data: serde_json::Value = serde_json::from_str(&client.event().await.data).unwrap();
    assert_eq!(data["properties"]["text"], "line\n".repeat(40 * 1024));
    let data: serde_json::Value = serde_json::from_str(&client.event().await.data).unwrap();
    assert_eq!(data["properties"]["text"], "x");
}

#[tokio::test]
async fn a_topic_written_by_hand_does_not_stop_the_stream() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let mut client = hub.stream("topic=a._.b_").await;
    client.opened().await;
    psql.batch_execute(
        "INSERT INTO bellwether.event (topic, name, data) VALUES ('a..b*', '', '{}')",
    )
    .await
    .unwrap();
    let event = client.event().await;
    assert_eq!(
        (event.name.as_str(), event.data.as_str()),
        ("message", "{}")
    );
}

#[tokio::test]
async fn heartbeats_move_the_cursor_of_a_quiet_client() {
    let database = TestDatabase::create().await;
    let options = crate::harness::HubOptions::args(&["--heartbeat", "300ms"]);
    let hub = Hub::start_with(&database, options).await;
    let psql = database.connect().await;
    let mut client = hub.stream("topic=another").await;
    client.opened().await;
    psql.batch_execute("INSERT INTO events (name) VALUES ('a'), ('b')")
        .await
        .unwrap();
    let mut beats = 0;
    while !client.cursor().ends_with("-2") {
        let event = client.event().await;
        assert_eq!(
            (event.name.as_str(), event.data.as_str()),
            ("heartbeat", "")
        );
        beats += 1;
        assert!(beats < 50, "the heartbeat's id follows the head");
    }
    assert!(client.is_quiet_for(Duration::from_millis(700)).await);
}

/// What the README tells people to do with a table of their own.
#[tokio::test]
async fn the_readmes_attachment_works() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```sql\n").unwrap();
    let (sql, _) = rest.split_once("```").unwrap();

    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    psql.batch_execute(
        "CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric, card text)",
    )
    .await
    .unwrap();
    psql.batch_execute(sql).await.unwrap();
    let writer = format!("writer_{}", std::process::id());
    let grant =
        format!("CREATE ROLE {writer}; GRANT INSERT ON orders TO {writer}; SET ROLE {writer}");
    psql.batch_execute(&grant).await.unwrap();
    let mut client = hub.stream("topic=shop.orders").await;
    client.opened().await;
    psql.batch_execute("INSERT INTO orders VALUES (7, 'new', 12.50, '4242'), (8, 'paid', 3, NULL)")
        .await
        .unwrap();
    let events = client.events(2).await;
    assert_eq!(events[0].name, "orders.insert");
    assert_eq!(events[0].data, r#"{"id":7,"status":"new","total":12.50}"#);
    assert_eq!(events[1].data, r#"{"id":8,"status":"paid","total":3}"#);
    assert_eq!(hub.metric("bellwether_safety_poll_events_total").await, 0);
}
