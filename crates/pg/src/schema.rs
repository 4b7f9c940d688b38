//! Our tables and functions: the numbered migrations in `sql/`.

use refinery::Runner;
use tokio_postgres::Client;

use crate::{Database, Error, limit::within, rights};

mod embedded {
    refinery::embed_migrations!("../../sql");
}

/// Where the migrations that were applied are recorded: with the rest of ours, not in
/// the user's own schema.
const TABLE: &str = "bellwether.migration";

/// Brings the schema `bellwether` up to what this program knows. Any number of instances
/// may do so at once: one migrates, the others wait for it and find nothing to do.
pub async fn migrate(database: &Database) -> Result<(), Error> {
    let mut client = database.connect().await?;
    rights::check(&client).await?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(TABLE);

    // Without a lock first: a hub without the right to change anything runs on a schema
    // that somebody else has made.
    if is_current(&client, &runner).await? {
        return Ok(());
    }
    lock(&client).await?;
    if !is_current(&client, &runner).await? {
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

async fn is_current(client: &Client, runner: &Runner) -> Result<bool, Error> {
    let known = runner
        .get_migrations()
        .iter()
        .map(refinery::Migration::version)
        .max();
    let known = known.expect("there are migrations");
    let what = "read the version of the schema `bellwether`";

    let exists = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&TABLE]);
    let exists = within(what, exists).await?;
    if !exists.get::<_, bool>(0) {
        return Ok(false);
    }
    let newest = client.query_one("SELECT max(version) FROM bellwether.migration", &[]);
    let newest = within(what, newest).await?;
    match newest.get::<_, Option<i32>>(0) {
        Some(found) if found > known => Err(Error::SchemaNewer { found, known }),
        found => Ok(found == Some(known)),
    }
}
