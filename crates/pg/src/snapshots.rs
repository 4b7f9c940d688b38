//! Snapshots: a query that is run every so often, and its row published as a topic's state.

use hub::Topic;
use std::time::Duration;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_postgres::{Client, SimpleQueryMessage, types::ToSql};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{Database, Error, Metrics, SPANS, error::chain, limit::within};

/// Longest that a query may take, or as long as its interval if that is shorter.
const MAX_TIME: Duration = Duration::from_secs(30);

/// A named query.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What its events are called, and by which instances agree who takes it.
    pub name: String,
    /// How often.
    pub every: Duration,
    /// A `SELECT` of one row.
    pub sql: String,
    /// Where its row is published, as the topic's state.
    pub topic: Topic,
}

impl Snapshot {
    /// Takes it again and again until told to stop. Of several instances, one does each time.
    ///
    /// A query that fails is published as the event `<name>.error`, which leaves the state as
    /// it was, and counted.
    pub async fn run(self, database: Database, metrics: Metrics, stop: CancellationToken) {
        // Not all at once, and not all instances in step.
        let first = Instant::now() + self.every.mul_f64(fastrand::f64());
        let mut ticks = time::interval_at(first, self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut client = None;
        let forever = async {
            loop {
                match self.take(&database, &mut client).await {
                    Ok(taken) => {
                        metrics.snapshots.inc_by(taken.into());
                    }
                    Err(error) => {
                        client = None;
                        metrics.snapshot_errors.inc();
                        tracing::warn!(snapshot = self.name, error = %chain(&error), "cannot take a snapshot");
                    }
                }
                ticks.tick().await;
            }
        };
        stop.run_until_cancelled(forever).await;
    }

    /// Takes it if it is this hub's turn; returns whether it was.
    async fn take(&self, database: &Database, client: &mut Option<Client>) -> Result<bool, Error> {
        let client = match client {
            Some(client) => client,
            none => none.insert(self.connect(database).await?),
        };
        let claim = "SELECT bellwether.claim_snapshot($1, make_interval(secs => $2))";
        let every = self.every.as_secs_f64();
        let of: [&(dyn ToSql + Sync); 2] = [&self.name, &every];
        let claimed = within("claim a snapshot", client.query_one(claim, &of));
        if !claimed.await?.get::<_, bool>(0) {
            return Ok(false);
        }
        let span = tracing::trace_span!(target: SPANS, "snapshot", name = self.name);
        self.carry_out(client).instrument(span).await?;
        Ok(true)
    }

    /// Runs the query, and publishes its row or why there is none.
    async fn carry_out(&self, client: &Client) -> Result<(), Error> {
        match self.query(client).await {
            Ok(row) => self.publish(client, &self.name, &row, true).await,
            Err(error) => {
                let story = serde_json::json!({"error": chain(&error)}).to_string();
                let name = format!("{}.error", self.name);
                self.publish(client, &name, &story, false).await?;
                Err(error)
            }
        }
    }

    /// Ours have settings that suit our own queries; this one is the user's.
    async fn connect(&self, database: &Database) -> Result<Client, Error> {
        let client = database.connect().await?;
        let limit = self.every.min(MAX_TIME).as_millis();
        let reset = format!("RESET ALL; SET statement_timeout = {limit}");
        within("set up a session", client.batch_execute(&reset)).await?;
        Ok(client)
    }

    /// The row, as JSON. What the query may do is read.
    async fn query(&self, client: &Client) -> Result<String, Error> {
        let failed = |error| Error::Query("run the snapshot's query", error);
        let sql = self.sql.trim().trim_end_matches(';');
        let query = format!(
            "BEGIN READ ONLY; SELECT row_to_json(snapshot)::text FROM (\n{sql}\n) AS snapshot LIMIT 2; COMMIT"
        );
        let answers = client.simple_query(&query).await;
        if answers.is_err() {
            client.batch_execute("ROLLBACK").await.map_err(failed)?;
        }
        let answers = answers.map_err(failed)?;
        let rows = answers.iter().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        match rows.collect::<Vec<_>>().as_slice() {
            [row] => Ok((*row).to_owned()),
            [] => Err(Error::Decode(
                "the snapshot's query returned no row".to_owned(),
            )),
            _ => Err(Error::Decode(
                "the snapshot's query returned more than one row".to_owned(),
            )),
        }
    }

    async fn publish(
        &self,
        client: &Client,
        name: &str,
        data: &str,
        is_state: bool,
    ) -> Result<(), Error> {
        let publish = "SELECT bellwether.publish($1, $2, $3::text, NULL, $4)";
        let topic = self.topic.as_str();
        let of: [&(dyn ToSql + Sync); 4] = [&topic, &name, &data, &is_state];
        within("publish a snapshot", client.execute(publish, &of)).await?;
        Ok(())
    }
}
