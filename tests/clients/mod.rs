//! What others' clients make of our streams: the same events with the same ids, over a bad line.
//!
//! The programs beside this file print a line of JSON for each event they see. `cargo xtask
//! clients` installs what they need.

use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sse::Message;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::TcpListener,
    process::Command,
};

use self::proxy::Proxy;
use crate::harness::{Hub, HubOptions, TestDatabase, eventually, within};

mod proxy;

/// At least so many events.
const EVENTS: usize = 300;
const CUTS: usize = 12;
/// About how long a row is now and then.
const LONG: usize = 100_000;

/// The last event, at which a client is to end.
const END: &str = "end";

/// Names to listen to, as browsers must.
const KNOWN: [&str; 16] = [
    "message",
    "signup",
    "two words",
    " leading",
    "trailing ",
    "org:7",
    ":",
    "größe",
    "日本語 🔔",
    "line\u{2028}separator",
    "damaged\u{FFFD}",
    "data",
    "toString",
    "open",
    "error",
    END,
];

/// A row of `bellwether.event`.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    data: String,
}

#[tokio::test]
async fn npm_eventsource() {
    let names = json!(KNOWN).to_string();
    check(&known_name, async |url| {
        node("eventsource.mjs", &[&url, &names]).await
    })
    .await;
}

#[tokio::test]
async fn npm_eventsource_parser() {
    check(&any_name, async |url| node("parser.mjs", &[&url]).await).await;
}

#[tokio::test]
async fn pypi_httpx_sse() {
    check(&any_name, async |url| httpx_sse(&url).await).await;
}

#[tokio::test]
async fn crates_io_eventsource_client() {
    check(&any_name, crates_io).await;
}

/// Of another origin than the page: the cursor is such that the browser asks for no permission
/// to send it.
#[tokio::test]
async fn chromium_of_another_origin() {
    let names = json!(KNOWN).to_string();
    let requests = check(&known_name, async |url| {
        node("browser.mjs", &[&url, &names]).await
    })
    .await;
    for request in requests {
        let request = request.to_ascii_lowercase();
        assert!(
            request.contains("\r\norigin: http://127.0.0.1:"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn chromium_has_an_id_before_the_first_event() {
    let names = json!(KNOWN).to_string();
    check_first_id(async |url| node("browser.mjs", &[&url, &names]).await).await;
}

#[tokio::test]
async fn httpx_sse_has_an_id_before_the_first_event() {
    check_first_id(async |url| httpx_sse(&url).await).await;
}

#[tokio::test]
async fn npm_eventsource_has_an_id_before_the_first_event() {
    let names = json!(KNOWN).to_string();
    check_first_id(async |url| node("eventsource.mjs", &[&url, &names]).await).await;
}

#[tokio::test]
async fn npm_eventsource_parser_has_an_id_before_the_first_event() {
    check_first_id(async |url| node("parser.mjs", &[&url]).await).await;
}

#[tokio::test]
async fn crates_io_eventsource_client_has_an_id_before_the_first_event() {
    check_first_id(crates_io).await;
}

/// Inserts events, and compares what a client sees through a bad line with what our own
/// decoder sees. Returns the heads of the client's requests.
async fn check(
    name: &dyn Fn() -> String,
    follow: impl AsyncFnOnce(String) -> Vec<Message>,
) -> Vec<String> {
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--heartbeat", "200ms", "--retry", "60ms"]);
    let hub = Hub::start_with(&database, options).await;
    let start = hub
        .stream("topic=any.*")
        .await
        .opened()
        .await
        .cursor()
        .to_owned();
    let proxy = Proxy::start(hub.address, CUTS).await;
    let url = format!(
        "http://{}/v1/stream?topic=any.*&last_event_id={start}",
        proxy.address
    );

    let (mut seen, rows) = within("the last event", async {
        tokio::join!(follow(url), insert(&database, name, &proxy))
    })
    .await;
    seen.retain(|event| event.name != "heartbeat");

    let mut ours = hub.resume("topic=any.*", &start).await;
    let ours = ours.events(rows.len()).await;
    check_same(&ours, &expected(&ours, &rows));
    check_same(&seen, &ours);

    let requests = proxy.requests();
    assert!(requests.len() > CUTS, "{} connections", requests.len());
    for request in &requests {
        assert!(request.starts_with("GET "), "{request}");
    }
    let last = requests.last().unwrap().to_ascii_lowercase();
    assert!(last.contains("\r\nlast-event-id: "), "{last}");
    requests
}

/// Cuts a client off before its first event; whether it comes back with the id it was given
/// at once, and so misses nothing.
async fn check_first_id(follow: impl AsyncFnOnce(String) -> Vec<Message>) {
    let database = TestDatabase::create().await;
    let hub = Hub::start_with(&database, HubOptions::args(&["--retry", "60ms"])).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let psql = database.connect().await;
    let insert = async |name: &str| {
        let row = "INSERT INTO bellwether.event (topic, name, data) VALUES ('any.one', $1, '1')";
        psql.execute(row, &[&name]).await.unwrap();
    };
    let line = async {
        let (mut client, _) = proxy::opened(&listener, hub.address).await;
        client.shutdown().await.unwrap();
        insert("signup").await;
        let head = async || hub.metric("bellwether_stream_head").await;
        eventually("it is published", 1, head).await;
        let (mut client, mut hub) = proxy::opened(&listener, hub.address).await;
        insert(END).await;
        // Until the client has seen enough and goes.
        let _ = copy_bidirectional(&mut client, &mut hub).await;
    };
    let url = format!("http://{address}/v1/stream?topic=any.*");
    let (seen, ()) = within("the last event", async { tokio::join!(follow(url), line) }).await;
    let names = seen.iter().map(|event| event.name.as_str());
    let names: Vec<&str> = names.filter(|&name| name != "heartbeat").collect();
    assert_eq!(names, ["signup", END]);
}

/// What is to come of these rows. The ids are ours, which must be in order.
fn expected(ours: &[Message], rows: &[Row]) -> Vec<Message> {
    let seqs: Vec<u64> = ours
        .iter()
        .map(|event| event.id.split_once('-').unwrap().1.parse().unwrap())
        .collect();
    assert!(seqs.is_sorted_by(|one, next| one < next), "{seqs:?}");
    let event = |(row, ours): (&Row, &Message)| Message {
        id: ours.id.clone(),
        name: match row.name.replace(['\r', '\n'], "\u{FFFD}") {
            name if name.is_empty() => "message".to_owned(),
            name => name,
        },
        data: row.data.replace("\r\n", "\n").replace('\r', "\n"),
    };
    rows.iter().zip(ours).map(event).collect()
}

/// The same events, or the first difference, shortened.
#[track_caller]
fn check_same(seen: &[Message], expected: &[Message]) {
    let short = |event: &Message| {
        let text = format!("{event:?}");
        text.chars().take(500).collect::<String>()
    };
    for (i, (seen, expected)) in seen.iter().zip(expected).enumerate() {
        assert!(
            seen == expected,
            "event {i}: {} instead of {}",
            short(seen),
            short(expected)
        );
    }
    assert_eq!(seen.len(), expected.len());
}

// === rows ===

/// Inserts rows until the line has been cut often enough, in transactions of some rows each;
/// those of a topic that nobody asks for are not returned.
async fn insert(database: &TestDatabase, name: &dyn Fn() -> String, proxy: &Proxy) -> Vec<Row> {
    let mut psql = database.connect().await;
    let insert = psql
        .prepare("INSERT INTO bellwether.event (topic, name, data) VALUES ($1, $2, $3::text::json)")
        .await
        .unwrap();
    let mut rows = Vec::new();
    while rows.len() < EVENTS || proxy.cuts_left() > 0 {
        let transaction = psql.transaction().await.unwrap();
        for _ in 0..fastrand::usize(1..20) {
            let topic = *fastrand::choice(&["any.one", "any.other", "not.this"]).unwrap();
            let row = Row {
                name: name(),
                data: match rows.len() % 50 {
                    49 => long_json(),
                    _ => any_json(3),
                },
            };
            transaction
                .execute(&insert, &[&topic, &row.name, &row.data])
                .await
                .unwrap();
            if topic != "not.this" {
                rows.push(row);
            }
        }
        transaction.commit().await.unwrap();
        // Some are replayed and some come live.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
    }
    let last = Row {
        name: END.to_owned(),
        data: "0".to_owned(),
    };
    psql.execute(&insert, &[&"any.one", &last.name, &last.data])
        .await
        .unwrap();
    rows.push(last);
    rows
}

fn known_name() -> String {
    let but_end = &KNOWN[..KNOWN.len() - 1];
    fastrand::choice(but_end)
        .copied()
        .unwrap_or_default()
        .to_owned()
}

fn any_name() -> String {
    match fastrand::u8(..3) {
        0 => known_name(),
        1 => String::new(),
        _ => any_text(8),
    }
}

/// Text of what means something somewhere, and of anything else but NUL, which Postgres has not.
fn any_text(pieces: usize) -> String {
    const ODD: [&str; 16] = [
        "\r", "\n", "\r\n", " ", ":", "\u{FEFF}", "\u{FFFD}", "\u{2028}", "\u{85}", "\u{B}", "é",
        "🔔", "id: 9", "event:x", "data", "\t",
    ];
    (0..fastrand::usize(..=pieces))
        .map(|_| {
            if fastrand::bool() {
                (*fastrand::choice(&ODD).unwrap()).to_owned()
            } else {
                fastrand::char('\u{1}'..).to_string()
            }
        })
        .collect()
}

/// A document, written as nobody would.
fn any_json(depth: usize) -> String {
    let inner = || any_json(depth - 1);
    let document = match fastrand::u8(..if depth == 0 { 5 } else { 8 }) {
        0 => fastrand::i64(..).to_string(),
        1 => "\"\"".to_owned(),
        2 => "null".to_owned(),
        3 | 4 => json!(any_text(30)).to_string(),
        5 => "[]".to_owned(),
        6 => format!("[{},{}]", inner(), inner()),
        _ => format!("{{{}{}:{}}}", space(), json!(any_text(3)), inner()),
    };
    format!("{}{document}{}", space(), space())
}

/// About 100 kB: a long line, or many short ones.
fn long_json() -> String {
    let mut text = String::new();
    if fastrand::bool() {
        while text.len() < LONG {
            text.push_str(&any_text(100));
        }
        return json!(text).to_string();
    }
    while text.len() < LONG {
        text.push_str(&any_json(2));
        text.push(',');
    }
    format!("[{text}0]")
}

/// White space between tokens.
fn space() -> String {
    const SPACES: [&str; 6] = [" ", "\t", "\n", "\r", "\r\n", "\n\n\r"];
    (0..fastrand::usize(..3))
        .map(|_| *fastrand::choice(&SPACES).unwrap())
        .collect()
}

// === clients ===

async fn crates_io(url: String) -> Vec<Message> {
    let transport = launchdarkly_sdk_transport::HyperTransport::builder()
        .build_http()
        .unwrap();
    let reconnect = ReconnectOptions::reconnect(true)
        .retry_initial(true)
        .delay(Duration::from_millis(60))
        .backoff_factor(1)
        .build();
    let client = ClientBuilder::for_url(&url)
        .unwrap()
        .reconnect(reconnect)
        .build_with_transport(transport);
    let mut stream = client.stream();
    let mut seen = Vec::new();
    loop {
        match stream.next().await.expect("it reconnects") {
            Ok(SSE::Event(event)) => {
                seen.push(Message {
                    id: event.id.unwrap_or_default(),
                    name: event.event_type,
                    data: event.data,
                });
                if seen.last().unwrap().name == END {
                    return seen;
                }
            }
            Ok(SSE::Connected(_) | SSE::Comment(_)) => {}
            Err(error) => eprintln!("cut: {error}"),
        }
    }
}

async fn node(program: &str, args: &[&str]) -> Vec<Message> {
    installed("node_modules");
    run(Command::new("node").arg(folder().join(program)).args(args)).await
}

async fn httpx_sse(url: &str) -> Vec<Message> {
    let python = installed(".venv/bin/python");
    let program = folder().join("httpx_sse_client.py");
    run(Command::new(python).arg(program).arg(url)).await
}

/// What a program prints until its end.
async fn run(command: &mut Command) -> Vec<Message> {
    let mut child = command
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stderr = child.stderr.take().unwrap();
    let log = tokio::spawn(async move {
        let mut log = String::new();
        stderr.read_to_string(&mut log).await.unwrap();
        eprint!("{log}");
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        let event: Value = serde_json::from_str(&line).unwrap();
        let field = |name: &str| event[name].as_str().unwrap().to_owned();
        seen.push(Message {
            id: field("id"),
            name: field("name"),
            data: field("data"),
        });
    }
    log.await.unwrap();
    let status = child.wait().await.unwrap();
    assert!(status.success(), "{command:?}: {status}");
    seen
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// What `cargo xtask clients` has put there.
#[track_caller]
fn installed(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo xtask clients",
        path.display()
    );
    path
}
