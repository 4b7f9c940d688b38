use std::{net::TcpListener, process::Output};

use embedded::Mode;

use crate::harness::{
    Client, Delivery, Hub, HubOptions, TestDatabase, bellwether, connect, eventually, get,
    private_postgres, within,
};

async fn run(args: &[&str]) -> (Option<i32>, String) {
    let ran = within("the program's end", bellwether().args(args).output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = ran.unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    (status.code(), said)
}

#[track_caller]
fn check(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense() {
    for (args, part) in [
        (
            &["serve", "--listen", "nowhere"][..],
            "invalid socket address",
        ),
        (
            &["serve", "--heartbeat", "0s"],
            "it must be more than nothing",
        ),
        (&["serve", "--no-such-flag"], "--no-such-flag"),
        (&["dance"], "unrecognized subcommand"),
        (&[], "Usage: bellwether"),
    ] {
        let (code, said) = run(args).await;
        assert_eq!(code, Some(64), "{args:?}: {said}");
        check(&said, &[part]);
    }
    let (code, said) = run(&["--help"]).await;
    assert_eq!(code, Some(0));
    check(&said, &["serve", "demo", "tail"]);
    let (code, said) = run(&["--version"]).await;
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            concat!("bellwether ", env!("CARGO_PKG_VERSION"), "\n")
        )
    );
}

#[tokio::test]
async fn an_address_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = run(&[
        "serve",
        "--listen",
        &address,
        "--database-url",
        "postgres://nobody@127.0.0.1:1/none",
    ])
    .await;
    assert_eq!(code, Some(1));
    check(
        &said,
        &[
            &format!("cannot listen on {address}"),
            "--listen",
            "Address already in use",
        ],
    );
}

#[tokio::test]
async fn a_database_that_says_no() {
    let database = TestDatabase::create().await;
    let spawn = async |url: &str| {
        let (status, said) = Hub::spawn(url, HubOptions::default()).await.unwrap_err();
        assert_eq!(status.code(), Some(1), "{said}");
        said
    };
    let said = spawn(&database.url_with_password("wrong")).await;
    check(
        &said,
        &[
            "cannot connect to database test_",
            "as bellwether",
            "password authentication failed",
        ],
    );
    assert!(!said.contains("wrong"), "no password is shown: {said}");

    let no_such = format!("{}_not", database.url);
    check(&spawn(&no_such).await, &["does not exist"]);
    let tls = format!("{}?sslmode=some", database.url);
    check(&spawn(&tls).await, &["sslmode=some is none of"]);
    check(
        &spawn("postgres://host:port/x").await,
        &["the database URL cannot be read"],
    );
}

#[tokio::test]
async fn a_schema_that_is_newer() {
    refused_after(
        "INSERT INTO bellwether.migration
         SELECT 999, 'from_the_future', applied_on, checksum FROM bellwether.migration LIMIT 1",
        &[
            "has version 999, made by a newer program",
            "run the newer program",
        ],
    )
    .await;
}

/// As while this program is being developed: what it does not find there would fail later.
#[tokio::test]
async fn a_schema_of_another_build() {
    refused_after(
        "UPDATE bellwether.migration SET checksum = '1' WHERE version = 3",
        &[
            "version 3 of the schema",
            "another build",
            "drop the schema",
        ],
    )
    .await;
}

/// A hub does not start on a schema that was changed so, and says why.
async fn refused_after(change: &str, expected: &[&str]) {
    let database = TestDatabase::create().await;
    Hub::start(&database).await.kill().await;
    let psql = database.connect().await;
    psql.batch_execute(change).await.unwrap();
    let (status, said) = Hub::spawn(&database.url, HubOptions::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Some(1));
    check(&said, expected);
}

#[tokio::test]
async fn a_role_that_may_do_nothing() {
    let database = TestDatabase::create().await;
    let url = database.role("powerless").await;
    let (status, said) = Hub::spawn(&url, HubOptions::default()).await.unwrap_err();
    assert_eq!(status.code(), Some(1));
    check(
        &said,
        &[
            "rights are missing",
            "GRANT CREATE ON DATABASE test_",
            "TO powerless",
        ],
    );
}

#[tokio::test]
async fn two_that_start_at_once_on_an_empty_database() {
    for _ in 0..3 {
        let database = TestDatabase::create().await;
        let start = || Hub::spawn(&database.url, HubOptions::default());
        let (one, other) = tokio::join!(start(), start());
        let (one, other) = (one.expect("it starts"), other.expect("it starts"));
        database.create_events_table().await;
        let mut clients = [
            one.stream("topic=events").await,
            other.stream("topic=events").await,
        ];
        for client in &mut clients {
            client.opened().await;
        }
        let psql = database.connect().await;
        psql.batch_execute(
            "INSERT INTO events (name) VALUES ('a'), ('b'); INSERT INTO events (name) VALUES ('c')",
        )
        .await
        .unwrap();
        let [from_one, from_other] = &mut clients;
        let events = from_one.events(3).await;
        assert_eq!(events, from_other.events(3).await, "the same ids on both");
        assert_eq!(events[2].name, "c");
    }
}

/// Not reachable at first, then reachable, then gone again, then back.
#[tokio::test]
async fn a_database_that_comes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let server = private_postgres(folder.path()).await;
    let url = server.url();
    server.stop().await.unwrap();

    let early = Hub::begin(&url).await;
    let address = early.address;
    assert_eq!(get(address, "/healthz").await.0, 200);
    eventually("it says why it is not ready", true, async || {
        let (status, text) = get(address, "/readyz").await;
        status == 503 && text.contains("no database yet: cannot connect to database bellwether")
    })
    .await;
    let mut client = Client::connect(address, "topic=events", None).await;
    assert_eq!(
        client.status, 200,
        "an EventSource would give up on any other"
    );
    assert!(matches!(client.next().await, Delivery::Retry(_)));
    assert_eq!(client.next().await, Delivery::End);

    let mut server = private_postgres(folder.path()).await;
    assert_eq!(server.url(), url, "it comes back where it was");
    let is_ready = async || get(address, "/readyz").await.0 == 200;
    eventually("it gets ready", true, is_ready).await;
    let psql = connect(&url).await;
    psql.batch_execute(include_str!("../sql/events.sql"))
        .await
        .unwrap();
    let mut client = Client::connect(address, "topic=events", None).await;
    client.opened().await;
    psql.batch_execute("INSERT INTO events (name) VALUES ('one')")
        .await
        .unwrap();
    assert_eq!(client.event().await.name, "one");

    for mode in [Mode::Fast, Mode::Immediate] {
        server.restart(mode).await.unwrap();
        let psql = connect(&url).await;
        psql.batch_execute("INSERT INTO events (name) VALUES ('more')")
            .await
            .unwrap();
        // The same stream goes on: it never ended.
        assert_eq!(client.event().await.name, "more");
        eventually("it gets ready again", true, is_ready).await;
    }
    early.kill().await;
    server.stop().await.unwrap();
}
