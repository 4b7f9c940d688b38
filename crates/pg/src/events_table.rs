//! The table `events`, for a first INSERT.

use crate::{Database, Error, schema};

/// The table `events`, whose rows are published as they are inserted. For the private
/// database only, never for one of the user's own.
#[derive(Debug)]
pub struct EventsTable;

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
}
