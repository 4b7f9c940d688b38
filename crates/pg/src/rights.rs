//! What the role needs, and what to do about it if it lacks it.

use tokio_postgres::Client;

use crate::{Database, Error, limit::within};

/// The statements that would give the role what it lacks; NULL if it lacks nothing. What is
/// asked here needs no rights itself.
const MISSING: &str = "
    SELECT string_agg(format('GRANT %s TO %I', needed.what, current_user), '; ')
    FROM (
        SELECT format('CREATE ON DATABASE %I', current_database()) AS what,
            has_database_privilege(current_database(), 'CREATE') AS is_there
        WHERE to_regnamespace('bellwether') IS NULL
        UNION ALL
        SELECT 'USAGE ON SCHEMA bellwether', has_schema_privilege(oid, 'USAGE')
        FROM pg_namespace WHERE nspname = 'bellwether'
        UNION ALL
        SELECT 'SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA bellwether',
            bool_and(has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
        FROM pg_class WHERE relnamespace = to_regnamespace('bellwether') AND relkind IN ('r', 'p')
        UNION ALL
        SELECT 'USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA bellwether',
            bool_and(has_sequence_privilege(oid, 'USAGE') AND has_sequence_privilege(oid, 'UPDATE'))
        FROM pg_class WHERE relnamespace = to_regnamespace('bellwether') AND relkind = 'S'
        UNION ALL
        SELECT 'EXECUTE ON ALL FUNCTIONS IN SCHEMA bellwether',
            bool_and(has_function_privilege(oid, 'EXECUTE'))
        FROM pg_proc WHERE pronamespace = to_regnamespace('bellwether')
    ) AS needed
    WHERE NOT needed.is_there";

/// An error that names the statements, unless the role has all it needs.
pub(crate) async fn check(client: &Client) -> Result<(), Error> {
    let row = within("ask for the role's rights", client.query_one(MISSING, &[])).await?;
    match row.get(0) {
        Some(grants) => Err(Error::Rights { grants }),
        None => Ok(()),
    }
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
