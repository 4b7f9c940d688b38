use embedded::Postgres;
use nix::sys::signal::{Signal, kill};
use std::path::Path;
use tokio::process::Command;

use super::{is_not_ready, is_ready};
use crate::harness::{
    Hub, HubOptions, TestDatabase, connect, eventually, get, private_postgres,
    private_postgres_with, within,
};

/// A standby that streams from the server, begun as a copy of its stopped data folder.
/// Returns both.
async fn with_standby(server: Postgres, from: &Path, to: &Path) -> (Postgres, Postgres) {
    let role = "CREATE ROLE standby REPLICATION LOGIN PASSWORD 'standby'";
    let admin = connect(&server.url()).await;
    admin.batch_execute(role).await.unwrap();
    server.stop().await.unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from.join(".")).arg(to);
    assert!(within("cp", copy.status()).await.unwrap().success());
    std::fs::write(to.join("pgdata/standby.signal"), "").unwrap();
    let primary = private_postgres(from).await;
    let port = primary.port();
    let conninfo = format!("host=127.0.0.1 port={port} user=standby password=standby");
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
/// serves, and so does one that knew both addresses: nothing is lost.
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
    // Another epoch, as the standby could have lacked something; it did not, so clients go on.
    let mut again = waits.resume("topic=events", &first).await;
    let cursor = client.cursor().to_owned();
    let mut client = follows.resume("topic=events", &cursor).await;
    let (went_on, from_the_start) = (client.events(5).await, again.events(25).await);
    let (later, _) = from_the_start[0].id.split_once('-').unwrap();
    assert_ne!(later, epoch);
    for (event, seq) in from_the_start.iter().zip(1..) {
        assert_eq!(event.id, format!("{later}-{seq}"));
        assert_ne!(event.name, "gap");
    }
    assert_eq!(went_on, from_the_start[20..]);
    drop((waits, follows));
    standby.stop().await.unwrap();
}

/// A standby that lacks the primary's last events takes its place. Whoever has seen those is
/// told, also if the hub that sent them comes second, when their numbers were given again.
#[tokio::test]
async fn a_failover_that_lost_its_tail() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = private_postgres(from.path()).await;
    let database = TestDatabase::of(&server);
    Hub::start(&database).await.kill().await;
    let (primary, standby) = with_standby(server, from.path(), to.path()).await;
    let (database, copy) = (TestDatabase::of(&primary), TestDatabase::of(&standby));
    // It waits on the standby alone.
    let first = Hub::begin(&copy.url).await;
    is_not_ready(&first, "is in recovery").await;
    let ports = format!("127.0.0.1:{},127.0.0.1:{}/", primary.port(), standby.port());
    let both = database
        .url
        .replace(&format!("127.0.0.1:{}/", primary.port()), &ports);
    let second = Hub::spawn(&both, HubOptions::default()).await.unwrap();
    let mut client = second.stream("topic=events").await;
    client.opened().await;
    database.insert(10).await;
    client.events(10).await;
    let common = client.cursor().to_owned();
    let written = wal(&database, "pg_current_wal_lsn()").await;
    eventually("the standby has all of it", true, async || {
        wal(&copy, "pg_last_wal_replay_lsn()").await >= written
    })
    .await;

    // Now it is cut off, and lacks five.
    let cut_off =
        "ALTER ROLE standby NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_replication";
    let admin = connect(&database.url).await;
    admin.batch_execute(cut_off).await.unwrap();
    let standby_psql = connect(&copy.url).await;
    let receiver = "SELECT count(*) FROM pg_stat_wal_receiver";
    eventually("it receives nothing", 0_i64, async || {
        standby_psql.query_one(receiver, &[]).await.unwrap().get(0)
    })
    .await;
    database.insert(5).await;
    let lost = client.events(5).await;
    kill(second.pid(), Signal::SIGSTOP).unwrap();
    primary.stop().await.unwrap();
    let promote = "SELECT pg_promote()";
    standby_psql.query_one(promote, &[]).await.unwrap();
    is_ready(&first).await;
    copy.insert(20).await;
    let mut others = first.resume("topic=events", &common).await;
    let new = others.events(20).await;
    assert!(
        new.iter().all(|event| event.name != "gap"),
        "all it had is there"
    );

    kill(second.pid(), Signal::SIGCONT).unwrap();
    let (epoch, _) = new[0].id.split_once('-').unwrap();
    eventually("it follows the new epoch", true, async || {
        let page = get(second.address, "/v1/events?topic=%3E&last=1").await;
        page.1.contains(epoch)
    })
    .await;
    let mut back = second.resume("topic=events", &lost[4].id).await;
    let told = back.events(21).await;
    assert_eq!(told[0].name, "gap");
    assert!(
        told[0].data.contains("\"reason\":\"epoch\""),
        "{}",
        told[0].data
    );
    assert_eq!(told[1..], new);
    drop((first, second));
    standby.stop().await.unwrap();
}
