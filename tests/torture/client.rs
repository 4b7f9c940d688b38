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
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The names of the events with the numbers 1, 2, 3, …
    pub(super) events: Vec<String>,
    pub(super) connections: usize,
}

impl TortureClient {
    pub(super) fn new(
        hubs: Arc<[SocketAddr]>,
        random: fastrand::Rng,
        target: Arc<AtomicU64>,
    ) -> Self {
        Self {
            hubs,
            random,
            target,
            cursor: String::new(),
            seen: Seen::default(),
        }
    }

    /// Follows until it has seen the target.
    pub(super) async fn run(mut self) -> Seen {
        while !self.is_done() {
            let hub = self.hubs[self.random.usize(..self.hubs.len())];
            // The first time from the beginning, afterwards from where it was.
            let (query, cursor) = match self.cursor.as_str() {
                "" => ("topic=events&last=10000", None),
                cursor => ("topic=events", Some(cursor)),
            };
            let connect = Client::try_connect(hub, query, cursor);
            if let Ok(Ok(client)) = time::timeout(SILENCE, connect).await {
                self.seen.connections += 1;
                self.follow(client).await;
            }
            time::sleep(Duration::from_millis(self.random.u64(1..100))).await;
        }
        self.seen
    }

    async fn follow(&mut self, mut client: Client) {
        // Some stay, some go after a few events, some read slowly for a while.
        let stays = self.random.u8(0..4) == 0;
        let mut patience = if stays {
            usize::MAX
        } else {
            self.random.usize(0..2000)
        };
        while patience > 0 && !self.is_done() {
            match time::timeout(SILENCE, client.next()).await {
                Ok(Delivery::Event(event)) if event.name == "heartbeat" => {}
                Ok(Delivery::Event(event)) => {
                    assert_ne!(event.name, "gap", "{}", event.data);
                    let (_, seq) = event.id.split_once('-').unwrap();
                    let expected = self.seen.events.len() + 1;
                    assert_eq!(
                        seq,
                        expected.to_string(),
                        "neither hole nor double: {}",
                        event.name
                    );
                    self.seen.events.push(event.name);
                    patience -= 1;
                }
                Ok(Delivery::Retry(_)) => {}
                Ok(Delivery::End) | Err(_) => break,
            }
            if self.random.u16(0..5000) == 0 {
                time::sleep(Duration::from_millis(self.random.u64(0..1000))).await;
            }
        }
        client.cursor().clone_into(&mut self.cursor);
    }

    fn is_done(&self) -> bool {
        let target = self.target.load(Ordering::Relaxed);
        target > 0 && self.seen.events.len() as u64 >= target
    }
}
