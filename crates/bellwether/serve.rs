//! `bellwether serve`.

use anyhow::Result;

use crate::{cli::ServeOptions, instance::Ground};

/// Serves the user's database, or a private one.
pub(crate) async fn run(options: ServeOptions) -> Result<()> {
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
    Box::pin(ground.run(&options.hub, async { Ok(()) })).await
}
