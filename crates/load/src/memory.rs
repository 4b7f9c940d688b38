//! What a client costs that only waits: the server's memory, and the kernel's.

use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time;

use crate::{
    drive::{Pace, TRANSACTIONS},
    fleet,
    peer::{Kind, Peer},
    process,
    report::{Report, float, rounded},
    side,
    stage::Stage,
};

/// What is published to make the lane full, and to those that read nothing.
const EVENTS: u32 = 100;

/// Clients that read nothing.
const STALLED: u32 = 20;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What is measured
    #[arg(long, value_delimiter = ',', default_values = ["hub", "hyper", "nchan", "floor"])]
    servers: Vec<Kind>,
    /// Clients
    #[arg(long, default_value_t = 15_000)]
    clients: u32,
    /// Bytes of an event's data, beside some 40
    #[arg(long, default_value_t = 160)]
    bytes: u32,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    for &kind in &options.servers {
        report.section(kind.name());
        // One after the other: the kernel's memory is everybody's.
        let mut sides = side::start(&stage, &[kind], 1, &[]).await?;
        let side = sides.first_mut().context("it was started")?;
        let (resident, kernel) = (side.peer.resident_kib()?, process::kernel()?);
        report.add("resident_kib_without_clients", resident);
        side.crowds = side.peer.gather(options.clients, 1).await?;
        let per_client = |kib: u64| rounded(float(kib) / f64::from(options.clients));
        let look = |report: &mut Report, peer: &Peer, when: &str| -> Result<u64> {
            let now = peer.resident_kib()?;
            let more = per_client(now.saturating_sub(resident));
            report.add(&format!("{when}_resident_kib_per_client"), more);
            let more = per_client(process::kernel()?.saturating_sub(kernel));
            report.add(&format!("{when}_kernel_kib_per_client_both_ends"), more);
            Ok(now)
        };
        look(&mut report, &side.peer, "idle")?;
        let mut pace = Pace {
            rate: EVENTS / 10,
            transactions: TRANSACTIONS,
            time: Duration::from_secs(10),
            lanes: 1,
            pad: options.bytes,
            first: 1,
        };
        let round = side.round(&stage, pace).await?;
        if kind == Kind::Hub {
            round.tally.is_complete()?;
        }
        let before = look(&mut report, &side.peer, "full_lane")?;
        if let Some(hub) = side.peer.hub() {
            let stalled = fleet::stalled(hub.address, "load.0", STALLED).await?;
            pace.first = side.next;
            side.round(&stage, pace).await?;
            time::sleep(Duration::from_secs(1)).await;
            let more = side.peer.resident_kib()?.saturating_sub(before);
            report.add("more_kib_with_20_that_read_nothing", more);
            drop(stalled);
        }
        drop(sides);
        // Its sockets are closed, and the kernel takes its time.
        time::sleep(Duration::from_secs(2)).await;
    }
    stage.tear_down().await?;
    Ok(report)
}
