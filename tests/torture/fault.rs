//! Faults, and the stage they happen on.

use embedded::{Mode, Postgres};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::{self, Instant};

use super::{verdict::Table, writer::TENANTS};
use crate::harness::{
    Client, Delivery, Hub, HubOptions, TestDatabase, connect, eventually, get, within,
};

/// What can happen.
const FAULTS: [Fault; 12] = [
    Fault::KillHub,
    Fault::TerminateHub,
    Fault::FreezeHub,
    Fault::AddHub,
    Fault::RemoveHub,
    Fault::CutListener,
    Fault::CutSequencer,
    Fault::CutAllHubs,
    Fault::FreezeListener,
    Fault::FreezeSequencer,
    Fault::RestartServer,
    Fault::CrashServer,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillHub,
    TerminateHub,
    FreezeHub,
    AddHub,
    RemoveHub,
    CutListener,
    CutSequencer,
    CutAllHubs,
    /// The server's side of a connection stops to answer, which stays open.
    FreezeListener,
    FreezeSequencer,
    RestartServer,
    CrashServer,
}

/// Which of the server's sessions with hubs are meant.
const LISTENERS: &str = "query LIKE '%pg_listening_channels%' OR query LIKE '%LISTEN%'";
const SEQUENCERS: &str = "query LIKE '%bellwether.look%'";

/// The server, the hubs, and what the faults did to them.
#[derive(Debug)]
pub(super) struct Stage {
    server: Postgres,
    database: TestDatabase,
    hubs: Vec<Hub>,
    /// Where no hub is at the moment.
    vacant: Vec<SocketAddr>,
    /// What is to happen next: all there is, in any order, and then again.
    deck: Vec<Fault>,
    /// From each fault to the first event inserted afterwards that is through.
    recoveries: BTreeMap<Fault, Vec<Duration>>,
    probes: u64,
}

impl Stage {
    /// So many hubs to begin with, on the first of these addresses.
    pub(super) async fn set(
        server: Postgres,
        database: TestDatabase,
        addresses: &[SocketAddr],
        hubs: usize,
    ) -> Self {
        let (taken, vacant) = addresses.split_at(hubs);
        let mut hubs = Vec::new();
        for &address in taken {
            hubs.push(start(&database, address).await);
        }
        database.create_events_table().await;
        let psql = connect(&database.url).await;
        psql.batch_execute(TENANTS).await.unwrap();
        Self {
            server,
            database,
            hubs,
            vacant: vacant.to_vec(),
            deck: Vec::new(),
            recoveries: BTreeMap::new(),
            probes: 0,
        }
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
        let pause = Duration::from_millis(random.u64(0..1500));
        let witness = self.hubs[(struck + 1) % self.hubs.len()].address;
        // The only hub takes its clients with it: they wait until it is back.
        let is_alone = self.hubs.len() == 1;
        let watching = within("a witness", watch(witness)).await;
        // From here on the time counts, but for a server that is down: that is not ours.
        let mut began = Instant::now();
        match fault {
            Fault::RemoveHub if is_alone => return,
            Fault::KillHub | Fault::TerminateHub | Fault::RemoveHub => {
                let mut hub = self.hubs.remove(struck);
                let is_killed = fault == Fault::KillHub;
                if is_killed {
                    kill(hub.pid(), Signal::SIGKILL).unwrap();
                } else {
                    hub.terminate();
                }
                if !is_alone {
                    self.recover(fault, watching, began).await;
                }
                let code = if is_killed { None } else { Some(0) };
                assert_eq!(hub.exit_code().await, code);
                if fault == Fault::RemoveHub {
                    self.vacant.push(hub.address);
                    return;
                }
                if is_killed {
                    time::sleep(pause).await;
                }
                self.hubs.push(start(&self.database, hub.address).await);
                return;
            }
            Fault::FreezeHub => {
                let pid = self.hubs[struck].pid();
                kill(pid, Signal::SIGSTOP).unwrap();
                if !is_alone {
                    self.recover(fault, watching, began).await;
                }
                time::sleep(pause).await;
                kill(pid, Signal::SIGCONT).unwrap();
                return;
            }
            Fault::FreezeListener | Fault::FreezeSequencer => {
                let which = if fault == Fault::FreezeListener {
                    LISTENERS
                } else {
                    SEQUENCERS
                };
                let sessions = self.sessions(which).await;
                if sessions.is_empty() {
                    return; // all of them are on their way back from another fault
                }
                let pid = sessions[struck % sessions.len()];
                // One that has ended by now needs no freezing.
                let send = |signal| kill(pid, signal).ok();
                send(Signal::SIGSTOP);
                let thaw = async {
                    time::sleep(pause).await;
                    send(Signal::SIGCONT);
                };
                // At the same time: it may hold what even the probe waits for.
                tokio::join!(thaw, self.recover(fault, watching, began));
                return;
            }
            Fault::AddHub => {
                let Some(address) = self.vacant.pop() else {
                    return;
                };
                self.hubs.push(start(&self.database, address).await);
                began = Instant::now();
            }
            Fault::CutListener => self.cut(LISTENERS).await,
            Fault::CutSequencer => self.cut(SEQUENCERS).await,
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
        self.recover(fault, watching, began).await;
    }

    /// Inserts an event, waits for the witness to see it, and notes how long that took.
    async fn recover(&mut self, fault: Fault, witness: Client, began: Instant) {
        let probed = self.probe(witness).await;
        let times = self.recoveries.entry(fault).or_default();
        times.push(probed.duration_since(began));
    }

    /// The server's processes for these sessions.
    async fn sessions(&self, which: &str) -> Vec<Pid> {
        let sessions = format!(
            "SELECT pid FROM pg_stat_activity
             WHERE application_name = 'bellwether' AND ({which}) ORDER BY pid"
        );
        let psql = connect(&self.database.url).await;
        let rows = psql.query(&sessions, &[]).await.unwrap();
        rows.iter().map(|row| Pid::from_raw(row.get(0))).collect()
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

    /// Tells the clients where the stream ends, once it has; and returns all of it.
    pub(super) async fn settle(&mut self, target: &AtomicU64) -> Table {
        let psql = connect(&self.database.url).await;
        // What a writer prepared when a fault struck, and had no time to come back to.
        let prepared = psql.query("SELECT gid FROM pg_prepared_xacts", &[]).await;
        for row in prepared.unwrap() {
            let commit = format!("COMMIT PREPARED '{}'", row.get::<_, &str>(0));
            psql.batch_execute(&commit).await.unwrap();
        }
        let open = async || -> i64 {
            let open = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM tenants)
                - (SELECT coalesce(sum(last_seq - first_seq + 1), 0)::bigint FROM bellwether.stream)";
            psql.query_one(open, &[]).await.unwrap().get(0)
        };
        eventually("each committed row has its number, once", 0, open).await;
        let rows = psql
            .query(
                "SELECT seq, topic, name FROM bellwether.stretch(0, 1000000000) ORDER BY seq",
                &[],
            )
            .await
            .unwrap();
        let table: Table = rows
            .iter()
            .map(|row| (row.get::<_, i64>(0).unsigned_abs(), row.get(1), row.get(2)))
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
        "--stall-timeout",
        "2s",
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
