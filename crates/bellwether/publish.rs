//! `bellwether publish`.

use anyhow::{Context, Result};
use hub::Topic;
use pg::{Attachments, Draft};

use crate::cli::PublishOptions;

/// Publishes one event. Says nothing if it is done.
pub(crate) async fn run(options: PublishOptions) -> Result<()> {
    let PublishOptions {
        topic,
        event,
        data,
        key,
        retain,
        database,
    } = options;
    let draft = Draft {
        topic: Topic::new(&topic).with_context(|| format!("{topic:?} is no topic"))?,
        name: event,
        key,
        data,
        retain,
    };
    let database = database.database()?;
    Attachments::connect(&database)
        .await?
        .publish(&draft)
        .await?;
    Ok(())
}
