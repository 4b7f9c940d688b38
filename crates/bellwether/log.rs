//! Logging: on standard error, for people or for machines.

use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, LogOptions};

/// Starts logging. A filter that makes no sense is one that logs `info`, and says so.
pub(crate) fn init(options: &LogOptions) {
    let (filter, error) = match EnvFilter::try_new(&options.log) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    match options.log_format {
        LogFormat::Text => logs.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    if let Some(error) = error {
        tracing::warn!(%error, filter = options.log, "cannot read the log filter");
    }
}
