//! `bellwether serve`.

use anyhow::Result;
use pg::Snapshot;

use crate::{cli::ServeOptions, instance::Ground};

/// Serves the user's database, or a private one.
pub(crate) async fn run(options: ServeOptions, snapshots: Vec<Snapshot>) -> Result<()> {
    let url = options
        .database_url
        .or_else(|| std::env::var("DATABASE_URL").ok());
    let ground = Ground::prepare(
        url.as_deref(),
        options.private,
        &options.hub,
        "bellwether serve",
    )
    .await?;
    let ground = ground.with_snapshots(snapshots);
    Box::pin(ground.run(&options.hub, async { Ok(()) })).await
}
