//! From the database to the hub.

use hub::{Epoch, Event, Frame, Hub};
use pg::{Feed, Update};

use crate::frame;

/// Publishes what the feed brings, for ever. Each event is encoded here, once.
pub async fn ingest(mut feed: Feed, hub: &Hub) {
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
            Update::Grown { epoch, events } => hub.publish(frames(epoch, events)),
        }
    }
}

fn frames(epoch: Epoch, events: Vec<Event>) -> Vec<Frame> {
    let encode = |event| frame::encode(epoch, event);
    events.into_iter().map(encode).collect()
}
