//! The Postgres side: everything that speaks SQL.
//!
//! # From an INSERT to a batch
//!
//! A trigger copies the row into `bellwether.event` and rings, unless a hub is awake
//! (`sql/V2__doorbell.sql`). The [`Listener`] hears it on a connection of its own and wakes
//! the [`Feed`], whose sequencer calls `bellwether.look` (`sql/V3__advance.sql`): that has what
//! has committed numbered, and brings it once it is durable. What is too much for that the feed
//! reads page by page. It hands out events in the stream's order and without holes.
//!
//! [`History`] reads the same stream through a pool, for clients that come from further back.
//!
//! # Invariants
//!
//! - The only place with SQL, or with the word *channel* in its Postgres sense.
//! - A notification carries no data. What is in the tables is the truth.
//! - The listening connection is always drained: a backend that cannot send would hold up
//!   the whole cluster's notification queue.

mod attachments;
mod backoff;
mod database;
mod demo;
mod doctor;
mod doorbell;
mod error;
mod events_table;
mod feed;
mod history;
mod limit;
mod listener;
mod metrics;
mod page;
mod publisher;
mod retention;
mod rights;
mod schema;
mod sequencer;
mod snapshots;
mod tls;

pub use attachments::{Attached, Attachment, Attachments};
pub use backoff::Backoff;
pub use database::Database;
pub use demo::{Scene, Tables};
pub use doctor::{Finding, State, examine};
pub use doorbell::Doorbell;
pub use error::{Error, chain};
pub use events_table::EventsTable;
pub use feed::{Feed, Update};
pub use history::History;
pub use listener::Listener;
pub use metrics::Metrics;
pub use publisher::{Draft, Publication, Published, Publisher, PublisherTask};
pub use retention::Retention;
pub use rights::Purpose;
pub use schema::migrate;
pub use snapshots::Snapshot;
pub use tls::InvalidTls;

use tokio::sync::watch;

/// Target of the spans that traces are made of. They are of the level `TRACE`: where nobody
/// collects them, one costs a comparison.
pub const SPANS: &str = "span";

/// A number as a trace has it.
fn counted(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Whether a connection does its work; if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It does.
    Up,
    /// It does, but something is wrong, and this is what.
    Strained(String),
    /// It does not, for this reason.
    Down(String),
}

impl Link {
    /// Tells the watchers, and logs what is wrong, if it is news.
    fn tell(self, watchers: &watch::Sender<Self>) {
        watchers.send_if_modified(|now| {
            let is_news = *now != self;
            if let (true, Self::Down(what) | Self::Strained(what)) = (is_news, &self) {
                tracing::warn!(what, "trouble with the database");
            }
            *now = self;
            is_news
        });
    }
}
