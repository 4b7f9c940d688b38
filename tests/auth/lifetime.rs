use super::{ask_with, bearer, locked, now, sign};
use crate::harness::{Client, Delivery, Hub, TestDatabase};
use serde_json::json;

fn lasting(seconds: u64) -> String {
    let grants = json!({"subscribe": ["events"], "metrics": true});
    sign(&json!({"iat": now(), "exp": now() + seconds, "bellwether": grants}))
}

async fn follow(hub: &Hub, token: &str, cursor: &str, more: &[(&str, &str)]) -> Client {
    let bearer = bearer(token);
    let mut headers = vec![("Host", "test"), ("Authorization", bearer.as_str())];
    if !cursor.is_empty() {
        headers.push(("Last-Event-ID", cursor));
    }
    headers.extend(more);
    Client::with_headers(hub.address, "topic=events", &headers)
        .await
        .unwrap()
}

/// A stream ends when its token does, and says so; with a new one it goes on where it was.
#[tokio::test]
async fn a_stream_ends_with_its_token_and_goes_on_with_the_next() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let mut first = follow(&hub, &lasting(60), "", &[]).await;
    let start = first.opened().await.cursor().to_owned();
    let writing = database.clone();
    let writer = tokio::spawn(async move {
        let psql = writing.connect().await;
        for _ in 0..100 {
            psql.execute("INSERT INTO events (name) VALUES ('n')", &[])
                .await
                .unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    // One goes the short way, the other by hyper, which takes all that is unusual.
    let ways = [&[][..], &[("Content-Length", "0")]];
    let follow_one = async |way: &[(&str, &str)]| {
        let (mut ids, mut cursor, mut ends) = (Vec::new(), start.clone(), 0);
        let mut token = lasting(1);
        let mut client = follow(&hub, &token, &cursor, way).await;
        assert_eq!(client.status, 200);
        while ids.len() < 100 {
            match client.next().await {
                Delivery::Event(event) if event.name == "expired" => {
                    assert_eq!(event.id, client.cursor(), "it has no id of its own");
                    assert!(event.data.contains("expired"));
                    assert!(
                        matches!(client.next().await, Delivery::Retry(_)),
                        "when to come back"
                    );
                    assert_eq!(client.next().await, Delivery::End);
                    // With the same one nobody is let in, not even for a moment.
                    assert_eq!(ask_with(&hub, "/v1/status", &token).await.0, 401);
                    assert_eq!(follow(&hub, &token, &cursor, way).await.status, 401);
                    ends += 1;
                    token = lasting(1);
                    client = follow(&hub, &token, &cursor, way).await;
                }
                Delivery::Event(event) => {
                    cursor.clone_from(&event.id);
                    if event.name == "n" {
                        ids.push(event.id);
                    }
                }
                Delivery::Retry(_) => {}
                Delivery::End => panic!("it ends only with its token"),
            }
        }
        assert!(ends > 0, "ten seconds are longer than a token");
        ids
    };
    let (ids, others) = tokio::join!(follow_one(ways[0]), follow_one(ways[1]));
    writer.await.unwrap();
    assert_eq!(ids, others);
    let numbers = ids
        .iter()
        .map(|id| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap());
    let numbers: Vec<u64> = numbers.collect();
    let expected: Vec<u64> = (numbers[0]..numbers[0] + 100).collect();
    assert_eq!(numbers, expected, "each once and in order");
    let (_, first_seq) = start.rsplit_once('-').unwrap();
    assert_eq!(numbers[0], first_seq.parse::<u64>().unwrap() + 1);
}

/// The terminal client shows its token, and does not go on trying with one that does not count.
#[tokio::test]
async fn tail_shows_a_token() {
    use crate::harness::{bellwether, eventually, within};
    use tokio::io::{AsyncBufReadExt, BufReader};
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let url = format!("http://{}", hub.address);
    let mut tail = bellwether()
        .args(["tail", "events", "--url", &url])
        .env("BELLWETHER_TOKEN", lasting(60))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = async || ask_with(&hub, "/metrics", &lasting(60)).await.2;
    eventually("it follows", true, async || {
        metrics().await.contains("bellwether_clients 1")
    })
    .await;
    database.insert(1).await;
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let line = within("a line", lines.next_line()).await.unwrap().unwrap();
    assert!(line.contains(" n {"), "{line}");
    tail.kill().await.unwrap();

    let wrong = bellwether()
        .args(["tail", "events", "--url", &url, "--token", "wrong-wrong"])
        .output();
    let wrong = within("its end", wrong).await.unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        said.contains("401") && !said.contains("wrong-wrong"),
        "{said}"
    );
}

/// Lines say it, too.
#[tokio::test]
async fn lines_end_with_their_token() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let query = format!("topic=events&token={}", lasting(1));
    let mut lines = hub.lines(&query).await;
    database.insert(1).await;
    assert_eq!(lines.next().await["event"], "n");
    assert_eq!(lines.next().await["event"], "expired");
}
