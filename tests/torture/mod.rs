//! Everything at once: writers, clients, and faults drawn from a seed; and a verdict.
//!
//! `cargo xtask torture [SECONDS] [SEED]` runs it for longer. The seed decides which faults
//! strike in which order, whom, and for how long, and what writers and clients do; how that
//! interleaves is the machine's doing, so a seed makes a failure likely again, not certain.
//!
//! The truth is what is in two tables. Each client must have seen exactly what it wants of
//! it, once, in the order of the stream, however often it and the hubs and the server were
//! cut off.

mod client;
mod fault;
mod verdict;
mod writer;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time, time::Instant};

use crate::harness::{TestDatabase, private_postgres, within};
use client::{Interest, TortureClient};
use fault::Stage;

const WRITERS: usize = 8;
const CLIENTS: usize = 24;
const MOST_HUBS: usize = 4;

/// Told to writers and clients when it is over.
#[derive(Clone, Debug, Default)]
struct Over(Arc<AtomicBool>);

impl Over {
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_repeated_or_reordered() {
    let seconds = setting("BELLWETHER_TORTURE_SECONDS").unwrap_or(40);
    let seed = setting("BELLWETHER_TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("torture: {seconds} s with seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let folder = tempfile::tempdir().unwrap();
    let server = private_postgres(folder.path()).await;
    let database = TestDatabase::of(&server);
    let addresses: Arc<[SocketAddr]> = free_addresses(MOST_HUBS).into();
    let hubs = random.usize(1..=MOST_HUBS);
    let mut stage = Stage::set(server, database.clone(), &addresses, hubs).await;

    let over = Over::default();
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let (database, over, random) = (database.clone(), over.clone(), random.fork());
        writers.spawn(writer::write(number, database, over, random));
    }
    let target = Arc::default();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (interest, random) = (Interest::of(number), random.fork());
        let hubs = Arc::clone(&addresses);
        let client = TortureClient::new(interest, hubs, random, Arc::clone(&target));
        clients.spawn(client.run());
    }

    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        time::sleep(Duration::from_millis(random.u64(50..400))).await;
        stage.strike(&mut random).await;
    }
    over.0.store(true, Ordering::Relaxed);
    let ledger = within("the writers", writers.join_all()).await;
    let table = stage.settle(&target).await;
    let seen = within("the clients", clients.join_all()).await;

    verdict::check(&table, &seen, &ledger.concat());
    let deliveries: usize = seen.iter().map(|client| client.events.len()).sum();
    let connections: usize = seen.iter().map(|client| client.connections).sum();
    println!(
        "torture: {} events to {CLIENTS} clients, {deliveries} deliveries over {connections} connections; \
         nothing lost, repeated or reordered",
        table.len()
    );
    stage.report();
    stage.strike_the_set().await;
}

/// Addresses that nobody has, so that a hub that comes back is where it was.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let taken: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    taken
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect()
}
