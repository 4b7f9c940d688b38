//! What tests are made of: a database, hubs, clients, and waiting.

mod client;
mod database;
mod hub;
mod ledger;
mod proxy;
mod tls;

pub(crate) use client::{Client, Delivery, Lines, get, request_whole, try_request};
pub(crate) use database::{
    TestDatabase, connect, is_promised, private_postgres, private_postgres_with, server_major,
};
pub(crate) use hub::{Hub, HubOptions, bellwether};
pub(crate) use ledger::{Committed, check_order, now};
pub(crate) use proxy::{Kind as ProxyKind, Proxy};
pub(crate) use tls::Authority;

use std::{fmt::Debug, time::Duration};
use tokio::time::{self, Instant};

/// The limit of every wait: far longer than anything takes, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The future's result, or a panic that says what did not happen.
#[track_caller]
pub(crate) fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let done = time::timeout(LIMIT, future).await;
        done.unwrap_or_else(|_| panic!("{place}: not within {LIMIT:?}: {what}"))
    }
}

/// Asks again and again until the answer is the expected one.
pub(crate) async fn eventually<T: PartialEq + Debug>(
    what: &str,
    expected: T,
    mut ask: impl AsyncFnMut() -> T,
) {
    let limit = Instant::now() + LIMIT;
    loop {
        let answer = ask().await;
        if answer == expected {
            return;
        }
        assert!(
            Instant::now() < limit,
            "{what}: {answer:?} instead of {expected:?}"
        );
        time::sleep(Duration::from_millis(20)).await;
    }
}
