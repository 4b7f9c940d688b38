use crate::harness::{
    Hub, HubOptions, TestDatabase, bellwether, eventually, get, private_postgres, request_whole,
    within,
};
use http::Request;
use serde_json::{Value, json};

async fn post(hub: &Hub, body: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
    post_text(hub, &body.to_string(), headers).await
}

async fn post_text(hub: &Hub, body: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = Request::post("/v1/events").header("Host", "test");
    if headers.iter().all(|(name, _)| *name != "Content-Type") {
        request = request.header("Content-Type", "application/json");
    }
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(body.to_owned().into()).unwrap();
    let (status, _, text) = request_whole(hub.address, request).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

async fn json_at(hub: &Hub, path: &str) -> (u16, Value) {
    let (status, body) = get(hub.address, path).await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn what_is_published_arrives_under_the_ids_of_the_answer() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=a.%3E&envelope=1").await;
    client.opened().await;
    let one = json!({"topic": "a.b", "event": "made", "key": "k", "data": {"x": [1.50, null]}});
    let (status, answer) = post(&hub, &one, &[]).await;
    assert_eq!(status, 201, "{answer}");
    let event = client.event().await;
    assert_eq!(answer["ids"], json!([event.id]));
    assert_eq!(event.name, "made");
    let envelope: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(envelope["id"], json!(event.id));
    assert_eq!(
        (&envelope["topic"], &envelope["event"], &envelope["key"]),
        (&json!("a.b"), &json!("made"), &json!("k"))
    );
    assert!(
        event.data.contains(r#""data":{"x":[1.5,null]}"#),
        "{}",
        event.data
    );
    assert!(envelope["at"].as_str().unwrap().ends_with('Z'));

    let several: Vec<Value> = (0..500)
        .map(|i| json!({"topic": "a.c", "event": "n", "data": i}))
        .collect();
    let (status, answer) = post(&hub, &json!(several), &[]).await;
    assert_eq!(status, 201);
    let events = client.events(500).await;
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(answer["ids"], json!(ids));
    let order = events
        .iter()
        .zip(0..)
        .all(|(event, i)| event.data.contains(&format!("\"data\":{i},")));
    assert!(order, "in the order of the request");
}

#[tokio::test]
async fn concurrent_requests_share_commits() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=many").await;
    client.opened().await;
    let transactions = async || -> i64 {
        let query = "SELECT count(DISTINCT xid) FROM bellwether.event WHERE topic = 'many'";
        database
            .connect()
            .await
            .query_one(query, &[])
            .await
            .unwrap()
            .get(0)
    };
    let requests = (0..400).map(|i| {
        let hub = &hub;
        async move { post(hub, &json!({"topic": "many", "event": "n", "data": i}), &[]).await }
    });
    let answers = within("all answers", futures_util::future::join_all(requests)).await;
    let events = client.events(400).await;
    let mut ids: Vec<String> = answers
        .iter()
        .map(|(status, answer)| {
            assert_eq!(*status, 201, "{answer}");
            answer["ids"][0].as_str().unwrap().to_owned()
        })
        .collect();
    for ((_, answer), i) in answers.iter().zip(0..) {
        let event = events
            .iter()
            .find(|event| answer["ids"][0] == json!(event.id))
            .unwrap();
        assert_eq!(
            event.data,
            i.to_string(),
            "each answer has the id of its own event"
        );
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 400);
    assert!(transactions().await < 200, "they shared commits");
}

#[tokio::test]
async fn a_repeated_request_publishes_once() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let other = Hub::spawn(&database.url, HubOptions::default())
        .await
        .unwrap();
    let mut client = hub.stream("topic=once").await;
    client.opened().await;
    let body = json!([{"topic": "once", "event": "n", "data": 1}, {"topic": "once", "event": "n", "data": 2}]);
    let key = [("Idempotency-Key", "order 7")];
    let (status, first) = post(&hub, &body, &key).await;
    assert_eq!(status, 201);
    client.events(2).await;
    for hub in [&hub, &other] {
        eventually("the same answer", (201, first.clone()), async || {
            post(hub, &body, &key).await
        })
        .await;
    }
    let (status, answer) = post(
        &other,
        &json!({"topic": "once", "event": "n", "data": 3}),
        &key,
    )
    .await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (422, &json!("idempotency_conflict"))
    );
    // Both at once, at two hubs.
    let key = [("Idempotency-Key", "at once")];
    let requests = (0..40).map(|i| post(if i % 2 == 0 { &hub } else { &other }, &body, &key));
    for (status, answer) in futures_util::future::join_all(requests).await {
        assert!(matches!(status, 201 | 202), "{answer}");
    }
    client.events(2).await;
    let count = "SELECT count(*) FROM bellwether.event WHERE topic = 'once'";
    let count: i64 = database
        .connect()
        .await
        .query_one(count, &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 4);
}

#[tokio::test]
async fn bad_requests_publish_nothing() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let good = json!({"topic": "a", "event": "n", "data": 1});
    let large = json!({"topic": "a", "event": "n", "data": "x".repeat(1_100_000)}).to_string();
    for (body, headers, status, part) in [
        ("", &[][..], 400, "EOF"),
        ("[]", &[], 400, "0 events"),
        (
            r#"{"topic":"a","event":"n"}"#,
            &[],
            400,
            "missing field `data`",
        ),
        (
            r#"[{"topic":"a","event":"n","data":1},{"topic":"*","event":"n","data":1}]"#,
            &[],
            400,
            "event 1",
        ),
        (
            r#"{"topic":"a","event":"heartbeat","data":1}"#,
            &[],
            400,
            "the hub itself",
        ),
        (
            good.to_string().as_str(),
            &[("Content-Type", "text/plain")],
            415,
            "Content-Type",
        ),
        (
            good.to_string().as_str(),
            &[("Idempotency-Key", "")],
            400,
            "Idempotency-Key",
        ),
        (large.as_str(), &[], 413, "in parts"),
    ] {
        let (found, answer) = post_text(&hub, body, headers).await;
        assert_eq!(found, status, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(part),
            "{answer}"
        );
    }
    // What JSON can say and a text in Postgres cannot is not its neighbours' trouble.
    let odd = r#"[{"topic":"a","event":"n","data":"\u0000 \ud800"},{"topic":"a","event":"\u2028","data":{"a":1,"a":2}}]"#;
    let (status, answer) = post_text(&hub, odd, &[]).await;
    assert!(status == 201 || status == 400, "{status} {answer}");
    let (status, _) = post(&hub, &good, &[]).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn while_the_database_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let server = private_postgres(folder.path()).await;
    let database = TestDatabase::of(&server);
    let hub = Hub::start(&database).await;
    server.stop().await.unwrap();
    let body = json!({"topic": "a", "event": "n", "data": 1});
    let (status, answer) = post(&hub, &body, &[("Idempotency-Key", "k")]).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("no_database"))
    );
    let server = private_postgres(folder.path()).await;
    eventually("it is published", 201, async || {
        post(&hub, &body, &[("Idempotency-Key", "k")]).await.0
    })
    .await;
    server.stop().await.unwrap();
}

/// The state of a topic is what a new client is given first; one that comes back is not.
#[tokio::test]
async fn states_come_first() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    psql.batch_execute(
        "
        SELECT bellwether.publish('disk.a', 'usage', '1', retain => true);
        SELECT bellwether.publish('disk.a', 'usage', '2', key => 'a', retain => true);
        SELECT bellwether.publish('disk.b', 'usage', '{\"percent\": 7}', retain => true);
        SELECT bellwether.publish('disk.b', 'noise', '3');
        SELECT bellwether.publish('disk.c', 'usage', '4', retain => true);
        SELECT bellwether.publish('disk.c', 'usage', 'null', retain => true);
        SELECT bellwether.publish('other', 'usage', '5', retain => true)",
    )
    .await
    .unwrap();
    // Hubs that were there, and one that comes now and has it from the tables.
    let all_seen = async |hub: &Hub| {
        json_at(hub, "/v1/events?topic=%3E&last=10").await.1["events"]
            .as_array()
            .map_or(0, Vec::len)
    };
    eventually("all is numbered", 7, async || all_seen(&hub).await).await;
    let late = Hub::start(&database).await;
    for hub in [&hub, &late] {
        let mut client = hub.stream("topic=disk.*").await;
        let states = client.states().await;
        assert_eq!(
            states,
            [
                ("usage".to_owned(), "2".to_owned()),
                ("usage".to_owned(), "{\"percent\": 7}".to_owned())
            ]
        );
        let mut one = hub.stream("topic=disk.b&event=noise").await;
        assert_eq!(one.states().await, []);
        // With the last two, of which one is the state: it is not told twice.
        let mut last = hub.stream("topic=disk.*&last=3").await;
        assert_eq!(
            last.states().await,
            [
                ("usage".to_owned(), "2".to_owned()),
                ("usage".to_owned(), "{\"percent\": 7}".to_owned())
            ]
        );
        let cursor = client.cursor().to_owned();
        let mut back = hub
            .stream(&format!("topic=disk.*&last_event_id={cursor}"))
            .await;
        assert_eq!(back.states().await, []);
    }
    // Retention takes the events, not the states.
    let delete = "SELECT bellwether.retain(NULL, 0, 100)";
    let deleted: i64 = psql.query_one(delete, &[]).await.unwrap().get(0);
    assert_eq!(deleted, 7);
    let later = Hub::start(&database).await;
    assert_eq!(later.stream("topic=disk.*").await.states().await.len(), 2);
    // A table whose rows are states, one on each topic.
    psql.batch_execute("
        CREATE TABLE monitors (id int PRIMARY KEY, up boolean);
        SELECT bellwether.attach('monitors', topic => 'monitor.{id}', event => '{op}', retain => true);
        INSERT INTO monitors VALUES (1, true), (2, true), (3, true);
        UPDATE monitors SET up = false WHERE id = 2; DELETE FROM monitors WHERE id = 3").await.unwrap();
    let expected = vec![
        ("insert".to_owned(), r#"{"id":1,"up":true}"#.to_owned()),
        ("update".to_owned(), r#"{"id":2,"up":false}"#.to_owned()),
    ];
    eventually("the rows are states", expected, async || {
        hub.stream("topic=monitor.*").await.states().await
    })
    .await;
}

#[tokio::test]
async fn a_page_of_events() {
    let database = TestDatabase::create().await;
    // A ring of ten: most of it comes from the tables.
    let hub = Hub::spawn(&database.url, HubOptions::args(&["--ring-events", "10"]))
        .await
        .unwrap();
    let psql = database.connect().await;
    psql.batch_execute("SELECT bellwether.publish(CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END, 'n' || i % 3, i::text) FROM generate_series(1, 3000) AS i").await.unwrap();
    let data = |page: &Value| -> Vec<i64> {
        page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["data"].as_i64().unwrap())
            .collect()
    };
    eventually("all is there", vec![3000], async || {
        data(&json_at(&hub, "/v1/events?topic=%3E&last=1").await.1)
    })
    .await;
    let (status, page) = json_at(&hub, "/v1/events?topic=odd&last=5").await;
    assert_eq!(
        (status, data(&page), &page["more"]),
        (200, vec![2991, 2993, 2995, 2997, 2999], &json!(false))
    );
    let (_, page) = json_at(&hub, "/v1/events?topic=even&event=n0&last=2").await;
    assert_eq!(data(&page), [2994, 3000]);
    // From a cursor on, page after page, to the end.
    let epoch = page["next"]
        .as_str()
        .unwrap()
        .split_once('-')
        .unwrap()
        .0
        .to_owned();
    let (mut after, mut got) = (format!("{epoch}-0"), Vec::new());
    loop {
        let (_, page) = json_at(
            &hub,
            &format!("/v1/events?topic=even&limit=400&after={after}"),
        )
        .await;
        assert_eq!(page.get("gap"), None);
        let found = data(&page);
        assert!(found.len() <= 400);
        got.extend(found);
        after = page["next"].as_str().unwrap().to_owned();
        if page["more"] == json!(false) {
            break;
        }
    }
    assert_eq!(got, (1..=1500).map(|i| 2 * i).collect::<Vec<i64>>());
    assert_eq!(after, format!("{epoch}-3000"));
    let (_, page) = json_at(&hub, &format!("/v1/events?topic=even&after={after}")).await;
    assert_eq!((data(&page), &page["next"]), (vec![], &json!(after)));
    // What is gone is told.
    psql.execute("SELECT bellwether.retain(NULL, 100, 2900)", &[])
        .await
        .unwrap();
    let late = Hub::spawn(&database.url, HubOptions::args(&["--ring-events", "10"]))
        .await
        .unwrap();
    let (_, page) = json_at(
        &late,
        &format!("/v1/events?topic=%3E&limit=1&after={epoch}-100"),
    )
    .await;
    assert_eq!(
        (data(&page), &page["gap"]["reason"], &page["gap"]["missing"]),
        (vec![2901], &json!("retention"), &json!(2800))
    );
    let (_, page) = json_at(&late, "/v1/events?topic=%3E&limit=1&after=nonsense").await;
    assert_eq!(
        (data(&page), &page["gap"]["reason"]),
        (vec![2901], &json!("unknown"))
    );
    for (query, part) in [
        ("", "no topic"),
        ("topic=a&limit=0", "limit"),
        ("topic=a&limit=1001", "limit"),
        ("topic=a&last_event_id=x", "is no parameter"),
    ] {
        let (status, answer) = json_at(&hub, &format!("/v1/events?{query}")).await;
        assert!(
            status == 400 && answer["error"]["message"].as_str().unwrap().contains(part),
            "{answer}"
        );
    }
}

/// `curl | jq`: an envelope on each line, from the ring, from the tables and live.
#[tokio::test]
async fn lines() {
    let database = TestDatabase::create().await;
    let hub = Hub::spawn(&database.url, HubOptions::args(&["--ring-events", "10"]))
        .await
        .unwrap();
    let psql = database.connect().await;
    psql.batch_execute("SELECT bellwether.publish('t', 'n', E'{\"i\":\\n' || i || '}') FROM generate_series(1, 100) AS i").await.unwrap();
    let mut lines = hub.lines("topic=t&last=100").await;
    for i in 1..=100 {
        let event = lines.next().await;
        assert_eq!(
            (&event["data"]["i"], &event["topic"], &event["event"]),
            (&json!(i), &json!("t"), &json!("n"))
        );
    }
    psql.execute("SELECT bellwether.publish('t', 'n', '101')", &[])
        .await
        .unwrap();
    assert_eq!(lines.next().await["data"], json!(101));
    let mut lines = hub.lines("topic=t&last_event_id=nonsense").await;
    let gap = lines.next().await;
    assert_eq!(
        (&gap["event"], &gap["data"]["reason"]),
        (&json!("gap"), &json!("unknown"))
    );
    assert_eq!(lines.next().await["data"]["i"], json!(1));
}

/// Clients that choose by name get the same in every way they can come.
#[tokio::test]
async fn events_by_name() {
    let database = TestDatabase::create().await;
    let hub = Hub::spawn(&database.url, HubOptions::args(&["--ring-events", "10"]))
        .await
        .unwrap();
    let psql = database.connect().await;
    let mut live = hub.stream("topic=t&event=n1&event=n2").await;
    live.opened().await;
    psql.batch_execute(
        "SELECT bellwether.publish('t', 'n' || i % 4, i::text) FROM generate_series(1, 100) AS i",
    )
    .await
    .unwrap();
    let expected: Vec<String> = (1..=100)
        .filter(|i| i % 4 == 1 || i % 4 == 2)
        .map(|i| i.to_string())
        .collect();
    let events = live.events(50).await;
    let epoch = events[0].id.split_once('-').unwrap().0.to_owned();
    let data: Vec<String> = events.into_iter().map(|event| event.data).collect();
    assert_eq!(data, expected);
    let mut replayed = hub
        .stream(&format!(
            "topic=t&event=n2&event=n1&last_event_id={epoch}-0"
        ))
        .await;
    let data: Vec<String> = replayed
        .events(50)
        .await
        .into_iter()
        .map(|event| event.data)
        .collect();
    assert_eq!(data, expected);
}

/// The same from the command line and from SQL.
#[tokio::test]
async fn from_the_command_line() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=%3E").await;
    client.opened().await;
    let run = async |args: &[&str]| {
        let output = bellwether()
            .args(args)
            .args(["--database-url", &database.url])
            .output();
        let output = within("it ends", output).await.unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    assert_eq!(
        run(&[
            "publish",
            "org.7.alerts",
            "alert",
            "{\"m\":1}",
            "--key",
            "disk"
        ])
        .await,
        (Some(0), String::new())
    );
    let event = client.event().await;
    assert_eq!(
        (event.name.as_str(), event.data.as_str()),
        ("alert", "{\"m\":1}")
    );
    let (code, said) = run(&["publish", "a.>", "alert", "1"]).await;
    assert!(code == Some(1) && said.contains("is no topic"), "{said}");
    let (code, said) = run(&["publish", "a", "alert", "no json"]).await;
    assert!(
        code == Some(1) && said.contains("invalid input syntax for type json"),
        "{said}"
    );

    database
        .connect()
        .await
        .batch_execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
        .await
        .unwrap();
    let (code, said) = run(&[
        "attach",
        "orders",
        "--topic",
        "shop.{table}",
        "--ops",
        "insert",
        "--columns",
        "id",
    ])
    .await;
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "orders: attached; its topic is shop.{table}\n")
    );
    database
        .connect()
        .await
        .batch_execute("INSERT INTO orders VALUES (1, 2)")
        .await
        .unwrap();
    let event = client.event().await;
    assert_eq!(
        (event.name.as_str(), event.data.as_str()),
        ("orders.insert", "{\"id\":1}")
    );
    let (_, said) = run(&["attachments"]).await;
    assert!(
        said.contains("orders  topic shop.{table}  event {table}.{op}  insert  id"),
        "{said}"
    );
    let (_, said) = run(&["attachments", "--json"]).await;
    let line = said.lines().find(|line| line.contains("shop")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(line).unwrap()["columns"],
        json!(["id"])
    );
    let (code, said) = run(&["attach", "missing"]).await;
    assert!(
        code == Some(1) && said.contains("relation \"missing\" does not exist"),
        "{said}"
    );
    assert_eq!(
        run(&["detach", "orders"]).await,
        (
            Some(0),
            "orders: detached; what was captured stays\n".to_owned()
        )
    );
    assert_eq!(
        run(&["detach", "orders"]).await,
        (Some(0), "orders: was not attached\n".to_owned())
    );
    let output = bellwether().args(["attachments"]).output();
    let output = within("it ends", output).await.unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("no database is named: give --database-url")
    );
}
