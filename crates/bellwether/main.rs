//! The `bellwether` command: reads the command line, wires the parts together, decides nothing.

mod allow;
mod attach;
mod auth;
mod cli;
mod collector;
mod config;
mod demo;
mod doctor;
mod edge;
mod https;
mod instance;
mod log;
mod publish;
mod reference;
mod serve;
mod signals;
mod systemd;
mod tail;
mod traces;

use std::{env, process::ExitCode};
use tokio::runtime;

use cli::Command;
use server::Unfinished;
use traces::Traces;

/// Exit codes, beside 0: failed to start, and did not finish in time.
const FAILED: u8 = 1;
const UNFINISHED: u8 = 2;

fn main() -> ExitCode {
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(server::EVENT_INTERVAL)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => {
            cli::complain(&anyhow::Error::new(error).context("cannot start threads"));
            ExitCode::from(FAILED)
        }
    }
}

async fn run() -> ExitCode {
    let (cli, snapshots) = match config::read(env::args_os().collect()) {
        Ok((Ok(cli), snapshots)) => (cli, snapshots),
        Ok((Err(error), _)) => return cli::refuse(&error),
        Err(error) => {
            cli::complain(&error);
            return ExitCode::from(FAILED);
        }
    };
    let traces = match cli.command.hub().map(|hub| Traces::open(&hub.traces)) {
        None => None,
        Some(Ok(traces)) => traces,
        Some(Err(error)) => {
            cli::complain(&error);
            return ExitCode::from(FAILED);
        }
    };
    log::init(&cli.log, traces.as_ref());
    // Boxed: each holds a hub, or connections with TLS, and would be moved about on the stack.
    let done = match cli.command {
        Command::Serve(options) => Box::pin(serve::run(options, snapshots)).await,
        Command::Demo(options) => Box::pin(demo::run(options)).await,
        Command::Tail(options) => Box::pin(tail::run(options)).await,
        Command::Attach(options) => Box::pin(attach::attach(options)).await,
        Command::Detach(options) => Box::pin(attach::detach(options)).await,
        Command::Attachments(options) => Box::pin(attach::list(options)).await,
        Command::Publish(options) => Box::pin(publish::run(options)).await,
        Command::Allow(options) => Box::pin(allow::run(options)).await,
        Command::Doctor(options) => Box::pin(doctor::run(options)).await,
        Command::Completions(options) => {
            reference::completions(&options);
            Ok(())
        }
        Command::Man(options) => reference::man(options),
        Command::Markdown => reference::markdown(),
        Command::Token(options) => auth::token(options),
    };
    if let Some(traces) = traces {
        traces.close().await;
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&error);
            let is_unfinished = error.is::<Unfinished>();
            ExitCode::from(if is_unfinished { UNFINISHED } else { FAILED })
        }
    }
}
