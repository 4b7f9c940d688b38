use crate::harness::{Hub, HubOptions, TestDatabase, bellwether, eventually, get, within};
use std::path::Path;

/// A configuration file, and the hub that reads it.
async fn hub_with(database: &TestDatabase, folder: &Path, config: &str) -> Hub {
    let path = folder.join("hub.toml");
    std::fs::write(&path, config).unwrap();
    let options = HubOptions::args(&["--config", path.to_str().unwrap()]);
    Hub::spawn(&database.url, options).await.unwrap()
}

/// Of several hubs one takes it each time; who comes new is given the last one at once.
#[tokio::test]
async fn one_hub_takes_it_and_a_new_client_has_it_at_once() {
    let database = TestDatabase::create().await;
    let psql = database.connect().await;
    psql.batch_execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = r#"
        heartbeat = "7s"
        [[snapshot]]
        name = "orders"
        every = "300ms"
        topic = "figures.orders"
        sql = "SELECT count(*) AS count, coalesce(sum(total), 0) AS revenue FROM orders -- all of them"
    "#;
    let hubs = [
        hub_with(&database, folder.path(), config).await,
        hub_with(&database, folder.path(), config).await,
        hub_with(&database, folder.path(), config).await,
    ];
    let mut client = hubs[0].stream("topic=figures.*").await;
    assert_eq!(client.events(1).await[0].data, r#"{"count":0,"revenue":0}"#);
    psql.batch_execute("INSERT INTO orders VALUES (1, 20), (2, 22)")
        .await
        .unwrap();
    loop {
        let event = client.events(1).await.remove(0);
        assert_eq!(event.name, "orders");
        if event.data == r#"{"count":2,"revenue":42}"# {
            break;
        }
    }
    let state = (
        "orders".to_owned(),
        r#"{"count":2,"revenue":42}"#.to_owned(),
    );
    for hub in &hubs {
        eventually("it is the state", vec![state.clone()], async || {
            hub.stream("topic=figures.orders").await.states().await
        })
        .await;
    }
    // However many hubs there are, one is taken in most of an interval.
    client.events(10).await;
    let closest = "SELECT min(extract(epoch FROM gap))::float8 FROM (
        SELECT at - lag(at) OVER (ORDER BY id) AS gap FROM bellwether.event WHERE name = 'orders') AS gaps";
    let closest: f64 = psql.query_one(closest, &[]).await.unwrap().get(0);
    assert!(closest > 0.2, "two were {closest} s apart");
    // It goes on when whoever took it is killed.
    let [first, second, _third] = hubs;
    first.kill().await;
    let mut client = second.stream("topic=figures.*").await;
    client.states().await;
    client.events(3).await;
}

/// A query that fails is told and counted; the hub goes on, and so do other snapshots.
#[tokio::test]
async fn a_query_that_fails_is_an_event() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let snapshot = |name: &str, sql: &str| {
        format!(
            "[[snapshot]]\nname = \"{name}\"\nevery = \"200ms\"\ntopic = \"s.{name}\"\nsql = \"{sql}\"\n"
        )
    };
    let config = [
        snapshot("good", "SELECT 1 AS one;"),
        snapshot("missing", "SELECT * FROM nothing_there"),
        snapshot("many", "SELECT generate_series(1, 3)"),
        snapshot("none", "SELECT 1 WHERE false"),
        snapshot("slow", "SELECT pg_sleep(60)"),
        snapshot("writes", "SELECT nextval('bellwether.awake_until')"),
    ];
    let hub = hub_with(&database, folder.path(), &config.concat()).await;
    let mut client = hub.stream("topic=s.*").await;
    let mut due = vec![
        ("good", r#"{"one":1}"#),
        ("missing.error", "nothing_there"),
        ("many.error", "more than one row"),
        ("none.error", "no row"),
        ("slow.error", "statement timeout"),
        ("writes.error", "read-only"),
    ];
    within("each has told", async {
        while !due.is_empty() {
            let event = client.events(1).await.remove(0);
            due.retain(|(name, part)| *name != event.name || !event.data.contains(part));
        }
    })
    .await;
    assert_eq!(get(hub.address, "/readyz").await.0, 200);
    assert!(hub.metric("bellwether_snapshot_errors_total").await >= 5);
    // What failed has no state.
    let mut states = hub.stream("topic=s.*").await;
    assert_eq!(
        states.states().await,
        [("good".to_owned(), r#"{"one":1}"#.to_owned())]
    );
}

/// Flags go before the environment, and that before the file.
#[tokio::test]
async fn the_file_is_behind_flags_and_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bellwether.toml");
    let said = async |config: &str, args: &[&str], variable: Option<(&str, &str)>| {
        std::fs::write(&path, config).unwrap();
        let mut command = bellwether();
        command.args(args).current_dir(folder.path());
        if let Some((name, value)) = variable {
            command.env(name, value);
        }
        let output = within("it ends", command.output()).await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    // An address that nobody can have says which one was chosen.
    let config = "listen = \"203.0.113.1:1\"\ndatabase-url = \"postgres://x:geheim@127.0.0.1:1/x\"\nring-events = 77\n";
    let (code, text) = said(config, &["serve", "--allow-anonymous"], None).await;
    assert!(
        code == Some(1) && text.contains("cannot listen on 203.0.113.1:1"),
        "{text}"
    );
    let variable = Some(("BELLWETHER_LISTEN", "203.0.113.2:2"));
    let (_, text) = said(config, &["serve", "--allow-anonymous"], variable).await;
    assert!(text.contains("cannot listen on 203.0.113.2:2"), "{text}");
    let (_, text) = said(
        config,
        &["serve", "--allow-anonymous", "--listen", "203.0.113.3:3"],
        variable,
    )
    .await;
    assert!(text.contains("cannot listen on 203.0.113.3:3"), "{text}");
    let (code, text) = said(config, &["serve"], None).await;
    assert!(
        code == Some(1) && text.contains("say --allow-anonymous"),
        "{text}"
    );
    let (code, text) = said(config, &["serve", "--help"], None).await;
    assert!(
        code == Some(0) && text.contains("[default: 77]") && !text.contains("geheim"),
        "{text}"
    );

    for (config, part) in [
        ("listn = \"127.0.0.1:1\"", "\"listn\", which is no flag"),
        ("listen = {}", "write it as a text, a number or a list"),
        ("listen = ", "cannot be understood"),
        ("[[snapshot]]\nname = \"a\"", "missing field"),
        (
            "[[snapshot]]\nname = \"a\"\nevery = \"1 parsec\"\nsql = \"SELECT 1\"\ntopic = \"a\"",
            "every = \"1 parsec\"",
        ),
        (
            "[[snapshot]]\nname = \"a\"\nevery = \"1ms\"\nsql = \"SELECT 1\"\ntopic = \"a\"",
            "less than 100ms",
        ),
        (
            "[[snapshot]]\nname = \"a\"\nevery = \"1s\"\nsql = \"SELECT 1\"\ntopic = \"a.*\"",
            "topic = \"a.*\"",
        ),
    ] {
        let (code, text) = said(config, &["serve", "--allow-anonymous"], None).await;
        assert!(code == Some(1) && text.contains(part), "{config}: {text}");
    }
    let (code, text) = said("", &["serve", "--config", "none.toml"], None).await;
    assert!(
        code == Some(1) && text.contains("cannot read none.toml"),
        "{text}"
    );
    let (code, _) = said(
        "listen = \"nonsense\"",
        &["serve", "--allow-anonymous"],
        None,
    )
    .await;
    assert_eq!(code, Some(64));
}
