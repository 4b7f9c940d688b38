use nix::sys::signal::{Signal, kill};
use sse::Message;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::harness::{Client, Hub, HubOptions, TestDatabase, eventually, is_promised, within};

const INSERT: &str = "INSERT INTO events (name) VALUES ('n')";

fn seq(event: &Message) -> u64 {
    event.id.split_once('-').unwrap().1.parse().unwrap()
}

async fn start(database: &TestDatabase, count: usize) -> Vec<Hub> {
    let mut hubs = vec![Hub::start(database).await];
    while hubs.len() < count {
        hubs.push(Hub::start(database).await);
    }
    hubs
}

async fn opened(hub: &Hub) -> Client {
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    client
}

async fn numbered(hub: &Hub) -> u64 {
    hub.metric("bellwether_events_numbered_total").await
}

/// Writers that insert as fast as they can until they are told to stop.
struct Writers {
    done: Arc<AtomicBool>,
    running: JoinSet<u64>,
}

impl Writers {
    async fn start(database: &TestDatabase, count: usize, pause: Duration) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        for _ in 0..count {
            let (psql, done) = (database.connect().await, Arc::clone(&done));
            running.spawn(async move {
                let insert = psql.prepare(INSERT).await.unwrap();
                let mut inserted = 0;
                while !done.load(Ordering::Relaxed) {
                    inserted += psql.execute(&insert, &[]).await.unwrap();
                    time::sleep(pause).await;
                }
                inserted
            });
        }
        Self { done, running }
    }

    async fn stop(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        within("the writers", self.running.join_all())
            .await
            .into_iter()
            .sum()
    }
}

/// Reads up to this number, which must come without holes.
async fn read_to(client: &mut Client, from: u64, to: u64) {
    for expected in from..=to {
        let event = client.events(1).await.remove(0);
        assert_eq!(seq(&event), expected, "neither hole nor double");
    }
}

#[tokio::test]
async fn one_numbers_and_the_others_hear_of_it() {
    let database = TestDatabase::create().await;
    let hubs = start(&database, 3).await;
    for hub in &hubs {
        hub.is_asleep().await;
    }
    let mut clients = Vec::new();
    for hub in &hubs {
        clients.push(opened(hub).await);
    }
    let mut total = 0;
    // A hub that this machine does not let look in time is taken over from, as it should be.
    for attempt in 1.. {
        assert!(attempt <= 5, "no promise is kept");
        let writers = Writers::start(&database, 2, Duration::from_millis(1)).await;
        // The first of them are anybody's: their rings are answered without a promise.
        time::sleep(Duration::from_millis(200)).await;
        let (takeovers, before) = (takeovers(&hubs).await, shares(&hubs).await);
        time::sleep(Duration::from_secs(2)).await;
        let after = shares(&hubs).await;
        let is_kept = self::takeovers(&hubs).await == takeovers;
        let inserted = writers.stop().await;
        for client in &mut clients {
            read_to(client, total + 1, total + inserted).await;
        }
        total += inserted;
        for hub in &hubs {
            assert_eq!(hub.metric("bellwether_safety_poll_events_total").await, 0);
            // One that hears two at once counts two.
            let announced = hub.metric("bellwether_announcements_total").await;
            let batches = batches(&database).await;
            assert!(
                announced * 10 >= batches * 9,
                "{announced} of {batches} batches are announced"
            );
            hub.is_asleep().await;
        }
        let all = shares(&hubs).await;
        assert_eq!(all.iter().sum::<u64>(), total, "each is numbered once");
        if is_kept {
            let who: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b < a).collect();
            assert_eq!(who.len(), 1, "one of them numbers as long as it is awake");
            return;
        }
    }
}

async fn shares(hubs: &[Hub]) -> Vec<u64> {
    let mut shares = Vec::new();
    for hub in hubs {
        shares.push(numbered(hub).await);
    }
    shares
}

async fn batches(database: &TestDatabase) -> u64 {
    let psql = database.connect().await;
    // The stream begins with one that is empty.
    let query = "SELECT count(*) - 1 FROM bellwether.batch";
    let batches: i64 = psql.query_one(query, &[]).await.unwrap().get(0);
    u64::try_from(batches).unwrap()
}

async fn takeovers(hubs: &[Hub]) -> u64 {
    let mut sum = 0;
    for hub in hubs {
        sum += hub.metric("bellwether_takeovers_total").await;
    }
    sum
}

/// A single event now and then, with everybody asleep in between, reaches all of them by
/// bell and announcement: not one waits for a safety poll.
#[tokio::test]
async fn a_lone_insert_reaches_all() {
    let database = TestDatabase::create().await;
    let hubs = start(&database, 3).await;
    let mut clients = Vec::new();
    for hub in &hubs {
        clients.push(opened(hub).await);
    }
    let psql = database.connect().await;
    for number in 1..=10 {
        for hub in &hubs {
            hub.is_asleep().await;
        }
        psql.batch_execute(INSERT).await.unwrap();
        for client in &mut clients {
            read_to(client, number, number).await;
        }
    }
    for hub in &hubs {
        assert_eq!(hub.metric("bellwether_safety_poll_events_total").await, 0);
    }
}

/// The hub that numbers is struck; the others go on without it. Returns the time until an
/// event that was inserted afterwards is through.
async fn strike(strike: impl AsyncFnOnce(Hub) -> Option<Hub>) -> Duration {
    let database = TestDatabase::create().await;
    let mut hubs = start(&database, 3).await;
    let mut clients = Vec::new();
    for hub in &hubs {
        clients.push(opened(hub).await);
    }
    let writers = Writers::start(&database, 2, Duration::from_millis(1)).await;
    for client in &mut clients {
        read_to(client, 1, 200).await;
    }
    let mut busiest = 0;
    for at in 1..hubs.len() {
        if numbered(&hubs[at]).await > numbered(&hubs[busiest]).await {
            busiest = at;
        }
    }
    drop(clients.remove(busiest));
    let struck = strike(hubs.remove(busiest)).await;
    let began = Instant::now();

    let newest = "SELECT max(id) FROM bellwether.event";
    let newest: i64 = database
        .connect()
        .await
        .query_one(newest, &[])
        .await
        .unwrap()
        .get(0);
    let mark = newest.unsigned_abs();
    for client in &mut clients {
        read_to(client, 201, mark).await;
    }
    let took = began.elapsed();
    let inserted = writers.stop().await;
    for client in &mut clients {
        read_to(client, mark + 1, inserted).await;
    }
    drop(struck);
    took
}

#[tokio::test]
async fn another_takes_over_when_the_one_that_numbers_is_killed() {
    let took = strike(async |hub| {
        hub.kill().await;
        None
    })
    .await;
    eprintln!("killed: taken over within {took:?}");
}

#[tokio::test]
async fn another_takes_over_when_the_one_that_numbers_hangs() {
    let took = strike(async |hub| {
        kill(hub.pid(), Signal::SIGSTOP).unwrap();
        Some(hub)
    })
    .await;
    eprintln!("stopped: taken over within {took:?}");
}

/// It looks once for each page that it reads, and others have less to do.
#[tokio::test]
async fn one_that_is_behind_leaves_it_to_another() {
    const LOADED: u64 = 200_000;
    let database = TestDatabase::create().await;
    let behind = start(&database, 2).await;
    let psql = database.connect().await;
    let writers = Writers::start(&database, 2, Duration::from_millis(1)).await;
    eventually("one of them has promised to look", true, async || {
        is_promised(&psql).await
    })
    .await;
    let load = format!("INSERT INTO events (name) SELECT 'load' FROM generate_series(1, {LOADED})");
    psql.batch_execute(&load).await.unwrap();
    let is_numbered = async || shares(&behind).await.iter().sum::<u64>() > LOADED;
    eventually("it is numbered", true, is_numbered).await;

    let options = HubOptions::args(&["--ring-events", "1000"]);
    let fresh = Hub::start_with(&database, options).await;
    eventually("it numbers", true, async || numbered(&fresh).await > 0).await;
    for hub in &behind {
        let read = hub.metric("bellwether_events_read_total").await;
        assert!(read < LOADED, "it is not behind any more: {read} are read");
    }
    let inserted = writers.stop().await + LOADED;
    for hub in &behind {
        let read = async || hub.metric("bellwether_events_read_total").await;
        eventually("all of it is read", inserted, read).await;
    }
}

/// And when it goes on after a while, it does no harm.
#[tokio::test]
async fn one_that_wakes_up_late_follows() {
    let database = TestDatabase::create().await;
    let hubs = start(&database, 2).await;
    let mut clients = [opened(&hubs[0]).await, opened(&hubs[1]).await];
    let writers = Writers::start(&database, 2, Duration::from_millis(1)).await;
    for round in 0..4 {
        let frozen = &hubs[round % 2];
        kill(frozen.pid(), Signal::SIGSTOP).unwrap();
        time::sleep(Duration::from_millis(600)).await;
        kill(frozen.pid(), Signal::SIGCONT).unwrap();
        time::sleep(Duration::from_millis(300)).await;
    }
    let inserted = writers.stop().await;
    for client in &mut clients {
        read_to(client, 1, inserted).await;
        assert!(client.is_quiet_for(Duration::from_millis(1500)).await);
    }
    assert_eq!(
        numbered(&hubs[0]).await + numbered(&hubs[1]).await,
        inserted
    );
}

/// Ten hubs; clients hop from one to another with their cursor, while writers write.
#[tokio::test]
async fn a_client_that_changes_hubs_sees_no_difference() {
    let database = TestDatabase::create().await;
    let hubs = Arc::new(start(&database, 10).await);
    let start = opened(&hubs[0]).await.cursor().to_owned();
    let writers = Writers::start(&database, 4, Duration::from_millis(1)).await;
    let mut clients = JoinSet::new();
    for client in 0..10 {
        let (hubs, mut cursor) = (Arc::clone(&hubs), start.clone());
        clients.spawn(async move {
            let mut seen = 0;
            for hop in 0..30 {
                let mut client = hubs[(client + hop) % hubs.len()]
                    .resume("topic=events", &cursor)
                    .await;
                client.opened().await;
                for event in client.events(fastrand::usize(0..60)).await {
                    seen += 1;
                    assert_eq!(seq(&event), seen, "{}: neither hole nor double", event.name);
                }
                client.cursor().clone_into(&mut cursor);
            }
        });
    }
    within("the clients", clients.join_all()).await;
    let inserted = writers.stop().await;
    let head = async || hubs[9].metric("bellwether_stream_head").await;
    eventually("all of it is everywhere", inserted, head).await;
}
