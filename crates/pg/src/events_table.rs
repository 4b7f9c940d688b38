//! The table `events`, for a first INSERT.

use tokio_postgres::Client;

use crate::{Database, Error, schema};

/// The table `events`, whose rows are published as they are inserted. For the private
/// database only, never for one of the user's own.
#[derive(Debug)]
pub struct EventsTable {
    client: Client,
}

impl EventsTable {
    /// Makes it, if it does not exist yet.
    pub async fn create(database: &Database) -> Result<(), Error> {
        let client = database.connect().await?;
        schema::lock(&client).await?;
        client
            .batch_execute(include_str!("../../../sql/events.sql"))
            .await
            .map_err(|error| Error::Query("create the table `events`", error))
    }

    /// A connection to insert on.
    pub async fn connect(database: &Database) -> Result<Self, Error> {
        let client = database.connect().await?;
        Ok(Self { client })
    }

    /// Inserts a row; `properties` is JSON.
    pub async fn insert(&self, name: &str, properties: &str) -> Result<(), Error> {
        let insert = "INSERT INTO public.events (name, properties) VALUES ($1, $2::text::jsonb)";
        let inserted = self.client.execute(insert, &[&name, &properties]).await;
        inserted.map_err(|error| Error::Query("insert into `events`", error))?;
        Ok(())
    }
}
