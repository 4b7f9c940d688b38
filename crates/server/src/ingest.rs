//! From the database to the hub.

use hub::{Epoch, Event, Frame};
use pg::{Feed, Update};

use crate::{App, frame};

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
                let (count, newest) = (events.len(), events.last().map(|event| event.at));
                hub.publish(frames(epoch, events));
                if let Some(at) = newest {
                    metrics.published(count, at);
                }
            }
        }
    }
}

fn frames(epoch: Epoch, events: Vec<Event>) -> Vec<Frame> {
    let encode = |event| frame::encode(epoch, event);
    events.into_iter().map(encode).collect()
}
