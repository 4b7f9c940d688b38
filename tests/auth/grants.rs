use super::{ask, ask_with, bearer, error, event, locked, post, token};
use crate::harness::{Client, Hub, TestDatabase};
use serde_json::{Value, json};

/// The states and events of two organisations, by names that say whose they are.
async fn publish(hub: &Hub, round: &str) {
    let all = token(&[], &[">"]);
    let topics = [
        "org.7.a",
        "org.8.a",
        "org.7.b.c",
        "org",
        "org.7",
        "org.8",
        "other.7.a",
    ];
    let events = topics.map(|topic| {
        let mut event = event(topic, &format!("{topic}@{round}"));
        event["retain"] = true.into();
        event
    });
    let (status, _, text) = post(hub, &json!(events), &[("Authorization", &bearer(&all))]).await;
    assert_eq!(status, 201, "{text}");
}

/// The names of all that a page of events has.
async fn page(hub: &Hub, query: &str, token: &str) -> Vec<String> {
    let (status, _, text) = ask_with(hub, &format!("/v1/events?{query}"), token).await;
    assert_eq!(status, 200, "{text}");
    let page: Value = serde_json::from_str(&text).unwrap();
    let events = page["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect()
}

async fn stream(hub: &Hub, query: &str, token: &str, cursor: Option<&str>) -> Client {
    let bearer = bearer(token);
    let mut headers = vec![("Host", "test"), ("Authorization", bearer.as_str())];
    headers.extend(cursor.map(|cursor| ("Last-Event-ID", cursor)));
    let client = Client::with_headers(hub.address, query, &headers)
        .await
        .unwrap();
    assert_eq!(client.status, 200, "{query}");
    client
}

async fn names(client: &mut Client, count: usize) -> Vec<String> {
    let events = client.events(count).await;
    events.into_iter().map(|event| event.name).collect()
}

/// Whatever is asked for and wherever it begins, what comes is what is asked for and granted.
#[tokio::test]
async fn a_wildcard_is_narrowed_and_never_widened() {
    let database = TestDatabase::create().await;
    let args = ["--ring-events", "8"];
    let hub = locked(&database, &args).await;
    let token = token(&["org.7.>"], &[]);
    let all = super::token(&[">"], &[]);
    let start = stream(&hub, "topic=%3E", &all, None)
        .await
        .opened()
        .await
        .cursor()
        .to_owned();
    publish(&hub, "1").await;
    publish(&hub, "2").await;
    let both = |names: &[&str]| -> Vec<String> {
        let rounds = ["1", "2"].iter();
        rounds
            .flat_map(|round| names.iter().map(move |name| format!("{name}@{round}")))
            .collect()
    };
    let of_7 = ["org.7.a", "org.7.b.c"];
    for (pattern, expected) in [
        ("%3E", &of_7[..]),
        ("org.%3E", &of_7),
        ("org.*.%3E", &of_7),
        ("*.%3E", &of_7),
        ("*.*.*", &of_7[..1]),
        ("org.*.a", &of_7[..1]),
        ("*.7.*", &of_7[..1]),
        ("org.7.a", &of_7[..1]),
        ("org.7.b.%3E&topic=%3E", &of_7),
    ] {
        // From the tables, from both, and from the ring: the first round is not in the ring.
        let query = format!("topic={pattern}");
        assert_eq!(page(&hub, &query, &token).await, both(expected), "{query}");
        let after = format!("{query}&after={start}");
        assert_eq!(page(&hub, &after, &token).await, both(expected), "{after}");
        let unknown = format!("{query}&after=nothing");
        assert_eq!(
            page(&hub, &unknown, &token).await,
            both(expected),
            "{unknown}"
        );

        let mut old = stream(&hub, &query, &token, Some(&start)).await;
        assert_eq!(
            names(&mut old, 2 * expected.len()).await,
            both(expected),
            "{query}"
        );
        let mut fresh = stream(&hub, &query, &token, None).await;
        let states = fresh.states().await.into_iter();
        let mut states: Vec<String> = states.map(|(name, _)| name).collect();
        states.sort();
        let newest = expected.iter().map(|name| format!("{name}@2"));
        assert_eq!(states, newest.collect::<Vec<_>>(), "{query}");
        let query = format!("{query}&envelope=1&last=10000");
        let mut last = stream(&hub, &query, &token, None).await;
        assert_eq!(
            names(&mut last, 2 * expected.len()).await,
            both(expected),
            "{query}"
        );
    }

    let mut live = stream(&hub, "topic=%3E", &token, None).await;
    live.states().await;
    let query = format!("topic=%3E&last_event_id={start}");
    let mut from_query = stream(&hub, &query, &token, None).await;
    names(&mut from_query, 4).await;
    publish(&hub, "3").await;
    for client in [&mut live, &mut from_query] {
        assert_eq!(names(client, 2).await, ["org.7.a@3", "org.7.b.c@3"]);
        assert!(
            client
                .is_quiet_for(std::time::Duration::from_millis(200))
                .await
        );
    }

    // Another hub on the same database has nothing of it in memory.
    drop(hub);
    let hub = locked(&database, &args).await;
    let names = page(&hub, &format!("topic=%3E&after={start}"), &token).await;
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(
        names.iter().all(|name| name.starts_with("org.7.")),
        "{names:?}"
    );
    let mut fresh = stream(&hub, "topic=%3E", &token, None).await;
    let states = fresh.states().await;
    assert_eq!(states.len(), 2, "{states:?}");
}

#[tokio::test]
async fn a_pattern_outside_is_named() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let token = token(&["org.7.>", "caf\u{e9}.x.y"], &[]);
    for (query, pattern) in [
        ("topic=org.8.a", "org.8.a"),
        ("topic=org.8.%3E", "org.8.>"),
        ("topic=org%2E8%2Ea", "org.8.a"),
        ("t%6Fpic=org.8.a", "org.8.a"),
        ("topic=org%252E7%252Ea", "org%2E7%2Ea"),
        ("topic=org", "org"),
        ("topic=org.7", "org.7"),
        ("topic=*", "*"),
        ("topic=*.*", "*.*"),
        ("topic=ORG.7.a", "ORG.7.a"),
        ("topic=org.%EF%BC%97.a", "org.\u{ff17}.a"),
        ("topic=cafe%CC%81.x.y", "cafe\u{301}.x.y"),
        ("topic=org.7.a&topic=org.8.a", "org.8.a"),
        ("topic=org.7%3E", ""),
        ("topic=org.7.%3E.a", ""),
        ("topic=org.7.a%00", ""),
        ("topic=org.7..a", ""),
    ] {
        for path in ["stream", "events"] {
            let path = format!("/v1/{path}?{query}");
            let (status, _, text) = ask_with(&hub, &path, &token).await;
            let (code, message) = error(&text);
            if pattern.is_empty() {
                assert_eq!((status, code.as_str()), (400, "bad_query"), "{path}");
            } else {
                assert_eq!((status, code.as_str()), (403, "not_granted"), "{path}");
                assert!(
                    message.contains(&format!("{pattern:?}")),
                    "{path}: {message}"
                );
            }
        }
    }
    // Nothing granted at all.
    let (status, _, _) = ask_with(&hub, "/v1/stream?topic=%3E", &super::token(&[], &[">"])).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn who_may_publish_what() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let token = token(&[">"], &["org.7.*"]);
    let header = bearer(&token);
    let headers = [("Authorization", header.as_str())];
    assert_eq!(post(&hub, &event("org.7.a", "n"), &headers).await.0, 201);
    for topic in ["org.8.a", "org.7", "org.7.a.b", "org.7.a ", "org.*.a"] {
        let (status, _, text) = post(&hub, &event(topic, "n"), &headers).await;
        let is_topic = !topic.contains([' ', '*']);
        assert_eq!(status, if is_topic { 403 } else { 400 }, "{text}");
        assert!(error(&text).1.contains(&format!("{topic:?}")), "{text}");
    }
    // All or nothing.
    let both = json!([event("org.7.a", "no"), event("org.8.a", "no")]);
    assert_eq!(post(&hub, &both, &headers).await.0, 403);
    assert_eq!(page(&hub, "topic=%3E&last=100", &token).await, ["n"]);
}

/// A key that somebody has used is nobody else's business: neither in the way nor a way to his ids.
#[tokio::test]
async fn idempotency_keys_are_each_ones_own() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let ask = async |subject: &str, name: &str| {
        let claims =
            json!({"sub": subject, "exp": super::now() + 60, "bellwether": {"publish": [">"]}});
        let header = bearer(&super::sign(&claims));
        let headers = [
            ("Authorization", header.as_str()),
            ("Idempotency-Key", "one"),
        ];
        let (status, _, text) = post(&hub, &event("a", name), &headers).await;
        (status, text)
    };
    let first = ask("ada", "n").await;
    assert_eq!(first.0, 201);
    assert_eq!(ask("ada", "n").await, first, "the same");
    assert_eq!(ask("ada", "other").await.0, 422);
    let of_bob = ask("bob", "n").await;
    assert_eq!(of_bob.0, 201);
    assert_ne!(of_bob, first);
    assert_eq!(ask("eve", "other").await.0, 201);
}

#[tokio::test]
async fn what_those_without_a_token_may_read() {
    let database = TestDatabase::create().await;
    let hub = locked(
        &database,
        &[
            "--anonymous-subscribe",
            "public.>",
            "--anonymous-subscribe",
            "news",
        ],
    )
    .await;
    for (path, expected) in [
        ("/v1/events?topic=public.a", 200),
        ("/v1/events?topic=news", 200),
        ("/v1/events?topic=%3E", 200),
        ("/v1/events?topic=org.7.a", 403),
        ("/v1/stream?topic=org.7.%3E", 403),
        ("/v1/status", 403),
        ("/metrics", 403),
    ] {
        assert_eq!(ask(&hub, path, &[]).await.0, expected, "{path}");
    }
    assert_eq!(post(&hub, &event("public.a", "n"), &[]).await.0, 403);
    let all = token(&[], &[">"]);
    for topic in ["public.a", "org.7.a"] {
        post(
            &hub,
            &event(topic, topic),
            &[("Authorization", &bearer(&all))],
        )
        .await;
    }
    let (_, _, text) = ask(&hub, "/v1/events?topic=%3E", &[]).await;
    assert!(
        text.contains("public.a") && !text.contains("org.7.a"),
        "{text}"
    );
}
