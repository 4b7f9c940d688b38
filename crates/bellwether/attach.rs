//! `bellwether attach`, `detach` and `attachments`.

use anyhow::{Context, Result};
use pg::{Attachment, Attachments, Purpose};

use crate::cli::{AttachOptions, AttachmentsOptions, DetachOptions, say};

/// Attaches a table, or changes how it is attached.
pub(crate) async fn attach(options: AttachOptions) -> Result<()> {
    let database = options.database.database()?;
    let attachment = Attachment {
        relation: options.table,
        topic: options.topic,
        event: options.event,
        ops: options.ops,
        columns: options.columns,
        old: options.old,
        retain: options.retain,
        doorbell: !options.no_doorbell,
        replica: options.replica,
    };
    // One command makes a table live, also in a database where no hub has been yet.
    pg::migrate(&database, Purpose::Attach).await?;
    let attachments = Attachments::connect(&database).await?;
    let outcome = attachments.attach(&attachment, options.patience.patience);
    let outcome = outcome.await?;
    let Attachment {
        relation, topic, ..
    } = attachment;
    say(format_args!("{relation}: {outcome}; its topic is {topic}"))?;
    Ok(())
}

/// Ends an attachment.
pub(crate) async fn detach(options: DetachOptions) -> Result<()> {
    let database = options.database.database()?;
    let attachments = Attachments::connect(&database).await?;
    let table = options.table;
    let was_attached = attachments.detach(&table, options.patience.patience);
    let outcome = if was_attached.await? {
        "detached; what was captured stays"
    } else {
        "was not attached"
    };
    say(format_args!("{table}: {outcome}"))?;
    Ok(())
}

/// Lists what is attached, a line each, and below it what is wrong.
pub(crate) async fn list(options: AttachmentsOptions) -> Result<()> {
    let database = options.database.database()?;
    for attached in Attachments::connect(&database).await?.list().await? {
        if options.json {
            let line = serde_json::to_string(&attached).context("cannot write JSON")?;
            say(line)?;
            continue;
        }
        let Attachment {
            relation,
            topic,
            event,
            ops,
            columns,
            ..
        } = &attached.attachment;
        let columns = columns
            .as_ref()
            .map_or("all columns".to_owned(), |columns| columns.join(", "));
        say(format_args!(
            "{relation}  topic {topic}  event {event}  {}  {columns}",
            ops.join(",")
        ))?;
        for problem in &attached.problems {
            say(format_args!("    {problem}"))?;
        }
    }
    Ok(())
}
