use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::{net::SocketAddr, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixDatagram,
    process::Child,
};

use crate::harness::{Client, TestDatabase, bellwether, request_whole, within};

/// What systemd would be told: readiness when it is ready and not before, and the end.
#[tokio::test]
async fn systemd_is_told() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let mut hub = bellwether()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--database-url",
            &database.url,
        ])
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = async || {
        let mut bytes = [0; 100];
        let length = within("a notification", systemd.recv(&mut bytes))
            .await
            .unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    assert_eq!(told().await.trim(), "READY=1");
    let mut lines = BufReader::new(hub.stdout.take().unwrap()).lines();
    let mut last = String::new();
    while !last.starts_with("ready") {
        let line = within("a line", lines.next_line()).await.unwrap();
        last = line.expect("it was ready before it said so");
    }
    terminate(&hub);
    assert_eq!(told().await.trim(), "STOPPING=1");
    let ended = within("its end", hub.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
}

/// Where a hub is, once it is ready.
pub(crate) async fn address_of(hub: &mut Child) -> SocketAddr {
    let mut lines = BufReader::new(hub.stdout.take().unwrap()).lines();
    let mut address = None;
    loop {
        let line = within("a line", lines.next_line()).await.unwrap().unwrap();
        match line.strip_prefix("http://") {
            Some(at) => address = Some(at.parse().unwrap()),
            None if line.starts_with("ready") => return address.unwrap(),
            None => {}
        }
    }
}

pub(crate) fn terminate(hub: &Child) {
    let pid = hub.id().expect("it runs").try_into().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
}

/// With everything logged: each line is JSON, and none of them has a secret.
#[tokio::test]
async fn logs_are_json_and_without_secrets() {
    let database = TestDatabase::create().await;
    let role = format!("logged_{}", std::process::id());
    let psql = database.connect().await;
    let create = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'hunter2secret'");
    psql.batch_execute(&create).await.unwrap();
    let (_, place) = database.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:hunter2secret@{place}");
    let mut hub = bellwether()
        .args(["serve", "--listen", "127.0.0.1:0", "--database-url", &url])
        .args(["--log", "trace", "--log-format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = hub.stderr.take().unwrap();
    let logged = tokio::spawn(async move {
        let mut text = String::new();
        log.read_to_string(&mut text).await.unwrap();
        text
    });
    let address = address_of(&mut hub).await;
    let bearer = "Bearer token4711secret";
    let headers = [("Host", "test"), ("Authorization", bearer)];
    let streams = ["topic=events", "topic=events&access_token=query4711secret"];
    for query in streams {
        // By whichever way, and whether or not it is let in.
        drop(
            Client::with_headers(address, query, &headers)
                .await
                .unwrap(),
        );
    }
    let post = http::Request::post("/v1/events")
        .header("Host", "test")
        .header("Authorization", bearer)
        .header("Content-Type", "application/json")
        .body(
            json!({"topic": "a", "event": "n", "data": "x"})
                .to_string()
                .into(),
        );
    request_whole(address, post.unwrap()).await;
    terminate(&hub);
    within("its end", hub.wait()).await.unwrap();
    let text = within("its log", logged).await.unwrap();
    assert!(text.lines().count() > 20, "all of it is logged: {text}");
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        assert!(
            entry["level"].is_string() && entry["timestamp"].is_string(),
            "{line}"
        );
        for secret in ["hunter2secret", "token4711secret", "query4711secret"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}
