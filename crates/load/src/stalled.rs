//! Some clients read nothing: what it costs the hub, and what the others notice.

use anyhow::Result;
use std::time::Duration;

use crate::{
    fleet::{self, Fleet},
    report::{Report, median, tenths},
    stage::Stage,
    writer,
};

/// What clients that read nothing may cost, in KiB.
const MAX_GROWTH_KIB: u64 = 64 * 1024;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Clients that read
    #[arg(long, default_value_t = 2_000)]
    clients: u32,
    /// Clients that do not
    #[arg(long, default_value_t = 200)]
    stalled: u32,
    /// Events a second
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Bytes of an event's data
    #[arg(long, default_value_t = 200)]
    bytes: u32,
    /// Rounds without and with clients that stall
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// How long each half of a round is; shorter than the hub's patience, which is 30 s
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    time: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    let fleet = Fleet::open(hub.address, options.clients).await?;
    // The first seconds are not like the others: what is allocated for the first time, files that grow.
    let mut head = writer::run(&stage.url(), options.rate, options.bytes, options.time).await?;
    fleet.reach(head).await?;

    let mut resident = hub.usage()?.resident_kib;
    // Median, 99 % and processor time of each round, without and with.
    let mut halves = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        for (half, stalled) in halves.iter_mut().zip([0, options.stalled]) {
            report.section(format!("round {round}, with {stalled} that read nothing"));
            let quiet = fleet::stalled(hub.address, "load", stalled).await?;
            fleet.take_tally()?;
            let (before, postgres) = (hub.usage()?, stage.processor()?);
            let inserted =
                writer::run(&stage.url(), options.rate, options.bytes, options.time).await?;
            head += inserted;
            fleet.reach(head).await?;
            let (after, tally) = (hub.usage()?, fleet.take_tally()?);
            let processor = after.processor.saturating_sub(before.processor);
            report.add("events", inserted);
            report.add("deliveries", tally.deliveries);
            report.add("out_of_order", tally.out_of_order);
            report.add_quantiles("latency", &tally.latencies);
            report.add_ms("hub_processor", processor);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let each = processor.as_secs_f64() * 1e6 / tally.deliveries.max(1) as f64;
            report.add("hub_us_per_delivery", (each * 100.0).round() / 100.0);
            report.add_ms(
                "postgres_processor",
                stage.processor()?.saturating_sub(postgres),
            );
            report.add("resident_kib", after.resident_kib);
            let grown = after.resident_kib.saturating_sub(resident);
            report.add("grown_kib", grown);
            resident = resident.max(after.resident_kib);
            report.expect(
                grown < MAX_GROWTH_KIB,
                format!("{grown} KiB more in round {round}"),
            );
            let due = inserted * u64::from(options.clients);
            report.expect(
                tally.deliveries == due,
                "deliveries are missing or too many",
            );
            report.expect(tally.out_of_order == 0, "events out of order");
            let ms = |quantile| {
                let us = u32::try_from(tally.latencies.value_at_quantile(quantile));
                f64::from(us.unwrap_or(u32::MAX)) / 1000.0
            };
            half.push([ms(0.5), ms(0.99), each]);
            drop(quiet);
        }
    }
    let [without, with] = halves.map(|rounds| medians(&rounds));
    report.section("medians of all rounds: with, as a percentage of without");
    for (nth, name) in ["latency_p50", "latency_p99", "hub_us_per_delivery"]
        .iter()
        .enumerate()
    {
        report.add(
            &format!("{name}_percent"),
            tenths(100.0 * with[nth] / without[nth]),
        );
        report.expect(
            with[nth] < 1.2 * without[nth],
            format!("{name} is a fifth more, or worse"),
        );
    }

    drop(fleet);
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// The median of each column.
fn medians(rows: &[[f64; 3]]) -> [f64; 3] {
    [0, 1, 2].map(|column| {
        let mut values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
        median(&mut values)
    })
}
