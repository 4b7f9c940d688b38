//! No answer of the database is waited for without a limit.

use deadpool_postgres::{Object, Pool};
use std::time::Duration;
use tokio::time;

use crate::Error;

/// How long any answer may take. A server that is frozen, or that packets do not reach any
/// more, closes no connection, and its kernel may go on answering for it.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The answer, if it comes within [`ANSWER_LIMIT`].
pub(crate) async fn within<T>(
    what: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match time::timeout(ANSWER_LIMIT, query).await {
        Ok(answer) => answer.map_err(|error| Error::Query(what, error)),
        Err(_) => Err(Error::TimedOut(what, ANSWER_LIMIT)),
    }
}

/// The same of a connection from a pool. A connection that has not answered does not go back: whoever
/// had it next would wait behind this query.
pub(crate) async fn ask<T>(
    pool: &Pool,
    what: &'static str,
    ask: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>,
) -> Result<T, Error> {
    let client = pool.get().await.map_err(Error::Pool)?;
    let answer = within(what, ask(&client)).await;
    if let Err(Error::TimedOut(..)) = answer {
        drop(Object::take(client));
    }
    answer
}
