//! The stream as it stands in the tables.

use deadpool_postgres::Pool;
use hub::{Event, Topic};
use std::time::SystemTime;
use tokio_postgres::{Client, Row};

use crate::{Database, Error};

/// Connections that read history at the same time, however many clients come back.
const POOL_SIZE: usize = 4;

/// Most events in one page.
pub(crate) const PAGE_EVENTS: i64 = 1000;

/// Bytes of data at which a page ends early, after at least one event.
const PAGE_BYTES: i64 = 1024 * 1024;

/// What follows a position, oldest first.
pub(crate) const AFTER: &str = "
    SELECT seq, topic, name, key, data, at
    FROM (
        SELECT stream.seq, event.topic, event.name, event.key, event.data::text AS data, event.at,
            sum(octet_length(event.data::text)) OVER (ORDER BY stream.seq ROWS UNBOUNDED PRECEDING)
                - octet_length(event.data::text) AS bytes_before
        FROM bellwether.stream JOIN bellwether.event ON event.id = stream.event_id
        WHERE stream.seq > $1 ORDER BY stream.seq LIMIT $2
    ) AS page
    WHERE bytes_before < $3";

/// Topics before a position, newest first.
const TOPICS_BEFORE: &str = "
    SELECT stream.seq, event.topic
    FROM bellwether.stream JOIN bellwether.event ON event.id = stream.event_id
    WHERE stream.seq <= $1 ORDER BY stream.seq DESC LIMIT $2";

/// The oldest event that still exists.
const OLDEST: &str = "SELECT seq FROM bellwether.stream ORDER BY seq LIMIT 1";

/// The head. It outlives the events, so it is read from the batches.
const NEWEST: &str = "SELECT last_seq FROM bellwether.batch ORDER BY last_seq DESC LIMIT 1";

/// Reads the stream for clients whose cursors are from before the ring.
#[derive(Clone, Debug)]
pub struct History {
    pool: Pool,
}

impl History {
    /// Connects when first asked.
    pub fn new(database: &Database) -> Self {
        Self {
            pool: database.pool(POOL_SIZE),
        }
    }

    /// A page of what follows a position, in the stream's order and without holes. The first
    /// event is the next one, unless that is gone. Empty if there is nothing.
    pub async fn after(&self, seq: u64) -> Result<Vec<Event>, Error> {
        let client = self.pool.get().await.map_err(Error::Pool)?;
        let query = client.prepare_cached(AFTER).await.map_err(failed)?;
        read_after(&client, &query, seq).await
    }

    /// Number of the oldest event that still exists; `None` if there is none.
    pub async fn oldest(&self) -> Result<Option<u64>, Error> {
        let client = self.pool.get().await.map_err(Error::Pool)?;
        let query = client.prepare_cached(OLDEST).await.map_err(failed)?;
        let row = client.query_opt(&query, &[]).await.map_err(failed)?;
        row.map(|row| number(&row, 0)).transpose()
    }

    /// Number of the newest event.
    pub async fn newest(&self) -> Result<u64, Error> {
        let client = self.pool.get().await.map_err(Error::Pool)?;
        let query = client.prepare_cached(NEWEST).await.map_err(failed)?;
        let row = client.query_one(&query, &[]).await.map_err(failed)?;
        number(&row, 0)
    }

    /// The topics of up to `limit` events at or before a position, newest first.
    pub async fn topics_before(&self, seq: u64, limit: u32) -> Result<Vec<(u64, Topic)>, Error> {
        let client = self.pool.get().await.map_err(Error::Pool)?;
        let query = client.prepare_cached(TOPICS_BEFORE).await.map_err(failed)?;
        let rows = client
            .query(&query, &[&position(seq), &i64::from(limit)])
            .await
            .map_err(failed)?;
        rows.iter()
            .map(|row| Ok((number(row, 0)?, topic(row.get(1)))))
            .collect()
    }
}

/// A page of what follows a position, by [`AFTER`].
pub(crate) async fn read_after(
    client: &Client,
    query: &tokio_postgres::Statement,
    seq: u64,
) -> Result<Vec<Event>, Error> {
    let rows = client
        .query(query, &[&position(seq), &PAGE_EVENTS, &PAGE_BYTES])
        .await
        .map_err(failed)?;
    let events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    // One commit can hold a million events and a page ends anywhere, but never with a hole.
    if events.windows(2).any(|pair| pair[1].seq != pair[0].seq + 1) {
        return Err(Error::Decode(format!("the stream has a hole after {seq}")));
    }
    Ok(events)
}

fn event(row: &Row) -> Result<Event, Error> {
    Ok(Event {
        seq: number(row, 0)?,
        topic: topic(row.get(1)),
        name: row.get(2),
        key: row.get(3),
        data: row.get(4),
        at: row.try_get(5).unwrap_or(SystemTime::UNIX_EPOCH), // infinity has no other form
    })
}

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap_or_else(|_| Topic::mend(text))
}

fn number(row: &Row, column: usize) -> Result<u64, Error> {
    let number: i64 = row.get(column);
    u64::try_from(number).map_err(|_| Error::Decode(format!("{number} is no place in the stream")))
}

/// A client may name any number; beyond the largest there is nothing.
fn position(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::Query("read history", error)
}
