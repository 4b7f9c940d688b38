use embedded::Mode;
use tokio::task::JoinSet;

use super::is_ready;
use crate::harness::{Hub, HubOptions, TestDatabase, private_postgres_with};

const CRASHES: usize = 5;
const WRITERS: usize = 4;

/// What a client is shown before the server crashes.
const SHOWN: usize = 100;

/// Nobody's commit waits for the disk, and the server's own writer sleeps: a crash loses all
/// that a hub has not had flushed. What clients of two hubs saw is in the tables afterwards, at
/// the same places of the same stream; the hub that does not number shows no more, either.
#[tokio::test]
async fn what_was_shown_survives_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("synchronous_commit", "off"),
        ("wal_writer_delay", "10s"),
        ("wal_writer_flush_after", "1GB"),
        ("wal_buffers", "64MB"),
    ];
    let mut server = private_postgres_with(folder.path(), &settings).await;
    let database = TestDatabase::of(&server);
    let hubs = [
        Hub::start(&database).await,
        Hub::spawn(&database.url, HubOptions::default())
            .await
            .unwrap(),
    ];
    let mut clients = [
        hubs[0].stream("topic=events").await,
        hubs[1].stream("topic=events").await,
    ];
    for client in &mut clients {
        client.opened().await;
    }
    let mut shown = [Vec::new(), Vec::new()];
    for round in 0..CRASHES {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let psql = database.connect().await;
            writers.spawn(async move {
                // Until the server is gone.
                for n in 0.. {
                    let name = format!("{round}-{writer}-{n}");
                    let insert = "INSERT INTO events (name) VALUES ($1)";
                    if psql.execute(insert, &[&name]).await.is_err() {
                        break;
                    }
                }
            });
        }
        for (client, shown) in clients.iter_mut().zip(&mut shown) {
            shown.extend(client.events(SHOWN).await);
        }
        server.restart(Mode::Immediate).await.unwrap();
        writers.join_all().await;
        for hub in &hubs {
            is_ready(hub).await;
        }
    }
    database
        .connect()
        .await
        .execute("INSERT INTO events (name) VALUES ('end')", &[])
        .await
        .unwrap();
    for (client, shown) in clients.iter_mut().zip(&mut shown) {
        while shown.last().is_none_or(|event| event.name != "end") {
            shown.extend(client.events(1).await);
        }
    }

    let there = "
        SELECT (SELECT id FROM bellwether.epoch) || '-' || seq, name
        FROM bellwether.stretch(0, 1000000000) ORDER BY seq";
    let there = database.connect().await.query(there, &[]).await.unwrap();
    let there: Vec<(String, String)> = there.iter().map(|row| (row.get(0), row.get(1))).collect();
    for shown in shown {
        let shown: Vec<_> = shown
            .into_iter()
            .map(|event| (event.id, event.name))
            .collect();
        assert!(shown.len() >= SHOWN * CRASHES);
        let differs = there
            .iter()
            .zip(&shown)
            .find(|(there, shown)| there != shown);
        assert_eq!(differs, None, "what is there, and what was shown");
        assert_eq!(there.len(), shown.len());
    }
    drop(hubs);
    server.stop().await.unwrap();
}
