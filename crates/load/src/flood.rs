//! As many events as there can be: does the hub keep up, and does its memory stay where it is.

use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time;

use crate::{
    drive::{Pace, TRANSACTIONS},
    peer::Kind,
    report::{Report, float, rounded},
    side,
    stage::Stage,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Clients
    #[arg(long, default_value_t = 100)]
    clients: u32,
    /// Lanes that clients and events are spread over: each of these is measured
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100])]
    lanes: Vec<u32>,
    /// Events a second
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    /// Transactions a second that they are in
    #[arg(long, default_value_t = TRANSACTIONS, value_parser = clap::value_parser!(u32).range(1..))]
    transactions: u32,
    /// How long
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Bytes of an event's data, beside some 40
    #[arg(long, default_value_t = 160)]
    bytes: u32,
    /// Events that the hub keeps: what it has to bridge while the disk or somebody else holds it up
    #[arg(long, default_value_t = 65_536)]
    ring_events: u32,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    for &lanes in &options.lanes {
        report.section(format!("{} clients on {lanes} lanes", options.clients));
        let ring = format!("--ring-events={}", options.ring_events);
        let mut sides = side::start(&stage, &[Kind::Hub], 1, &[ring]).await?;
        let side = sides.first_mut().context("it was started")?;
        side.crowds = side.peer.gather(options.clients, lanes).await?;
        let mut pace = Pace {
            rate: options.rate,
            transactions: options.transactions,
            time: Duration::from_secs(3 + u64::from(options.ring_events / options.rate)),
            lanes,
            pad: options.bytes,
            first: 1,
        };
        // Fills the ring, which is not what is measured.
        side.round(&stage, pace).await?;
        (pace.first, pace.time) = (side.next, options.time);
        let hub = side.peer.hub().context("it is a hub")?;
        let pid = hub.pid()?.as_raw();
        let mut resident = Vec::new();
        let watch = async {
            let mut ticks = time::interval(options.time / 4);
            loop {
                ticks.tick().await;
                resident.push(crate::process::family_resident(pid)?);
            }
        };
        let (written, round) = side.watched_round(&stage, pace, watch).await?;
        report.add("events", written.events);
        let rate = float(written.events) / written.time.as_secs_f64();
        report.add("events_per_s", rate.round());
        report.add("deliveries", round.tally.deliveries);
        report.add_ms("until_all_arrived_after_the_last_insert", round.behind);
        report.add_quantiles("insert_to_client", &round.tally.since_insert);
        report.add_quantiles("commit_to_client", &round.tally.since_commit);
        report.add("hub_us_per_delivery", rounded(round.processor));
        report.add("postgres_us_per_event", rounded(round.postgres));
        report.add("deliveries_per_read", rounded(round.deliveries_per_read));
        for (kib, quarter) in resident.iter().zip(0..) {
            report.add(&format!("resident_kib_after_{quarter}_quarters"), *kib);
        }
        if let Err(why) = round.tally.is_complete() {
            report.expect(false, why.to_string());
        }
    }
    stage.tear_down().await?;
    Ok(report)
}
