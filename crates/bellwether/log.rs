//! Logging: on standard error, for people or for machines. And what is beside it: traces.

use std::io::{IsTerminal, stderr};
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    cli::{LogFormat, LogOptions},
    traces::Traces,
};

/// Starts logging, and tracing if that is wanted. A filter that makes no sense is one that logs
/// `info`, and says so.
pub(crate) fn init(options: &LogOptions, traces: Option<&Traces>) {
    let (filter, error) = match EnvFilter::try_new(&options.log) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let logs = fmt::layer().with_writer(stderr);
    let logs = match options.log_format {
        LogFormat::Text => logs.with_ansi(stderr().is_terminal()).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(logs.with_filter(filter))
        .with(traces.map(Traces::layer))
        .init();
    if let Some(error) = error {
        tracing::warn!(%error, filter = options.log, "cannot read the log filter");
    }
}
