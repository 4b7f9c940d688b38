//! Our tables and functions: the numbered migrations in `sql/`.

use tokio_postgres::Client;

use crate::{Database, Error, Purpose, limit::within, rights};

mod embedded {
    refinery::embed_migrations!("../../sql");
}

/// Where the migrations that were applied are recorded: with the rest of ours, not in
/// the user's own schema.
const TABLE: &str = "bellwether.migration";

/// Brings the schema `bellwether` up to what this program knows. Any number of instances
/// may do so at once: one migrates, the others wait for it and find nothing to do. Fails if the
/// role lacks a right that its purpose needs.
pub async fn migrate(database: &Database, purpose: Purpose) -> Result<(), Error> {
    let mut client = database.connect().await?;
    rights::check(&client, purpose).await?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(TABLE);

    // Without a lock first: a hub without the right to change anything runs on a schema
    // that somebody else has made.
    if is_current(&client).await? {
        return Ok(());
    }
    lock(&client).await?;
    if !is_current(&client).await? {
        client
            .batch_execute("CREATE SCHEMA IF NOT EXISTS bellwether")
            .await
            .map_err(|error| Error::Query("create the schema `bellwether`", error))?;
        let report = runner
            .run_async(&mut client)
            .await
            .map_err(|error| Error::Migrate(Box::new(error)))?;
        let to = report
            .applied_migrations()
            .last()
            .map(refinery::Migration::version);
        tracing::info!(schema.version = to, "migrated");
    }
    Ok(())
}

/// Held until the session ends.
pub(crate) async fn lock(client: &Client) -> Result<(), Error> {
    client
        .batch_execute("SELECT pg_advisory_lock(hashtextextended('bellwether.migrate', 0))")
        .await
        .map_err(|error| Error::Query("wait for another instance's migration", error))
}

/// The newest version that this program knows.
pub(crate) fn newest() -> i32 {
    let runner = embedded::migrations::runner();
    let versions = runner
        .get_migrations()
        .iter()
        .map(refinery::Migration::version);
    versions.max().expect("there are migrations")
}

/// The version of the database's schema; `None` if there is none.
pub(crate) async fn version(client: &Client) -> Result<Option<i32>, Error> {
    let what = "read the version of the schema `bellwether`";
    let exists = "SELECT to_regclass($1) IS NOT NULL";
    let exists = within(what, client.query_one(exists, &[&TABLE])).await?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    let newest = "SELECT max(version) FROM bellwether.migration";
    Ok(within(what, client.query_one(newest, &[])).await?.get(0))
}

async fn is_current(client: &Client) -> Result<bool, Error> {
    let known = newest();
    match version(client).await? {
        Some(found) if found > known => Err(Error::SchemaNewer { found, known }),
        Some(found) if found == known => is_own(client).await.map(|()| true),
        _ => Ok(false),
    }
}

/// That each migration was applied as this program has it. Where some are still to be applied,
/// refinery sees to that.
async fn is_own(client: &Client) -> Result<(), Error> {
    let applied = "SELECT version, checksum FROM bellwether.migration ORDER BY version";
    let what = "read how the schema `bellwether` was made";
    let applied = within(what, client.query(applied, &[])).await?;
    let runner = embedded::migrations::runner();
    for row in &applied {
        let (version, checksum): (i32, &str) = (row.get(0), row.get(1));
        let mut own = runner.get_migrations().iter();
        let is_same =
            own.any(|own| own.version() == version && own.checksum().to_string() == checksum);
        if !is_same {
            return Err(Error::SchemaDiffers { version });
        }
    }
    Ok(())
}
