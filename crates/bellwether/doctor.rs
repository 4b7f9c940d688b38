//! `bellwether doctor`.

use anyhow::{Context, Result};
use pg::State;
use std::fmt;

use crate::cli::{DoctorOptions, say};

/// The database is not fit for a hub: how many findings say so.
#[derive(Debug)]
struct Unfit(usize);

/// Says what it finds. An error if a hub could not do its work.
pub(crate) async fn run(options: DoctorOptions) -> Result<()> {
    let findings = pg::examine(&options.database.database()?, options.long).await;
    for finding in &findings {
        if options.json {
            say(serde_json::to_string(finding).context("cannot write JSON")?)?;
            continue;
        }
        let mark = match finding.state {
            State::Good => "ok  ",
            State::Warning => "warn",
            State::Bad => "BAD ",
        };
        say(format_args!(
            "{mark}  {:<18}  {}",
            finding.check, finding.found
        ))?;
        if let Some(advice) = &finding.advice {
            say(format_args!("{:26}{advice}", ""))?;
        }
    }
    match findings
        .iter()
        .filter(|finding| finding.state == State::Bad)
        .count()
    {
        0 => Ok(()),
        bad => Err(Unfit(bad).into()),
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a hub cannot do its work here: what is BAD above comes first ({})",
            self.0
        )
    }
}

impl std::error::Error for Unfit {}
