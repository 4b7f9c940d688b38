//! From the database to the hub.

use hub::{Epoch, Event, Frame};
use pg::{Feed, Update};

use tokio::task;

use crate::{App, frame};

/// Events that are published at once. What a lane is sent of them is one run of bytes, and a slow client
/// may hold on to it; and while they are taken in, nobody reads the ring.
const AT_ONCE: usize = 1000;

/// Publishes what the feed brings, for ever. Each event is encoded here, once.
pub async fn ingest(mut feed: Feed, app: &App) {
    let App { hub, metrics, .. } = app;
    loop {
        match feed.next().await {
            Update::Opened {
                epoch,
                ancestors,
                head,
                recent,
                states,
            } => {
                let (recent, states) = (frames(epoch, recent), frames(epoch, states));
                hub.open(epoch, ancestors, head, recent, states);
            }
            Update::Grown { epoch, events } => {
                let mut events = events.into_iter().map(|event| frame::encode(epoch, event));
                while events.len() > 0 {
                    let some: Vec<Frame> = events.by_ref().take(AT_ONCE).collect();
                    let (count, newest) = (some.len(), some.last().map(|frame| frame.at));
                    hub.publish(some);
                    if let Some(at) = newest {
                        metrics.published(count, at);
                    }
                    if events.len() > 0 {
                        // Clients get theirs, before there is more.
                        task::yield_now().await;
                    }
                }
            }
        }
    }
}

fn frames(epoch: Epoch, events: Vec<Event>) -> Vec<Frame> {
    let encode = |event| frame::encode(epoch, event);
    events.into_iter().map(encode).collect()
}
