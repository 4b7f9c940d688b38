//! Clients: they come and go, and expect each number to follow the last.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time;

use crate::harness::{Client, Delivery};

/// No sign of life for so long, heartbeats included, and a client tries another hub.
const SILENCE: Duration = Duration::from_millis(1500);

/// What a client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    All,
    Events,
    Tenants,
    /// Seldom something, so that it is heartbeats that move the cursor.
    Tenant(u8),
}

#[derive(Debug)]
pub(super) struct TortureClient {
    hubs: Arc<[SocketAddr]>,
    random: fastrand::Rng,
    /// The last number there will be, once that is known; 0 before.
    target: Arc<AtomicU64>,
    cursor: String,
    seen: Seen,
}

/// What a client saw.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) interest: Interest,
    /// The events' numbers and names.
    pub(super) events: Vec<(u64, String)>,
    pub(super) connections: usize,
}

impl Interest {
    /// The half of clients that want everything sees holes at once.
    pub(super) fn of(client: usize) -> Self {
        match client % 6 {
            0 => Self::Events,
            1 => Self::Tenants,
            2 => Self::Tenant(u8::try_from(client / 6 % 4).expect("it is small")),
            _ => Self::All,
        }
    }

    fn query(self) -> String {
        match self {
            Self::All => "topic=%3E".to_owned(),
            Self::Events => "topic=events".to_owned(),
            Self::Tenants => "topic=tenant.*".to_owned(),
            Self::Tenant(tenant) => format!("topic=tenant.{tenant}"),
        }
    }

    pub(super) fn wants(self, topic: &str) -> bool {
        match self {
            Self::All => true,
            Self::Events => topic == "events",
            Self::Tenants => topic.starts_with("tenant."),
            Self::Tenant(tenant) => topic == format!("tenant.{tenant}"),
        }
    }
}

impl TortureClient {
    pub(super) fn new(
        interest: Interest,
        hubs: Arc<[SocketAddr]>,
        random: fastrand::Rng,
        target: Arc<AtomicU64>,
    ) -> Self {
        Self {
            hubs,
            random,
            target,
            cursor: String::new(),
            seen: Seen {
                interest,
                events: Vec::new(),
                connections: 0,
            },
        }
    }

    /// Follows until it has seen the target, or has been told that there is nothing up to it.
    pub(super) async fn run(mut self) -> Seen {
        while !self.is_done() {
            let hub = self.hubs[self.random.usize(..self.hubs.len())];
            // The first time from the beginning, afterwards from where it was.
            let mut query = self.seen.interest.query();
            let mut cursor = Some(self.cursor.as_str());
            if self.cursor.is_empty() {
                query.push_str("&last=10000");
                cursor = None;
            }
            let connect = Client::try_connect(hub, &query, cursor);
            if let Ok(Ok(client)) = time::timeout(SILENCE, connect).await {
                self.seen.connections += 1;
                self.follow(client).await;
            }
            time::sleep(Duration::from_millis(self.random.u64(1..100))).await;
        }
        self.seen
    }

    async fn follow(&mut self, mut client: Client) {
        // Some stay, some go after a few events, some read nothing for a while: for less than
        // a hub's patience, or for so long that it closes them.
        let stays = self.random.u8(0..4) == 0;
        let mut patience = if stays {
            usize::MAX
        } else {
            self.random.usize(0..2000)
        };
        while patience > 0 && !self.is_done() {
            match time::timeout(SILENCE, client.next()).await {
                Ok(Delivery::Event(event)) => {
                    assert_ne!(event.name, "gap", "{}", event.data);
                    if event.name != "heartbeat" {
                        self.note(&event);
                        patience -= 1;
                    }
                    client.cursor().clone_into(&mut self.cursor);
                }
                Ok(Delivery::Retry(_)) => {}
                Ok(Delivery::End) | Err(_) => break,
            }
            match self.random.u16(0..10_000) {
                0 | 1 => time::sleep(Duration::from_millis(self.random.u64(0..1000))).await,
                2 => time::sleep(Duration::from_secs(3)).await,
                _ => {}
            }
        }
    }

    fn note(&mut self, event: &sse::Message) {
        let seq = seq(&event.id);
        let last = self.seen.events.last().map_or(0, |(seq, _)| *seq);
        let follows = match self.seen.interest {
            Interest::All => seq == last + 1,
            _ => seq > last,
        };
        assert!(follows, "neither hole nor double: {seq} after {last}");
        let its_own = format!("\"name\":\"{}\"", event.name);
        assert!(event.data.contains(&its_own), "{its_own}: {}", event.data);
        self.seen.events.push((seq, event.name.clone()));
    }

    fn is_done(&self) -> bool {
        let target = self.target.load(Ordering::Relaxed);
        target > 0 && !self.cursor.is_empty() && seq(&self.cursor) >= target
    }
}

fn seq(cursor: &str) -> u64 {
    cursor.split_once('-').unwrap().1.parse().unwrap()
}
