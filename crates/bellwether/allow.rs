//! `bellwether allow`.

use anyhow::Result;
use clap::ValueEnum;
use pg::Attachments;

use crate::cli::{AllowOptions, say};

/// Grants a role what it needs.
pub(crate) async fn run(options: AllowOptions) -> Result<()> {
    let AllowOptions {
        role,
        what,
        database,
    } = options;
    let what = what.to_possible_value().expect("none is skipped");
    let attachments = Attachments::connect(&database.database()?).await?;
    attachments.allow(&role, what.get_name()).await?;
    say(format_args!(
        "{role} may {}",
        what.get_help()
            .expect("each has one")
            .to_string()
            .to_lowercase()
    ))?;
    Ok(())
}
