//! The stream as it stands in the tables.

use deadpool_postgres::{Object, Pool};
use hub::{Epoch, Event, Retain, Topic};
use std::time::SystemTime;
use tokio_postgres::{Client, Row, Statement, types::ToSql};
use tracing::{Instrument, field::Empty};

use crate::{
    Database, Error, Metrics, SPANS, counted,
    limit::{self, within},
};

/// Most events that a feed reads at once.
pub(crate) const PAGE_EVENTS: u64 = 1000;

/// Bytes of data at which a page ends early, after at least one event.
const PAGE_BYTES: i64 = 1024 * 1024;

/// What a query here is for.
const READ: &str = "read history";

/// What follows a position, oldest first. Large data are stored apart and compressed, and what
/// they come to in that form is known without unpacking them: far too many never are.
pub(crate) const AFTER: &str = "
    SELECT seq, topic, name, key, data, at, retain
    FROM (
        SELECT *, sum(octet_length(data)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING)
            - octet_length(data) AS bytes_before
        FROM (
            SELECT seq, topic, name, key, data::text AS data, at, retain
            FROM (
                SELECT stream.seq, event.*,
                    sum(pg_column_size(event.data)) OVER (ORDER BY stream.seq ROWS UNBOUNDED PRECEDING)
                        - pg_column_size(event.data) AS stored_before
                FROM bellwether.stream JOIN bellwether.event ON event.id = stream.event_id
                WHERE stream.seq > $1 ORDER BY stream.seq LIMIT $2
            ) AS stored
            WHERE stored_before < $3 OFFSET 0
        ) AS unpacked
    ) AS page
    WHERE bytes_before < $3";

/// Topics and names before a position, newest first.
const TOPICS_BEFORE: &str = "
    SELECT stream.seq, event.topic, event.name
    FROM bellwether.stream JOIN bellwether.event ON event.id = stream.event_id
    WHERE stream.seq <= $1 ORDER BY stream.seq DESC LIMIT $2";

/// The epoch, as of now.
const EPOCH: &str = "SELECT id FROM bellwether.epoch ORDER BY n DESC LIMIT 1";

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
    /// Most connections to the database at the same time, however many clients come back.
    pub const CONNECTIONS: usize = 4;

    /// Connects when first asked.
    pub fn new(database: &Database, metrics: &Metrics) -> Self {
        let pool = database.pool(Self::CONNECTIONS);
        metrics.watch_pool("history", &pool);
        Self { pool }
    }

    /// Up to so many events that follow a position, in the stream's order and without holes;
    /// fewer if they are large. The first is the next one, unless that is gone. Empty if there
    /// is nothing.
    ///
    /// # Errors
    /// Also if the epoch is over: its numbers may have been given again.
    pub async fn page(&self, epoch: Epoch, seq: u64, at_most: u64) -> Result<Vec<Event>, Error> {
        let (seq, at_most) = (position(seq), position(at_most));
        let span = tracing::trace_span!(target: SPANS, "history page", after = seq, events = Empty);
        let (rows, newest) = self
            .ask(async |client| {
                let after = client.prepare_cached(AFTER).await?;
                let newest_epoch = client.prepare_cached(EPOCH).await?;
                // The epoch last: if it is still this one, so it was when the page was read.
                let page: [&(dyn ToSql + Sync); 3] = [&seq, &at_most, &PAGE_BYTES];
                tokio::try_join!(
                    client.query(&after, &page),
                    client.query_one(&newest_epoch, &[]),
                )
            })
            .instrument(span.clone())
            .await?;
        span.record("events", counted(rows.len()));
        if newest.get::<_, &str>(0) != epoch.to_string() {
            return Err(Error::EpochEnded(epoch));
        }
        page(&rows)
    }

    /// Number of the oldest event that still exists; `None` if there is none.
    pub async fn oldest(&self) -> Result<Option<u64>, Error> {
        let rows = self.query(OLDEST, &[]).await?;
        rows.first().map(|row| number(row, 0)).transpose()
    }

    /// Number of the newest event.
    pub async fn newest(&self) -> Result<u64, Error> {
        let rows = self.query(NEWEST, &[]).await?;
        let newest = rows.first().map(|row| number(row, 0));
        newest.unwrap_or_else(|| Err(Error::Decode("there is no head".to_owned())))
    }

    /// The topics and names of up to `limit` events at or before a position, newest first.
    pub async fn topics_before(
        &self,
        seq: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Topic, String)>, Error> {
        let rows = self
            .query(TOPICS_BEFORE, &[&position(seq), &i64::from(limit)])
            .await?;
        rows.iter()
            .map(|row| Ok((number(row, 0)?, topic(row.get(1)), row.get(2))))
            .collect()
    }

    async fn query(&self, query: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.ask(async |client| {
            let query = client.prepare_cached(query).await?;
            client.query(&query, params).await
        })
        .instrument(tracing::trace_span!(target: SPANS, "history query"))
        .await
    }

    async fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        limit::ask(&self.pool, READ, ask).await
    }
}

/// Up to so many events that follow a position, by [`AFTER`].
pub(crate) async fn page_after(
    client: &Client,
    query: &Statement,
    seq: u64,
    at_most: u64,
) -> Result<Vec<Event>, Error> {
    let (seq, at_most) = (position(seq), position(at_most));
    let params: [&(dyn ToSql + Sync); 3] = [&seq, &at_most, &PAGE_BYTES];
    page(&within(READ, client.query(query, &params)).await?)
}

fn page(rows: &[Row]) -> Result<Vec<Event>, Error> {
    let events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    // One commit can hold a million events and a page ends anywhere, but never with a hole.
    match events
        .windows(2)
        .find(|pair| pair[1].seq != pair[0].seq + 1)
    {
        Some(pair) => Err(Error::Decode(format!(
            "the stream has a hole after {}",
            pair[0].seq
        ))),
        None => Ok(events),
    }
}

pub(crate) fn event(row: &Row) -> Result<Event, Error> {
    Ok(Event {
        seq: number(row, 0)?,
        topic: topic(row.get(1)),
        name: row.get(2),
        key: row.get(3),
        data: row.get(4),
        at: row.try_get(5).unwrap_or(SystemTime::UNIX_EPOCH), // infinity has no other form
        retain: match row.get(6) {
            None => Retain::No,
            Some(true) => Retain::Set,
            Some(false) => Retain::Clear,
        },
    })
}

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap_or_else(|_| Topic::mend(text))
}

fn number(row: &Row, column: usize) -> Result<u64, Error> {
    let number: i64 = row.get(column);
    u64::try_from(number).map_err(|_| Error::Decode(format!("{number} is no place in the stream")))
}

/// As Postgres has it. A client may name any number; beyond the largest there is nothing.
fn position(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
