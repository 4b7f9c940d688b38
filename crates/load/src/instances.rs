//! More and more hubs on one Postgres, at the same rate of events: what each costs it.

use anyhow::Result;
use std::time::Duration;
use tokio::time;

use crate::{
    fleet::Fleet,
    report::{Report, float, rounded},
    stage::Stage,
    writer,
};

/// Bytes of an event's data, beside some 40.
const BYTES: u32 = 160;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How many hubs: each of these is measured, in ascending order
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 5, 10, 20])]
    hubs: Vec<usize>,
    /// Events a second, each in a transaction of its own
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Clients of each hub
    #[arg(long, default_value_t = 10)]
    clients: u32,
    /// How long, without events and with them
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    time: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    let mut hubs = Vec::new();
    let mut fleets = Vec::new();
    let psql = writer::connect(&stage.url()).await?;
    let mut head = 0;
    for &count in &options.hubs {
        report.section(format!("{count} hubs, {} events/s", options.rate));
        while hubs.len() < count {
            let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
            fleets.push(Fleet::open(hub.address, options.clients).await?);
            hubs.push(hub);
        }
        let per_hub = float(hubs.len() as u64);

        // At rest.
        for hub in &hubs {
            hub.fall_asleep().await?;
        }
        let before = stage.processor()?;
        time::sleep(options.time).await;
        let used = stage.processor()?.saturating_sub(before);
        let share = 100.0 * used.as_secs_f64() / options.time.as_secs_f64();
        report.add("idle_postgres_percent", rounded(share));

        let numbered = async || {
            let mut all = Vec::new();
            for hub in &hubs {
                all.push(hub.metric("bellwether_events_numbered_total").await?);
            }
            anyhow::Ok(all)
        };
        for fleet in &fleets {
            fleet.take_tally()?;
        }
        let (postgres, own) = (stage.processor()?, processor(&hubs)?);
        let numbered_before = numbered().await?;
        let inserted = writer::run(&stage.url(), options.rate, BYTES, options.time).await?;
        head += inserted;
        let postgres = stage.processor()?.saturating_sub(postgres);
        let own = processor(&hubs)?.saturating_sub(own);
        let sessions = "SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let sessions: i64 = psql.query_one(sessions, &[]).await?.get(0);
        let mut latencies = None;
        for fleet in &fleets {
            fleet.reach(head).await?;
            let tally = fleet.take_tally()?;
            let due = inserted * u64::from(options.clients);
            report.expect(
                tally.deliveries == due,
                "deliveries are missing or too many",
            );
            report.expect(tally.broken == 0, "clients were cut off");
            match &mut latencies {
                None => latencies = Some(tally.latencies),
                Some(all) => all.add(&tally.latencies)?,
            }
        }
        let us = |time: Duration, count: f64| rounded(time.as_secs_f64() * 1e6 / count);
        report.add("events", inserted);
        report.add("postgres_us_per_event", us(postgres, float(inserted)));
        report.add("hub_us_per_event_each", us(own, float(inserted) * per_hub));
        report.add(
            "sessions_per_hub",
            rounded(float(sessions.unsigned_abs()) / per_hub),
        );
        let after = numbered().await?;
        let numbering = after
            .iter()
            .zip(&numbered_before)
            .filter(|(now, then)| now > then);
        report.add("hubs_that_numbered", numbering.count());
        if let Some(latencies) = latencies {
            report.add_quantiles("insert_to_client", &latencies);
        }
    }
    drop((hubs, fleets, psql));
    stage.tear_down().await?;
    Ok(report)
}

fn processor(hubs: &[crate::stage::Hub]) -> Result<Duration> {
    hubs.iter().map(|hub| Ok(hub.usage()?.processor)).sum()
}
