//! Attaching tables: the functions of `sql/V6__attach.sql`, called from outside.

use serde::Serialize;
use std::time::Duration;
use tokio::time;
use tokio_postgres::{Client, error::SqlState};

use crate::{Database, Error, Purpose, rights};

/// How long to wait for the lock on a table before letting go of it. Meanwhile its writers
/// wait behind us.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// How long to leave the writers alone then.
const PAUSE: Duration = Duration::from_millis(500);

/// What to capture of a table, and how; see `bellwether.attach` for each.
#[derive(Clone, Debug, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "as many switches as bellwether.attach has"
)]
pub struct Attachment {
    /// The table, as SQL names it.
    pub relation: String,
    /// Template of the topic.
    pub topic: String,
    /// Template of the event's name.
    pub event: String,
    /// `insert`, `update`, `delete`, `truncate`.
    pub ops: Vec<String>,
    /// `None`: all.
    pub columns: Option<Vec<String>>,
    /// Whether events have the row as it was before, too.
    pub old: bool,
    /// Whether the last event of each topic is its state.
    pub retain: bool,
    /// Whether writers wake a hub.
    pub doorbell: bool,
    /// Whether rows that replication applies are captured.
    pub replica: bool,
}

/// An attachment as it is.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    /// What it does.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// What is wrong with it and what to do, if anything.
    pub problems: Vec<String>,
}

/// Attaches and detaches, as the role it connects as.
#[derive(Debug)]
pub struct Attachments {
    client: Client,
}

impl Attachments {
    /// Connects. The schema must be there.
    pub async fn connect(database: &Database) -> Result<Self, Error> {
        let client = database.connect().await?;
        let wait = LOCK_WAIT.as_millis();
        let set = format!("SET lock_timeout = {wait}; SET enable_hashjoin = on");
        let set = client.batch_execute(&set).await;
        set.map_err(|error| Error::Query("set up a session", error))?;
        Ok(Self { client })
    }

    /// Attaches a table, or changes how it is. Returns `attached`, `changed` or `unchanged`.
    ///
    /// Where the table is busy it asks for the lock again and again, up to `patience`, and never
    /// holds up writers for longer than 200 ms.
    pub async fn attach(
        &self,
        attachment: &Attachment,
        patience: Duration,
    ) -> Result<String, Error> {
        let query = "SELECT bellwether.attach($1::text::regclass, $2, $3, $4, $5, $6, $7, $8, $9)";
        let row = self.patiently(patience, async || {
            let Attachment {
                relation,
                topic,
                event,
                ops,
                columns,
                old,
                retain,
                doorbell,
                replica,
            } = attachment;
            self.client
                .query_one(
                    query,
                    &[
                        relation, topic, event, ops, columns, old, retain, doorbell, replica,
                    ],
                )
                .await
        });
        match row.await {
            Ok(row) => Ok(row.get(0)),
            Err(error) => Err(self
                .failed(Purpose::Attach, "attach the table", error)
                .await),
        }
    }

    /// Ends an attachment. Returns whether there was one. Waits for locks as `attach` does.
    pub async fn detach(&self, relation: &str, patience: Duration) -> Result<bool, Error> {
        let query = "SELECT bellwether.detach($1::text::regclass)";
        let row = self.patiently(patience, async || {
            self.client.query_one(query, &[&relation]).await
        });
        match row.await {
            Ok(row) => Ok(row.get(0)),
            Err(error) => Err(self
                .failed(Purpose::Attach, "detach the table", error)
                .await),
        }
    }

    /// All there are.
    pub async fn list(&self) -> Result<Vec<Attached>, Error> {
        let query = "
            SELECT relation::text, topic, event, ops, columns, old, retain, doorbell, replica, problems
            FROM bellwether.attachments ORDER BY relation::text";
        let rows = match self.client.query(query, &[]).await {
            Ok(rows) => rows,
            Err(error) => {
                return Err(self
                    .failed(Purpose::Attach, "list the attachments", error)
                    .await);
            }
        };
        let attached = rows.iter().map(|row| Attached {
            attachment: Attachment {
                relation: row.get(0),
                topic: row.get(1),
                event: row.get(2),
                ops: row.get(3),
                columns: row.get(4),
                old: row.get(5),
                retain: row.get(6),
                doorbell: row.get(7),
                replica: row.get(8),
            },
            problems: row.get(9),
        });
        Ok(attached.collect())
    }

    /// Lets a role run a hub (`hub`), attach tables (`attach`) or publish (`publish`).
    pub async fn allow(&self, role: &str, what: &str) -> Result<(), Error> {
        let query = "SELECT bellwether.allow($1::text::name, $2)";
        let allowed = self.client.execute(query, &[&role, &what]).await;
        allowed.map_err(|error| Error::Query("grant the rights", error))?;
        Ok(())
    }

    /// Publishes one event. Returns its id, which is not its place in the stream.
    pub async fn publish(&self, draft: &crate::Draft) -> Result<i64, Error> {
        let query = "SELECT bellwether.publish($1, $2, $3::text, $4, $5)";
        let topic = draft.topic.as_str();
        let row = self
            .client
            .query_one(
                query,
                &[&topic, &draft.name, &draft.data, &draft.key, &draft.retain],
            )
            .await;
        match row {
            Ok(row) => Ok(row.get(0)),
            Err(error) => Err(self
                .failed(Purpose::Publish, "publish the event", error)
                .await),
        }
    }

    /// The error that says what is to be granted, if that is what is wrong.
    async fn failed(
        &self,
        purpose: Purpose,
        what: &'static str,
        error: tokio_postgres::Error,
    ) -> Error {
        rights::explain(&self.client, purpose, Error::Query(what, error)).await
    }

    /// Again and again while the table is locked.
    async fn patiently<T>(
        &self,
        patience: Duration,
        ask: impl AsyncFn() -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, tokio_postgres::Error> {
        let limit = time::Instant::now() + patience;
        loop {
            match ask().await {
                Err(error)
                    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
                        && time::Instant::now() < limit =>
                {
                    tracing::info!("the table is locked by others; trying again");
                    time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
}
