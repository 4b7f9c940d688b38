//! From the database to the hub.

use bytes::BytesMut;
use hub::{Cursor, Epoch, Event, Frame, Hub};
use pg::{Feed, Update};

/// Publishes what the feed brings, for ever. Each event is encoded here, once.
pub async fn ingest(mut feed: Feed, hub: &Hub) {
    loop {
        match feed.next().await {
            Update::Opened {
                epoch,
                ancestors,
                head,
                recent,
            } => {
                hub.open(epoch, ancestors, head, frames(epoch, recent));
            }
            Update::Grown { epoch, events } => hub.publish(frames(epoch, events)),
        }
    }
}

/// Appends an event to a buffer as it goes over the wire.
pub fn encode(epoch: Epoch, event: &Event, out: &mut BytesMut) {
    let id = Cursor {
        epoch,
        seq: event.seq,
    }
    .to_string();
    let event = sse::Event {
        id: Some(&id),
        name: Some(&event.name),
        data: &event.data,
    };
    event.encode(out);
}

fn frames(epoch: Epoch, events: Vec<Event>) -> Vec<Frame> {
    let frame = |event: Event| {
        let mut bytes = BytesMut::new();
        encode(epoch, &event, &mut bytes);
        Frame {
            seq: event.seq,
            topic: event.topic,
            bytes: bytes.freeze(),
        }
    };
    events.into_iter().map(frame).collect()
}
