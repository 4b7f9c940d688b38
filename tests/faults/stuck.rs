use std::time::Duration;
use tokio::time::{self, Instant};

use super::{is_not_ready, is_ready};
use crate::harness::{Hub, TestDatabase};

/// As when the server's process that numbers is frozen, or still numbers a load of many
/// millions of rows: nobody else may number, and hubs say so, but do not queue up for it.
#[tokio::test]
async fn those_who_cannot_number_do_not_pile_up() {
    let database = TestDatabase::create().await;
    let hubs = [Hub::start(&database).await, Hub::start(&database).await];
    let mut clients = Vec::new();
    for hub in &hubs {
        let mut client = hub.stream("topic=events").await;
        client.opened().await;
        clients.push(client);
        hub.is_asleep().await;
    }
    let holder = database.connect().await;
    let hold = "SELECT pg_advisory_lock(hashtextextended('bellwether.advance', 0))";
    holder.batch_execute(hold).await.unwrap();
    database.insert(10).await;
    for hub in &hubs {
        is_not_ready(hub, "lock timeout").await;
    }
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        let waiting: i64 = holder.query_one(waiting, &[]).await.unwrap().get(0);
        assert!(waiting <= 2, "one for each hub at most, not {waiting}");
        time::sleep(Duration::from_millis(100)).await;
    }
    database.insert(10).await;
    let release = "SELECT pg_advisory_unlock_all()";
    holder.batch_execute(release).await.unwrap();
    for (hub, client) in hubs.iter().zip(&mut clients) {
        assert!(client.events(20).await[19].id.ends_with("-20"));
        is_ready(hub).await;
    }
}
