//! Faults that a machine, a network or an administrator brings about: the hub says what is
//! wrong, goes on as well as it can, and loses nothing.

/// The server crashes, and what was not on the disk is gone.
mod crash;
/// Packets vanish, and no connection is closed.
mod half_open;
/// The server's queue of notifications is full.
mod queue;
/// The server is a standby.
mod recovery;
/// The role lacks rights.
mod rights;
/// One of the server's processes does not get on.
mod stuck;

use serde_json::Value;

use crate::harness::{Hub, eventually, get};

/// Waits until the hub is not ready, and says this among its reasons.
async fn is_not_ready(hub: &Hub, because: &str) {
    let told = async || {
        let (status, text) = get(hub.address, "/readyz").await;
        if status == 503 && text.contains(because) {
            return because.to_owned();
        }
        format!("{status} {text}")
    };
    eventually("it is not ready", because.to_owned(), told).await;
}

async fn is_ready(hub: &Hub) {
    eventually("it is ready", 200, async || {
        get(hub.address, "/readyz").await.0
    })
    .await;
}

/// What a ready hub warns of.
async fn warnings(hub: &Hub) -> String {
    let (status, text) = get(hub.address, "/readyz").await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["warnings"].to_string()
}
