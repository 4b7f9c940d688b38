//! The stream as it stands in the tables.

use deadpool_postgres::{Object, Pool};
use hub::{Epoch, Event, Topic};
use std::sync::Arc;
use tokio_postgres::{Row, types::ToSql};
use tracing::{Instrument, field::Empty};

use crate::{
    Database, Error, Metrics, SPANS, counted, limit,
    page::{AFTER, Pager, number, position, topic},
};

/// What a query here is for.
const READ: &str = "read history";

/// Topics and names before a position, newest first.
const TOPICS_BEFORE: &str = "
    SELECT seq, topic, name FROM bellwether.stretch($1::bigint - $2, $1) ORDER BY seq DESC";

/// The epoch, as of now.
const EPOCH: &str = "SELECT id FROM bellwether.epoch ORDER BY n DESC LIMIT 1";

/// The oldest event that still exists.
const OLDEST: &str = "SELECT first_seq FROM bellwether.stream ORDER BY last_seq LIMIT 1";

/// The head. It outlives the events, so it is read from the batches.
const NEWEST: &str = "SELECT last_seq FROM bellwether.batch ORDER BY last_seq DESC LIMIT 1";

/// Reads the stream for clients whose cursors are from before the ring.
#[derive(Clone, Debug)]
pub struct History {
    pool: Pool,
    pager: Arc<Pager>,
}

impl History {
    /// Most connections to the database at the same time, however many clients come back.
    pub const CONNECTIONS: usize = 4;

    /// Connects when first asked.
    pub fn new(database: &Database, metrics: &Metrics) -> Self {
        let pool = database.pool(Self::CONNECTIONS);
        metrics.watch_pool("history", &pool);
        Self {
            pool,
            pager: Arc::default(),
        }
    }

    /// Up to so many events that follow a position, in the stream's order and without holes;
    /// fewer if they are large. The first is the next one, unless that is gone. Empty if there
    /// is nothing.
    ///
    /// # Errors
    /// Also if the epoch is over: its numbers may have been given again.
    pub async fn page(&self, epoch: Epoch, seq: u64, at_most: u64) -> Result<Vec<Event>, Error> {
        let after = counted(seq);
        let span = tracing::trace_span!(target: SPANS, "history page", after, events = Empty);
        let (events, newest) = self
            .ask(async |client| {
                let after = client.prepare_cached(AFTER).await?;
                let newest_epoch = client.prepare_cached(EPOCH).await?;
                // The epoch last: if it is still this one, so it was when the page was read.
                tokio::try_join!(
                    self.pager.read(client, &after, seq, at_most),
                    client.query_one(&newest_epoch, &[]),
                )
            })
            .instrument(span.clone())
            .await?;
        if newest.get::<_, &str>(0) != epoch.to_string() {
            return Err(Error::EpochEnded(epoch));
        }
        let events = events?;
        span.record("events", counted(events.len()));
        Ok(events)
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
