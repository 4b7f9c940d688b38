//! Faults, and the stage they happen on.

use embedded::{Mode, Postgres};
use nix::sys::signal::{Signal, kill};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::{self, Instant};

use super::verdict::Table;
use crate::harness::{
    Client, Delivery, Hub, HubOptions, TestDatabase, connect, eventually, get, within,
};

/// What can happen.
const FAULTS: [Fault; 8] = [
    Fault::KillHub,
    Fault::TerminateHub,
    Fault::FreezeHub,
    Fault::CutListener,
    Fault::CutSequencer,
    Fault::CutAllHubs,
    Fault::RestartServer,
    Fault::CrashServer,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillHub,
    TerminateHub,
    FreezeHub,
    CutListener,
    CutSequencer,
    CutAllHubs,
    RestartServer,
    CrashServer,
}

/// The server, the hubs, and what the faults did to them.
#[derive(Debug)]
pub(super) struct Stage {
    server: Postgres,
    database: TestDatabase,
    hubs: Vec<Hub>,
    /// What is to happen next: all there is, in any order, and then again.
    deck: Vec<Fault>,
    /// From each fault to the first event inserted afterwards that is through.
    recoveries: BTreeMap<Fault, Vec<Duration>>,
    probes: u64,
}

impl Stage {
    pub(super) async fn set(
        server: Postgres,
        database: TestDatabase,
        addresses: Vec<SocketAddr>,
    ) -> Self {
        let mut hubs = Vec::new();
        for address in addresses {
            hubs.push(start(&database, address).await);
        }
        database.create_events_table().await;
        Self {
            server,
            database,
            hubs,
            deck: Vec::new(),
            recoveries: BTreeMap::new(),
            probes: 0,
        }
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.hubs.iter().map(|hub| hub.address).collect()
    }

    /// One fault, and the time until an event gets through again: to a client of a hub that
    /// was not struck, or of one that was, if all were.
    pub(super) async fn strike(&mut self, random: &mut fastrand::Rng) {
        if self.deck.is_empty() {
            self.deck = FAULTS.to_vec();
            random.shuffle(&mut self.deck);
        }
        let fault = self.deck.pop().expect("it was filled");
        let struck = random.usize(..self.hubs.len());
        let witness = self.hubs[(struck + 1) % self.hubs.len()].address;
        let watching = within("a witness", watch(witness)).await;
        // From here on the time counts, but for a server that is down: that is not ours.
        let mut began = Instant::now();
        match fault {
            Fault::KillHub => {
                let hub = self.hubs.remove(struck);
                let address = hub.address;
                hub.kill().await;
                let probed = self.probe(watching).await;
                self.note(fault, probed.duration_since(began));
                time::sleep(Duration::from_millis(random.u64(0..1000))).await;
                self.hubs.push(start(&self.database, address).await);
                return;
            }
            Fault::TerminateHub => {
                let mut hub = self.hubs.remove(struck);
                hub.terminate();
                let probed = self.probe(watching).await;
                self.note(fault, probed.duration_since(began));
                assert_eq!(hub.exit_code().await, Some(0));
                self.hubs.push(start(&self.database, hub.address).await);
                return;
            }
            Fault::FreezeHub => {
                let pid = self.hubs[struck].pid();
                kill(pid, Signal::SIGSTOP).unwrap();
                let probed = self.probe(watching).await;
                self.note(fault, probed.duration_since(began));
                time::sleep(Duration::from_millis(random.u64(0..1500))).await;
                kill(pid, Signal::SIGCONT).unwrap();
                return;
            }
            Fault::CutListener => {
                self.cut("query LIKE '%pg_listening_channels%' OR query LIKE 'LISTEN%'")
                    .await;
            }
            Fault::CutSequencer => self.cut("query LIKE '%bellwether.advance%'").await,
            Fault::CutAllHubs => self.cut("true").await,
            Fault::RestartServer | Fault::CrashServer => {
                let mode = if fault == Fault::CrashServer {
                    Mode::Immediate
                } else {
                    Mode::Fast
                };
                self.server.restart(mode).await.unwrap();
                began = Instant::now();
            }
        }
        let probed = self.probe(watching).await;
        self.note(fault, probed.duration_since(began));
    }

    /// Terminates backends of the hubs.
    async fn cut(&self, which: &str) {
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'bellwether' AND ({which})"
        );
        connect(&self.database.url)
            .await
            .batch_execute(&cut)
            .await
            .unwrap();
    }

    /// Inserts an event, and waits for the witness to see it.
    async fn probe(&mut self, mut witness: Client) -> Instant {
        self.probes += 1;
        let name = format!("probe{}", self.probes);
        let insert = "INSERT INTO events (name) VALUES ($1)";
        connect(&self.database.url)
            .await
            .execute(insert, &[&name])
            .await
            .unwrap();
        while witness.event().await.name != name {}
        Instant::now()
    }

    fn note(&mut self, fault: Fault, recovery: Duration) {
        self.recoveries.entry(fault).or_default().push(recovery);
    }

    /// Tells the clients where the stream ends, once it has; and returns all of it.
    pub(super) async fn settle(&mut self, target: &AtomicU64) -> Table {
        let psql = connect(&self.database.url).await;
        let open = async || -> i64 {
            let open =
                "SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM bellwether.stream)";
            psql.query_one(open, &[]).await.unwrap().get(0)
        };
        eventually("each committed row has its number, once", 0, open).await;
        let rows = psql
            .query(
                "SELECT stream.seq, event.name FROM bellwether.stream
                 JOIN bellwether.event ON event.id = stream.event_id ORDER BY stream.seq",
                &[],
            )
            .await
            .unwrap();
        let table: Table = rows
            .iter()
            .map(|row| (row.get::<_, i64>(0).unsigned_abs(), row.get(1)))
            .collect();
        target.store(table.len() as u64, Ordering::Relaxed);
        for hub in &self.hubs {
            eventually("it is ready again", 200, async || {
                get(hub.address, "/readyz").await.0
            })
            .await;
        }
        table
    }

    pub(super) fn report(&self) {
        println!(
            "{:<16}{:>6}{:>12}{:>12}",
            "fault", "times", "median", "worst"
        );
        let mut all = 0;
        for (fault, times) in &self.recoveries {
            let mut times = times.clone();
            times.sort();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            all += times.len();
            let name = format!("{fault:?}");
            println!(
                "{name:<16}{:>6}{:>9} ms{:>9} ms",
                times.len(),
                median.as_millis(),
                worst.as_millis()
            );
        }
        println!("{:<16}{all:>6}", "all");
    }

    pub(super) async fn strike_the_set(self) {
        drop(self.hubs);
        self.server.stop().await.unwrap();
    }
}

async fn start(database: &TestDatabase, address: SocketAddr) -> Hub {
    let args = [
        "--heartbeat",
        "300ms",
        "--retry",
        "100ms",
        "--ring-events",
        "2000",
    ];
    let options = HubOptions {
        listen: address.to_string(),
        is_quiet: true,
        ..HubOptions::args(&args)
    };
    Hub::spawn(&database.url, options)
        .await
        .expect("the hub comes back")
}

/// A client at the head of the stream.
async fn watch(hub: SocketAddr) -> Client {
    loop {
        let mut client = Client::connect(hub, "topic=events", None).await;
        // A time to come back, and then its cursor, unless there is no stream to be had.
        if client.next().await != Delivery::End && client.next().await != Delivery::End {
            return client;
        }
        // It has not found its way back from the fault before.
        time::sleep(Duration::from_millis(10)).await;
    }
}
