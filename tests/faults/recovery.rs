use embedded::Postgres;
use std::path::Path;
use tokio::process::Command;

use super::{is_not_ready, is_ready};
use crate::harness::{
    Hub, HubOptions, TestDatabase, connect, eventually, private_postgres, private_postgres_with,
    within,
};

/// A standby that streams from the server, begun as a copy of its stopped data folder.
/// Returns both.
async fn with_standby(server: Postgres, from: &Path, to: &Path) -> (Postgres, Postgres) {
    server.stop().await.unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from.join(".")).arg(to);
    assert!(within("cp", copy.status()).await.unwrap().success());
    std::fs::write(to.join("pgdata/standby.signal"), "").unwrap();
    let primary = private_postgres(from).await;
    let conninfo = primary.url();
    let standby = private_postgres_with(to, &[("primary_conninfo", &conninfo)]).await;
    assert_ne!(primary.port(), standby.port());
    (primary, standby)
}

async fn wal(database: &TestDatabase, position: &str) -> i64 {
    let ask = format!("SELECT ({position} - '0/0')::bigint");
    let row = connect(&database.url).await.query_one(&ask, &[]).await;
    row.unwrap().get(0)
}

/// A hub on a standby waits and says why; when the standby takes the primary's place, it
/// serves, and so does one that knew both addresses: nothing lost, the same stream.
#[tokio::test]
async fn a_standby_is_waited_for_until_it_is_promoted() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = private_postgres(from.path()).await;
    let database = TestDatabase::of(&server);
    Hub::start(&database).await.kill().await;
    let (primary, standby) = with_standby(server, from.path(), to.path()).await;
    let database = TestDatabase::of(&primary);
    let copy = TestDatabase::of(&standby);

    let waits = Hub::begin(&copy.url).await;
    is_not_ready(&waits, "is in recovery: read-only until it is promoted").await;
    // The standby first: it is there, and passed over.
    let ports = format!("127.0.0.1:{},127.0.0.1:{}/", standby.port(), primary.port());
    let both = database
        .url
        .replace(&format!("127.0.0.1:{}/", primary.port()), &ports);
    let follows = Hub::spawn(&both, HubOptions::default()).await.unwrap();
    let mut client = follows.stream("topic=events").await;
    let first = client.opened().await.cursor().to_owned();
    let (epoch, _) = first.split_once('-').unwrap();
    for _ in 0..20 {
        database.insert(1).await;
    }
    client.events(20).await;

    let written = wal(&database, "pg_current_wal_lsn()").await;
    eventually("the standby has all of it", true, async || {
        wal(&copy, "pg_last_wal_replay_lsn()").await >= written
    })
    .await;
    is_not_ready(&waits, "is in recovery").await;
    primary.stop().await.unwrap();
    is_not_ready(&follows, "not following the stream").await;
    let promote = connect(&copy.url).await;
    promote.query_one("SELECT pg_promote()", &[]).await.unwrap();

    is_ready(&waits).await;
    is_ready(&follows).await;
    for _ in 0..5 {
        copy.insert(1).await;
    }
    let mut again = waits.resume("topic=events", &first).await;
    let (went_on, from_the_start) = (client.events(5).await, again.events(25).await);
    for (event, seq) in from_the_start.iter().zip(1..) {
        assert_eq!(event.id, format!("{epoch}-{seq}"));
    }
    assert_eq!(went_on, from_the_start[20..]);
    drop((waits, follows));
    standby.stop().await.unwrap();
}
