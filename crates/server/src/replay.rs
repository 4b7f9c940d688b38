//! Replay from before the ring.

use bytes::{Bytes, BytesMut};
use hub::{Cursor, Filter};

use crate::{control::Gap, ingest::encode};

/// What a page of history comes to for one client.
#[derive(Debug)]
pub(crate) struct Piece {
    /// What is to be sent, maybe nothing.
    pub(crate) bytes: Bytes,
    /// The position after it.
    pub(crate) to: u64,
}

/// Reads on after a position. What retention has taken is told by a gap.
///
/// `floor` is where the ring takes over, should there be nothing left before it.
pub(crate) async fn read(
    history: pg::History,
    filter: Filter,
    from: Cursor,
    floor: u64,
) -> Result<Piece, pg::Error> {
    let events = history.after(from.seq).await?;
    let mut bytes = BytesMut::new();

    let resumes_after = events.first().map_or(floor, |event| event.seq - 1);
    if resumes_after > from.seq {
        let to = Cursor {
            seq: resumes_after,
            ..from
        };
        let missing = Some(resumes_after - from.seq);
        Gap {
            reason: "retention",
            from: from.to_string(),
            to,
            missing,
        }
        .encode(&mut bytes);
    }
    let to = events.last().map_or(resumes_after, |event| event.seq);
    for event in events.iter().filter(|event| filter.matches(&event.topic)) {
        encode(from.epoch, event, &mut bytes);
    }
    Ok(Piece {
        bytes: bytes.freeze(),
        to,
    })
}
