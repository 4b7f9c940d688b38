use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::harness::{Hub, HubOptions, TestDatabase, bellwether, within};

fn tail(hub: &Hub, args: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let url = format!("http://{}", hub.address);
    let mut child = bellwether()
        .args(["tail", "--url", &url])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    within("a line", lines.next_line())
        .await
        .unwrap()
        .expect("it goes on")
}

#[tokio::test]
async fn it_goes_on_after_the_hub_was_killed() {
    let database = TestDatabase::create().await;
    let hub = Hub::start_with(&database, HubOptions::args(&["--retry", "200ms"])).await;
    let psql = database.connect().await;
    psql.batch_execute("INSERT INTO events (name) VALUES ('old'), ('newer')")
        .await
        .unwrap();
    hub.stream("topic=events&last=2").await.events(2).await;

    let (_child, mut lines) = tail(&hub, &["events", "--last", "1"]);
    let first = line(&mut lines).await;
    let (cursor, rest) = first.split_once(' ').unwrap();
    assert!(cursor.ends_with("-2"), "{first}");
    assert!(rest.starts_with("newer {\"id\":2,"), "{first}");

    let options = HubOptions::default().in_place_of(&hub);
    hub.kill().await;
    psql.batch_execute("INSERT INTO events (name) VALUES ('while it was away')")
        .await
        .unwrap();
    let _hub = Hub::spawn(&database.url, options).await.unwrap();
    psql.batch_execute("INSERT INTO events (name) VALUES ('and back')")
        .await
        .unwrap();
    assert!(line(&mut lines).await.contains("-3 while it was away "));
    assert!(line(&mut lines).await.contains("-4 and back "));
}

#[tokio::test]
async fn it_begins_where_it_is_told() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    psql.batch_execute("INSERT INTO events (name) SELECT 'n' || n FROM generate_series(1, 5) AS n")
        .await
        .unwrap();
    let mut client = hub.stream("topic=events&last=5").await;
    let third = client.events(3).await.remove(2).id;
    let (_child, mut lines) = tail(&hub, &["--after", &third]);
    assert!(line(&mut lines).await.contains("-4 n4 "));
}

#[tokio::test]
async fn it_says_why_it_is_refused() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    for (args, part) in [
        (
            &["a..b"][..],
            "nothing stands before, after or between its dots",
        ),
        (&["--url", "ftp://x"], "must begin with http://"),
    ] {
        let url = format!("http://{}", hub.address);
        let mut command = bellwether();
        command.arg("tail");
        if !args.contains(&"--url") {
            command.args(["--url", &url]);
        }
        let output = within("its end", command.args(args).output())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(part), "{said}");
    }
}
