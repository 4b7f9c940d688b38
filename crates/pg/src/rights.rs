//! What the role needs, and what to do about it if it lacks it.

use tokio_postgres::Client;

use crate::{Database, Error, limit::within};

/// What a superuser or the schema's owner would run to give the role what it lacks to get at
/// the schema; NULL if it can. What is asked here needs no rights itself.
const NO_ENTRY: &str = "
    SELECT CASE
        WHEN to_regnamespace('bellwether') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
            THEN format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user)
        WHEN NOT has_schema_privilege(to_regnamespace('bellwether'), 'USAGE')
            THEN format('SELECT bellwether.allow(%L, ''hub'')', current_user)
        END";

/// The same for all else that a hub needs. Before our tables are made there is nothing.
const LACKING: &str = "
    SELECT format('SELECT bellwether.allow(%L, ''hub'')', current_user)
    FROM bellwether.rights_to('hub') WHERE NOT is_there LIMIT 1";

const IS_THERE: &str = "SELECT to_regproc('bellwether.rights_to') IS NOT NULL";

/// An error that names a statement, unless the role has all it needs.
pub(crate) async fn check(client: &Client) -> Result<(), Error> {
    let what = "ask for the role's rights";
    let row = within(what, client.query_one(NO_ENTRY, &[])).await?;
    if let Some(grants) = row.get(0) {
        return Err(Error::Rights { grants });
    }
    let row = within(what, client.query_one(IS_THERE, &[])).await?;
    if row.get(0) {
        let row = within(what, client.query_opt(LACKING, &[])).await?;
        if let Some(row) = row {
            let grants = row.get(0);
            return Err(Error::Rights { grants });
        }
    }
    Ok(())
}

/// The error, or if it is that a right is missing, one that says which.
pub(crate) async fn explain(database: &Database, error: Error) -> Error {
    if !error.is_denied() {
        return error;
    }
    let checked = async { check(&database.connect().await?).await };
    match checked.await {
        Err(missing @ Error::Rights { .. }) => missing,
        _ => error,
    }
}
