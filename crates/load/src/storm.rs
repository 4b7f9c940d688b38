//! Thousands of clients are cut off at once and come back.

use anyhow::Result;
use std::time::Duration;

use crate::{
    fleet::Fleet,
    report::Report,
    stage::{Hub, Stage},
    writer,
};

/// Events in one transaction.
const BATCH: u32 = 100;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Clients
    #[arg(long, default_value_t = 15_000)]
    clients: u32,
    /// Events that they miss
    #[arg(long, default_value_t = 500)]
    events: u32,
    /// Bytes of an event's data
    #[arg(long, default_value_t = 200)]
    bytes: u32,
    /// Time over which they come back, each at some moment of it
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    spread: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    let mut hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    let address = hub.address;
    let listen = address.to_string();

    report.section(format!("{} clients connect", options.clients));
    insert(&stage, options).await?;
    let mut head = u64::from(options.events);
    hub.reach(head).await?;
    let fleet = Fleet::open(address, options.clients).await?;
    report.add("resident_kib", hub.usage()?.resident_kib);
    fleet.take_tally()?;

    report.section("the clients hang up; their cursors are in the ring");
    fleet.cut();
    insert(&stage, options).await?;
    head += u64::from(options.events);
    hub.reach(head).await?;
    come_back(&mut report, options, &stage, &hub, &fleet, head).await?;
    let pages = hub.metric("bellwether_history_pages_read_total").await?;
    report.expect(
        pages == 0,
        format!("{pages} pages read, though all is in the ring"),
    );

    report.section("the hub is killed and started again; their cursors are in the ring");
    hub.kill().await?;
    fleet.cut();
    insert(&stage, options).await?;
    head += u64::from(options.events);
    fleet.take_tally()?;
    hub = stage.start_hub(&listen, &[]).await?;
    come_back(&mut report, options, &stage, &hub, &fleet, head).await?;
    let pages = hub.metric("bellwether_history_pages_read_total").await?;
    report.expect(
        pages == 0,
        format!("{pages} pages read, though all is in the ring"),
    );

    report.section("the hub is killed and started again; their cursors are before the ring");
    hub.kill().await?;
    fleet.cut();
    insert(&stage, options).await?;
    head += u64::from(options.events);
    fleet.take_tally()?;
    hub = stage
        .start_hub(&listen, &["--ring-events=100".to_owned()])
        .await?;
    come_back(&mut report, options, &stage, &hub, &fleet, head).await?;

    drop(fleet);
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// Lets the clients come back and says how it went.
async fn come_back(
    report: &mut Report,
    options: &Options,
    stage: &Stage,
    hub: &Hub,
    fleet: &Fleet,
    head: u64,
) -> Result<()> {
    let (before, postgres) = (hub.usage()?, stage.processor()?);
    let time = fleet.come_back(options.spread, head).await?;
    let (after, tally) = (hub.usage()?, fleet.take_tally()?);
    report.add_ms("until_all_have_all", time);
    report.add_quantiles("client_catch_up", &tally.catch_ups);
    report.add("deliveries", tally.deliveries);
    report.add("out_of_order", tally.out_of_order);
    report.add("broken_streams", tally.broken);
    for counter in ["history_pages_read", "history_page_hits"] {
        let value = hub.metric(&format!("bellwether_{counter}_total")).await?;
        report.add(counter, value);
    }
    report.add_ms(
        "hub_processor",
        after.processor.saturating_sub(before.processor),
    );
    report.add_ms(
        "postgres_processor",
        stage.processor()?.saturating_sub(postgres),
    );
    report.add("resident_kib", after.resident_kib);
    report.add("peak_kib", after.peak_kib);
    let due = u64::from(options.clients) * u64::from(options.events);
    let got = tally.deliveries;
    report.expect(got == due, format!("{got} deliveries instead of {due}"));
    report.expect(tally.out_of_order == 0, "events out of order");
    Ok(())
}

async fn insert(stage: &Stage, options: &Options) -> Result<()> {
    let mut rest = options.events;
    while rest > 0 {
        let batch = rest.min(BATCH);
        writer::insert(&stage.url(), batch, options.bytes).await?;
        rest -= batch;
    }
    Ok(())
}
