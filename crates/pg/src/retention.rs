//! Deleting what is old.

use std::time::Duration;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{Database, Error, Metrics, error::chain};

/// How often there is a look at what is old.
const INTERVAL: Duration = Duration::from_mins(1);

/// Most events deleted in one transaction, so that none is long.
const BATCH: i32 = 10_000;

/// Pause between two such transactions: the disk is not ours alone.
const PAUSE: Duration = Duration::from_millis(20);

/// How much of the stream is kept in the database.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Events older than this go. `None`: whatever their age, they stay.
    pub max_age: Option<Duration>,
    /// So many of the newest stay. `None`: however many there are.
    pub max_events: Option<u64>,
}

impl Retention {
    /// Deletes, now and then, until it is told to stop. Any number of instances may do so.
    pub async fn run(self, database: Database, metrics: Metrics, stop: CancellationToken) {
        if self.max_age.is_none() && self.max_events.is_none() {
            return;
        }
        let forever = async {
            loop {
                match self.delete(&database).await {
                    Ok(0) => {}
                    Ok(deleted) => {
                        metrics.deleted.inc_by(deleted);
                        tracing::info!(deleted, "deleted old events");
                    }
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "cannot delete old events");
                    }
                }
                time::sleep(INTERVAL).await;
            }
        };
        stop.run_until_cancelled(forever).await;
    }

    /// Deletes all that is due. Returns how many events that were.
    async fn delete(&self, database: &Database) -> Result<u64, Error> {
        let client = database.connect().await?;
        let max_age = self.max_age.map(|age| age.as_secs_f64());
        let max_events = self
            .max_events
            .map(|events| i64::try_from(events).unwrap_or(i64::MAX));
        let retain = "SELECT bellwether.retain(make_interval(secs => $1::float8), $2, $3)";
        let mut total = 0;
        loop {
            let row = client
                .query_one(retain, &[&max_age, &max_events, &BATCH])
                .await;
            let row = row.map_err(|error| Error::Query("delete old events", error))?;
            let deleted = row.get::<_, i64>(0).unsigned_abs();
            total += deleted;
            if deleted < u64::from(BATCH.unsigned_abs()) {
                return Ok(total);
            }
            time::sleep(PAUSE).await;
        }
    }
}
