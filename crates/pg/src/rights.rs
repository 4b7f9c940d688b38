//! What the role needs, and what to do about it if it lacks it.

use tokio_postgres::Client;

use crate::{Database, Error, limit::within};

/// What somebody wants to do in the database; see `bellwether.allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Run a hub.
    Hub,
    /// Attach tables.
    Attach,
    /// Publish events.
    Publish,
}

/// What a superuser or the schema's owner would run to give the role what it lacks to get at
/// the schema; NULL if it can. What is asked here needs no rights itself.
const NO_ENTRY: &str = "
    SELECT CASE
        WHEN to_regnamespace('bellwether') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
            THEN format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user)
        WHEN NOT has_schema_privilege(to_regnamespace('bellwether'), 'USAGE')
            THEN format('SELECT bellwether.allow(%L, %L)', current_user, $1::text)
        END";

/// The same for all else. Before our tables are made there is nothing.
const LACKING: &str = "
    SELECT format('SELECT bellwether.allow(%L, %L)', current_user, $1::text)
    FROM bellwether.rights_to($1::text) WHERE NOT is_there LIMIT 1";

const IS_THERE: &str = "SELECT to_regproc('bellwether.rights_to') IS NOT NULL";

/// An error that names a statement, unless the role has all it needs.
pub(crate) async fn check(client: &Client, purpose: Purpose) -> Result<(), Error> {
    let what = "ask for the role's rights";
    let purpose = match purpose {
        Purpose::Hub => "hub",
        Purpose::Attach => "attach",
        Purpose::Publish => "publish",
    };
    let row = within(what, client.query_one(NO_ENTRY, &[&purpose])).await?;
    if let Some(grants) = row.get(0) {
        return Err(Error::Rights { grants });
    }
    let row = within(what, client.query_one(IS_THERE, &[])).await?;
    if row.get(0) {
        let row = within(what, client.query_opt(LACKING, &[&purpose])).await?;
        if let Some(row) = row {
            let grants = row.get(0);
            return Err(Error::Rights { grants });
        }
    }
    Ok(())
}

/// The error, or if it is that a right is missing, one that says which.
pub(crate) async fn explain(client: &Client, purpose: Purpose, error: Error) -> Error {
    if !error.is_denied() {
        return error;
    }
    match check(client, purpose).await {
        Err(missing @ Error::Rights { .. }) => missing,
        _ => error,
    }
}

/// The same where the hub's connection may be gone.
pub(crate) async fn explain_hub(database: &Database, error: Error) -> Error {
    if !error.is_denied() {
        return error;
    }
    match database.connect().await {
        Ok(client) => explain(&client, Purpose::Hub, error).await,
        Err(_) => error,
    }
}
