use super::{SECRET, bearer, event, locked, now, sign, token};
use crate::harness::{Hub, HubOptions, TestDatabase, bellwether, eventually, get, within};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::{fs::File, net::SocketAddr, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
};

/// With everything logged that there is to log: neither tokens that count nor such that do not,
/// wherever they stand, nor the secret.
#[tokio::test]
async fn no_token_gets_into_a_log() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut child = bellwether()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "trace",
            "--auth-cookie",
            "session",
        ])
        .args(["--database-url", &database.url])
        .env("BELLWETHER_AUTH_SECRET", SECRET)
        .stdout(Stdio::piped())
        .stderr(File::create(&path).unwrap())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address: SocketAddr = loop {
        let line = within("the address", lines.next_line())
            .await
            .unwrap()
            .unwrap();
        if let Some(address) = line.strip_prefix("http://") {
            break address.parse().unwrap();
        }
    };
    eventually("it is ready", 200, async || get(address, "/readyz").await.0).await;

    let counts = token(&["a"], &["a"]);
    let expired = sign(&json!({"exp": now() - 60, "sub": "somebody"}));
    let strange = format!(
        "{}.{}.{}",
        "strange0".repeat(4),
        "strange1".repeat(4),
        "strange2".repeat(4)
    );
    let mut statuses = Vec::new();
    for token in [&counts, &expired, &strange] {
        let over_http1 = async |request: http::request::Builder, body: String| {
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = request
                .header("Host", "h")
                .body(Full::<bytes::Bytes>::from(body))
                .unwrap();
            within("an answer", sender.send_request(request))
                .await
                .unwrap()
                .status()
                .as_u16()
        };
        let stream = format!("/v1/stream?topic=a&token={token}");
        let page = format!("/v1/events?topic=a&token={token}");
        let cookie = format!("session={token}");
        let get = |path: &str| http::Request::get(path.to_owned());
        for request in [
            get(&stream),
            // By hyper.
            get(&stream).header("Content-Length", "0"),
            get(&page),
            get(&page).header("Authorization", bearer("another")),
            get("/v1/stream?topic=a").header("Authorization", bearer(token)),
            get("/v1/stream?topic=b").header("Authorization", bearer(token)),
            get("/metrics").header("Authorization", bearer(token)),
            get("/v1/stream?topic=a").header("Cookie", &cookie),
            get("/v1/stream?topic=a")
                .header("Cookie", &cookie)
                .header("Origin", "https://evil.example"),
            get(&format!("/nowhere?token={token}")),
        ] {
            statuses.push(over_http1(request, String::new()).await);
        }
        let post = http::Request::post("/v1/events")
            .header("Content-Type", "application/json")
            .header("Authorization", bearer(token));
        statuses.push(over_http1(post, event("a", "n").to_string()).await);

        let stream = TcpStream::connect(address).await.unwrap();
        let io = TokioIo::new(stream);
        let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = connected.unwrap();
        tokio::spawn(connection);
        let uri = format!("http://{address}/v1/events?topic=a&token={token}");
        let request = http::Request::get(uri)
            .header("authorization", bearer(token))
            .body(Full::<bytes::Bytes>::default())
            .unwrap();
        let answer = within("an answer", sender.send_request(request))
            .await
            .unwrap();
        statuses.push(answer.status().as_u16());
        within("all of it", answer.into_body().collect())
            .await
            .unwrap();
    }
    assert!(
        [200, 201, 400, 401, 403, 404]
            .iter()
            .all(|status| statuses.contains(status)),
        "{statuses:?}"
    );

    child.kill().await.unwrap();
    let log = std::fs::read_to_string(&path).unwrap();
    assert!(log.contains("TRACE"), "it does log");
    assert!(!log.contains(SECRET));
    for token in [&counts, &expired, &strange] {
        for part in token.split('.') {
            // The head is the same in all, and says nothing.
            let is_head = part.len() < 40 && part.starts_with("eyJ");
            let found = log.find(&part[..16.min(part.len())]).filter(|_| !is_head);
            let near = found.map(|at| &log[at.saturating_sub(300)..at + 20]);
            assert_eq!(near, None);
        }
    }
}

/// Nor is a secret shown by `--help`, which shows what the environment and the file say.
#[tokio::test]
async fn no_secret_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bellwether.toml");
    std::fs::write(&config, format!("auth-secret = {SECRET:?}\n")).unwrap();
    for command in ["serve", "demo", "token"] {
        let help = bellwether()
            .args([command, "--help", "--config", config.to_str().unwrap()])
            .env("BELLWETHER_AUTH_KEYS", "-----BEGIN PRIVATE KEY-----")
            .env("BELLWETHER_TOKEN", "abcdefgh")
            .output();
        let help = within("help", help).await.unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains("--auth-secret"), "{text}");
        assert!(
            !text.contains(SECRET) && !text.contains("BEGIN PRIVATE") && !text.contains("abcdefgh")
        );
    }
    let tail = bellwether()
        .args(["tail", "--help"])
        .env("BELLWETHER_TOKEN", "abcdefgh")
        .output();
    let text = String::from_utf8(within("help", tail).await.unwrap().stdout).unwrap();
    assert!(
        text.contains("--token") && !text.contains("abcdefgh"),
        "{text}"
    );
}

/// What is in the file counts as what is on the command line.
#[tokio::test]
async fn all_of_it_from_the_configuration_file() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bellwether.toml");
    let text = format!(
        "auth-secret = {SECRET:?}\nauth-issuer = \"app\"\nauth-audience = \"hub\"\nauth-cookie = \"session\"\n\
         anonymous-subscribe = [\"public.>\", \"news\"]\nallow-origin = [\"https://app.example\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let options = HubOptions::args(&["--config", config.to_str().unwrap()]);
    let hub = Hub::spawn(&database.url, options).await.unwrap();
    let origin = ("Origin", "https://app.example");
    let (status, headers, _) = super::ask(&hub, "/v1/events?topic=news", &[origin]).await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (200, &"https://app.example".parse().unwrap())
    );
    assert_eq!(super::ask(&hub, "/v1/events?topic=a", &[]).await.0, 403);
    assert_eq!(
        super::ask_with(&hub, "/v1/events?topic=a", &token(&["a"], &[]))
            .await
            .0,
        401,
        "no iss"
    );
    // The same file makes tokens that suit.
    let made = bellwether()
        .args([
            "token",
            "--config",
            config.to_str().unwrap(),
            "--subscribe",
            "a",
            "--subject",
            "ada",
        ])
        .output();
    let made = within("a token", made).await.unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    assert_eq!(
        super::ask_with(&hub, "/v1/events?topic=a", made.trim())
            .await
            .0,
        200
    );
    let cookie = format!("session={}", made.trim());
    assert_eq!(
        super::ask(&hub, "/v1/events?topic=a", &[("Cookie", &cookie)])
            .await
            .0,
        200
    );

    std::fs::write(&config, "auth-issuer = [\"a\", \"b\"]\n").unwrap();
    let options = HubOptions::args(&["--config", config.to_str().unwrap()]);
    let (status, said) = Hub::spawn(&database.url, options).await.unwrap_err();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("\"auth-issuer\" is a list"), "{said}");
}

/// Nothing that looks like a lock and is none.
#[tokio::test]
async fn what_is_refused_at_the_start() {
    let url = "postgres://nobody@127.0.0.1:1/none";
    let short = &SECRET[..31];
    for (args, part) in [
        (
            &["--listen", "0.0.0.0:0"][..],
            "--auth-secret or --auth-keys",
        ),
        (
            &["--auth-secret", SECRET, "--allow-anonymous"],
            "--anonymous-subscribe PATTERN",
        ),
        (&["--auth-secret", short], "32 at least"),
        (&["--auth-secret", ""], "32 at least"),
        (&["--auth-issuer", "app"], "there are no keys"),
        (&["--anonymous-subscribe", "a"], "there are no keys"),
        (&["--auth-cookie", "c"], "there are no keys"),
        (
            &["--auth-secret", SECRET, "--anonymous-subscribe", "a..b"],
            "no topic pattern",
        ),
        (&["--allow-origin", "*"], "no origin"),
        (
            &["--auth-keys", "/nowhere/keys.pem"],
            "cannot read the keys in /nowhere/keys.pem",
        ),
        (&["--auth-keys", "{nonsense"], "no JSON"),
    ] {
        let command = bellwether()
            .args(["serve", "--database-url", url])
            .args(args)
            .output();
        let ended = within("the program's end", command).await.unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
        assert!(!said.contains(short), "{said}");
    }
    // With keys it may be reached by others.
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    drop(hub);
    let mut options = HubOptions::args(&["--auth-secret", SECRET]);
    options.listen = "0.0.0.0:0".to_owned();
    assert!(Hub::spawn(&database.url, options).await.is_ok());
}
