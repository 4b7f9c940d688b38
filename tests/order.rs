use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{task::JoinSet, time};
use tokio_postgres::Client as Psql;

use crate::harness::{Client, Committed, Hub, TestDatabase, check_order, eventually, now, within};

const WRITERS: usize = 40;
const TRANSACTIONS: usize = 25;
const COPIED: usize = 100_000;

/// What was committed so far.
type Ledger = Mutex<Vec<Committed>>;

async fn insert(transaction: &mut Committed, psql: &Psql, name: String) {
    let at = now();
    let insert = "INSERT INTO events (name, properties) VALUES ($1, jsonb_build_object('xid', pg_current_xact_id()))";
    psql.execute(insert, &[&name]).await.unwrap();
    transaction.rows.push((name, at));
}

fn commit(ledger: &Ledger, mut transaction: Committed) {
    transaction.at = now();
    ledger.lock().unwrap().push(transaction);
}

/// Forty writers with random pauses and savepoints, a quarter of them rolled back, a COPY,
/// a transaction that is open all along, a prepared one; and two clients that must agree.
#[tokio::test]
async fn each_commit_once_and_in_one_order() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut clients = [
        hub.stream("topic=events").await,
        hub.stream("topic=%3E").await,
    ];
    for client in &mut clients {
        client.opened().await;
    }
    let ledger = Arc::new(Ledger::default());

    let long = database.connect().await;
    let mut open_all_along = Committed::default();
    long.batch_execute("BEGIN").await.unwrap();
    insert(&mut open_all_along, &long, "long".to_owned()).await;

    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(database.connect().await, Arc::clone(&ledger), writer));
    }
    writers.spawn(copy(database.connect().await, Arc::clone(&ledger)));
    writers.spawn(prepare(database.connect().await, Arc::clone(&ledger)));
    within("the writers", writers.join_all()).await;

    long.batch_execute("COMMIT").await.unwrap();
    commit(&ledger, open_all_along);

    let committed = std::mem::take(&mut *ledger.lock().unwrap());
    let expected = committed
        .iter()
        .map(|transaction| transaction.rows.len())
        .sum();
    let [one, other] = &mut clients;
    let (seen, seen_too) = tokio::join!(names(one, expected), names(other, expected));
    assert_eq!(seen, seen_too, "the order is the same for both");
    check(&committed, &seen);
    for client in &mut clients {
        assert!(
            client.is_quiet_for(Duration::from_millis(1500)).await,
            "nothing comes twice"
        );
    }
    assert_eq!(hub.metric("bellwether_safety_poll_events_total").await, 0);
}

/// Transactions whose ids interleave, some of them rolled back: the stream is in runs that begin and end
/// anywhere, and any stretch of it is what lies between its ends, also when retention has cut the first run.
#[tokio::test]
async fn a_stretch_is_what_lies_between() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let ledger = Ledger::default();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push((database.connect().await, Committed::default()));
    }
    for number in 0..60 {
        let (psql, transaction) = &mut open[fastrand::usize(0..3)];
        if transaction.rows.is_empty() {
            psql.batch_execute("BEGIN").await.unwrap();
        }
        for row in 0..fastrand::usize(1..4) {
            insert(transaction, psql, format!("{number}.{row}")).await;
        }
        match fastrand::u8(0..8) {
            0 => {
                psql.batch_execute("ROLLBACK").await.unwrap();
                transaction.rows.clear();
            }
            1 | 2 => {
                psql.batch_execute("COMMIT").await.unwrap();
                commit(&ledger, std::mem::take(transaction));
            }
            _ => {}
        }
    }
    drop(open);
    database.insert(7).await;
    let rows = |committed: &Committed| i64::try_from(committed.rows.len()).unwrap();
    let committed: i64 = ledger.lock().unwrap().iter().map(rows).sum();
    let head = committed + 7;
    let published = async || hub.metric("bellwether_stream_head").await;
    eventually("all of it is numbered", head.unsigned_abs(), published).await;

    let psql = database.connect().await;
    let stretch = async |after: i64, up_to: i64| -> Vec<(i64, String)> {
        let query = "SELECT seq, name FROM bellwether.stretch($1, $2) ORDER BY seq";
        let rows = psql.query(query, &[&after, &up_to]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let mut left = stretch(0, head).await;
    assert!(left.iter().map(|(seq, _)| *seq).eq(1..=head), "no holes");
    while !left.is_empty() {
        for _ in 0..100 {
            let after = fastrand::i64(0..=head);
            let up_to = fastrand::i64(after..=head + 1);
            let between = |(seq, _): &&(i64, String)| after < *seq && *seq <= up_to;
            let expected: Vec<_> = left.iter().filter(between).cloned().collect();
            let found = stretch(after, up_to).await;
            assert_eq!(found, expected, "after {after} up to {up_to}");
        }
        let at_most = fastrand::i32(1..10);
        let retain = "SELECT bellwether.retain(NULL, 0, $1)";
        let row = psql.query_one(retain, &[&at_most]).await.unwrap();
        let deleted: i64 = row.get(0);
        left.drain(..usize::try_from(deleted).unwrap());
        let events = "SELECT count(*) FROM bellwether.event";
        let events: i64 = psql.query_one(events, &[]).await.unwrap().get(0);
        assert_eq!(usize::try_from(events).unwrap(), left.len());
    }
}

async fn write(psql: Psql, ledger: Arc<Ledger>, writer: usize) {
    for number in 0..TRANSACTIONS {
        let pause = async || time::sleep(Duration::from_micros(fastrand::u64(0..20_000))).await;
        let name = |row: usize| format!("{writer}.{number}.{row}");
        let mut transaction = Committed::default();
        psql.batch_execute("BEGIN").await.unwrap();
        for row in 0..fastrand::usize(1..4) {
            insert(&mut transaction, &psql, name(row)).await;
            pause().await;
        }
        psql.batch_execute("SAVEPOINT one").await.unwrap();
        let mut inner = Committed::default();
        insert(&mut inner, &psql, name(10)).await;
        if fastrand::bool() {
            psql.batch_execute("ROLLBACK TO one").await.unwrap();
        } else {
            psql.batch_execute("RELEASE one").await.unwrap();
            transaction.rows.append(&mut inner.rows);
        }
        insert(&mut transaction, &psql, name(20)).await;
        pause().await;
        if fastrand::u8(0..4) == 0 {
            psql.batch_execute("ROLLBACK").await.unwrap();
        } else {
            psql.batch_execute("COMMIT").await.unwrap();
            commit(&ledger, transaction);
        }
        pause().await;
    }
}

async fn copy(psql: Psql, ledger: Arc<Ledger>) {
    let mut transaction = Committed::default();
    let at = now();
    let names: Vec<String> = (0..COPIED).map(|row| format!("copy.{row}")).collect();
    let rows = names.join("\n");
    let sink = psql.copy_in("COPY events (name) FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from(rows))
        .await
        .unwrap();
    assert_eq!(sink.finish().await.unwrap(), COPIED as u64);
    transaction.rows = names.into_iter().map(|name| (name, at)).collect();
    commit(&ledger, transaction);
}

async fn prepare(psql: Psql, ledger: Arc<Ledger>) {
    let mut transaction = Committed::default();
    // A transaction that has notified cannot be prepared.
    psql.batch_execute("BEGIN; SET LOCAL bellwether.doorbell = off")
        .await
        .unwrap();
    insert(&mut transaction, &psql, "prepared".to_owned()).await;
    psql.batch_execute("PREPARE TRANSACTION 'prepared'")
        .await
        .unwrap();
    time::sleep(Duration::from_millis(300)).await;
    psql.batch_execute("COMMIT PREPARED 'prepared'")
        .await
        .unwrap();
    commit(&ledger, transaction);
}

/// Names of the next events, whose ids must have no holes.
async fn names(client: &mut Client, count: usize) -> Vec<String> {
    let mut names = Vec::with_capacity(count);
    for seq in 1..=count {
        let event = client.events(1).await.remove(0);
        let (_, id) = event.id.split_once('-').unwrap();
        assert_eq!(id, seq.to_string(), "ids have no holes");
        names.push(event.name);
    }
    names
}

fn check(committed: &[Committed], seen: &[String]) {
    let rows = || committed.iter().flat_map(|transaction| &transaction.rows);
    let expected: HashSet<&str> = rows().map(|(name, _)| name.as_str()).collect();
    let found: HashSet<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(seen.len(), found.len(), "each once");
    assert_eq!(found, expected, "all that was committed, and nothing else");

    let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
    check_order(&seen, committed);
}
