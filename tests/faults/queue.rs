use tokio_postgres::error::SqlState;

use super::warnings;
use crate::harness::{Hub, HubOptions, TestDatabase, connect, eventually, private_postgres_with};

/// Notifies until that fails, as any commit would that notifies.
async fn fill_the_queue(database: &TestDatabase) {
    let psql = database.connect().await;
    for payload in [7500, 0] {
        let notify = format!("SELECT pg_notify('elsewhere', repeat('x', {payload}))");
        let full = loop {
            if let Err(full) = psql.batch_execute(&notify).await {
                break full;
            }
        };
        assert_eq!(
            full.code(),
            Some(&SqlState::PROGRAM_LIMIT_EXCEEDED),
            "{full:?}"
        );
    }
}

/// A session that listens, inside a transaction that does not end: nothing that is notified
/// can leave the queue. Writers go on all the same, and clients have what they write.
#[tokio::test]
async fn a_full_queue_fails_no_writer() {
    let folder = tempfile::tempdir().unwrap();
    let major = crate::harness::server_major().await;
    // Before 17 the queue holds 8 GB, which nobody fills for a test.
    let can_be_filled = major >= 17;
    let pages = [("max_notify_queue_pages", "64")];
    let settings = if can_be_filled { &pages[..] } else { &[] };
    let server = private_postgres_with(folder.path(), settings).await;
    let database = TestDatabase::of(&server);
    let hub = Hub::start(&database).await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    database.insert(1).await;
    client.events(1).await;
    assert_eq!(warnings(&hub).await, "[]");

    let culprit = connect(&database.url).await;
    let admin = connect(&database.url).await;
    culprit.batch_execute("LISTEN elsewhere").await.unwrap();
    culprit.batch_execute("BEGIN").await.unwrap();
    if can_be_filled {
        fill_the_queue(&database).await;
    } else {
        eprintln!("Postgres {major}: the queue cannot be filled, so it is said to be");
        admin
            .batch_execute(
                "CREATE OR REPLACE FUNCTION bellwether.can_notify() RETURNS boolean
                 LANGUAGE sql VOLATILE RETURN false",
            )
            .await
            .unwrap();
    }

    // Whoever inserts while nobody is awake would ring, and fail.
    let is_promised = "SELECT coalesce(pg_sequence_last_value('bellwether.awake_until'), 0) > 0";
    for _ in 0..5 {
        eventually("nobody is awake", false, async || {
            admin.query_one(is_promised, &[]).await.unwrap().get(0)
        })
        .await;
        database.insert(1).await;
        client.events(1).await;
    }
    eventually("it warns", true, async || {
        warnings(&hub).await.contains("queue of notifications is")
    })
    .await;
    // Several hubs, too, one of which comes now: neither listening nor announcing fails.
    let other = Hub::spawn(&database.url, HubOptions::default())
        .await
        .expect("it gets ready");
    let mut clients = [client, other.stream("topic=events").await];
    clients[1].opened().await;
    for _ in 0..20 {
        database.insert(1).await;
        for client in &mut clients {
            client.events(1).await;
        }
    }
    assert_eq!(hub.metric("bellwether_listens_total").await, 1);
    assert!(clients[0].cursor().ends_with("-26"), "each once");
    assert_eq!(clients[0].cursor(), clients[1].cursor());

    // The queue empties, and writers ring again.
    culprit.batch_execute("COMMIT").await.unwrap();
    if !can_be_filled {
        admin
            .batch_execute(
                "CREATE OR REPLACE FUNCTION bellwether.can_notify() RETURNS boolean
                 LANGUAGE sql VOLATILE RETURN pg_notification_queue_usage() < 0.5",
            )
            .await
            .unwrap();
    }
    for hub in [&hub, &other] {
        eventually("all is well", "[]", async || {
            let warnings = warnings(hub).await;
            if warnings == "[]" { "[]" } else { "warnings" }
        })
        .await;
        hub.is_asleep().await;
    }
    let rings = hub.metric("bellwether_doorbell_rings_total").await;
    database.insert(1).await;
    clients[0].events(1).await;
    eventually("it is rung", true, async || {
        hub.metric("bellwether_doorbell_rings_total").await > rings
    })
    .await;
    drop((hub, other));
    server.stop().await.unwrap();
}
