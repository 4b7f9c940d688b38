//! Measures the real program, on a Postgres of its own, under thousands of real connections.
//!
//! `cargo xtask load storm` builds both in release and runs one scenario. What is measured is printed
//! as a table, and written as JSON to `target/load/`. All of it runs on one machine and
//! shares its processors, so times are upper bounds.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

mod attach;
mod copy;
mod crowd;
mod digits;
mod drive;
mod fan_out;
mod fleet;
mod flood;
mod floor;
mod h2;
mod instances;
mod lanes;
mod markdown;
mod memory;
mod peer;
mod plot;
mod polling;
mod process;
mod publish;
mod replay;
mod report;
mod runs;
mod side;
mod slow;
mod slow_flush;
mod stage;
mod stalled;
mod storm;
mod tables;
mod writer;
mod writers;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use report::{REPORTS, Report};
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
#[command(about = "Measures the real program under thousands of connections")]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Thousands of clients are cut off at once and come back
    Storm(storm::Options),
    /// Some clients read nothing: what do the others notice
    Stalled(stalled::Options),
    /// Rows are inserted one by one: what does it cost that a table is attached
    Writers(writers::Options),
    /// Rows are loaded in bulk: the same
    Copy(copy::Options),
    /// A busy table is attached: what do those notice who write to it
    Attach(attach::Options),
    /// Events are published over HTTP: how many, how fast
    Publish(publish::Options),
    /// Many streams on each connection of HTTP/2, or TLS: what does each cost
    H2(h2::Options),
    /// More and more hubs on one Postgres: what does each cost it
    Instances(instances::Options),
    /// Thousands of connections never finish what they began: what do clients notice
    Slow(slow::Options),
    /// The same events to the same clients, by the hub and by others: processor time, latency
    FanOut(fan_out::Options),
    /// Thousands of clients wait: what does each cost in memory, beside others
    Memory(memory::Options),
    /// As many events as there can be: does the hub keep up
    Flood(flood::Options),
    /// Many lanes of one client each: what does an event cost that is for one of them
    Lanes(lanes::Options),
    /// A client has missed a million events: how fast does it get them
    Replay(replay::Options),
    /// Dashboards that poll the database, and the same on a hub
    Polling(polling::Options),
    /// Draws what fan-out has measured
    Plot(plot::Options),
    /// Writes what fan-out has measured as tables in Markdown
    Markdown(markdown::Options),
    /// Clients of one server, for other scenarios
    #[command(hide = true)]
    Crowd(crowd::Request),
    /// The floor, for other scenarios
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        threads: usize,
    },
}

fn main() -> Result<()> {
    let scenario = match Cli::parse().scenario {
        Scenario::Crowd(request) => return crowd::process::run(&request),
        Scenario::Floor { threads } => return floor::run(threads),
        Scenario::Plot(options) => return plot::run(&options),
        Scenario::Markdown(options) => return markdown::run(&options),
        scenario => scenario,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    // Told to stop it ends as after an error, so that the servers it has started end as well.
    let (name, report) = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            measured = measure(scenario) => measured,
            _ = terminate.recv() => bail!("told to stop"),
            _ = tokio::signal::ctrl_c() => bail!("told to stop"),
        }
    })?;
    print!("{report}");
    let path = report.write(Path::new(REPORTS), name)?;
    println!("written to {}", path.display());
    report.verdict()
}

async fn measure(scenario: Scenario) -> Result<(&'static str, Report)> {
    Ok(match scenario {
        Scenario::Storm(options) => ("storm", storm::run(&options).await?),
        Scenario::Stalled(options) => ("stalled", stalled::run(&options).await?),
        Scenario::Writers(options) => ("writers", writers::run(&options).await?),
        Scenario::Copy(options) => ("copy", copy::run(&options).await?),
        Scenario::Attach(options) => ("attach", attach::run(&options).await?),
        Scenario::Publish(options) => ("publish", publish::run(&options).await?),
        Scenario::H2(options) => ("h2", h2::run(&options).await?),
        Scenario::Instances(options) => ("instances", instances::run(&options).await?),
        Scenario::Slow(options) => ("slow", slow::run(&options).await?),
        Scenario::FanOut(options) => ("fan-out", fan_out::run(&options).await?),
        Scenario::Memory(options) => ("memory", memory::run(&options).await?),
        Scenario::Flood(options) => ("flood", flood::run(&options).await?),
        Scenario::Lanes(options) => ("lanes", lanes::run(&options).await?),
        Scenario::Replay(options) => ("replay", replay::run(&options).await?),
        Scenario::Polling(options) => ("polling", polling::run(&options).await?),
        Scenario::Crowd(_) | Scenario::Floor { .. } | Scenario::Plot(_) | Scenario::Markdown(_) => {
            unreachable!("these measure nothing")
        }
    })
}
