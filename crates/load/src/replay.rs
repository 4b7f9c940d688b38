//! Clients come back after a very long time: how fast are they given what they missed.

use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::Instant;

use crate::{
    crowd::Written,
    peer::{Kind, Peer},
    report::{Report, float},
    side,
    stage::Stage,
    writer,
};

/// Events in one transaction.
const BATCH: u32 = 50_000;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Events that it missed
    #[arg(long, default_value_t = 1_000_000)]
    events: u32,
    /// Clients that come back
    #[arg(long, default_value_t = 1)]
    clients: u32,
    /// Events between the places of two clients: the first has missed all of them, the second so many less
    #[arg(long, default_value_t = 0)]
    apart: u64,
    /// Rounds, each with a hub that has just started
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Bytes of an event's data, beside some 40
    #[arg(long, default_value_t = 160)]
    bytes: u32,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    report.section(format!("{} events", options.events));
    let sides = side::start(&stage, &[Kind::Hub], 1, &[]).await?;
    let client = writer::connect(&stage.url()).await?;
    let mut from = 1;
    while from <= options.events {
        let to = options.events.min(from + BATCH - 1);
        let rows = format!(
            "INSERT INTO load (n, t, lane, pad)
             SELECT n, 1, 0, repeat('x', {}) FROM generate_series({from}, {to}) AS n",
            options.bytes
        );
        client.execute(&rows, &[]).await?;
        from = to + 1;
    }
    let hub = sides[0].peer.hub().context("it is a hub")?;
    hub.reach(u64::from(options.events)).await?;
    let epoch = "SELECT id FROM bellwether.epoch ORDER BY n DESC LIMIT 1";
    let epoch: String = client.query_one(epoch, &[]).await?.get(0);
    drop(sides);

    let events = u64::from(options.events);
    let sum = |n: u64| n * (n + 1) / 2;
    let places = (0..u64::from(options.clients)).map(|client| client * options.apart);
    let written = Written {
        events,
        due: places
            .map(|place| {
                let missed = events.checked_sub(place);
                let missed = missed.context("the last client would have missed none")?;
                Ok((missed, sum(events) - sum(place)))
            })
            .collect::<Result<_>>()?,
        ..Written::default()
    };
    let (mut rates, mut growths, mut pages, mut hub_time, mut postgres_time) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        // What is in the ring would not come from the database.
        let ring = ["--ring-events=1000".to_owned()];
        let mut peer = Peer::start(Kind::Hub, &stage, 1, &ring).await?;
        peer.path = "/v1/stream?topic=load.0";
        peer.header = Some(format!("Last-Event-ID: {epoch}-{{after}}"));
        peer.apart = options.apart;
        let hub = peer.hub().context("it is a hub")?;
        let (before, postgres) = (hub.usage()?, stage.processor()?);
        let start = Instant::now();
        let mut crowds = peer.gather(options.clients, options.clients).await?;
        let tally = crowds[0].end(&written).await?;
        let time = start.elapsed();
        tally.is_complete()?;
        let hub = peer.hub().context("it is a hub")?;
        let after = hub.usage()?;
        let per_s = float(tally.deliveries) / time.as_secs_f64();
        rates.push(per_s.round());
        growths.push(float(after.peak_kib.saturating_sub(before.resident_kib)));
        let read = hub.metric("bellwether_history_pages_read_total").await?;
        pages.push(float(read));
        let used = |time: Duration| time.as_secs_f64() * 1e3;
        hub_time.push(used(after.processor.saturating_sub(before.processor)));
        postgres_time.push(used(stage.processor()?.saturating_sub(postgres)));
    }
    report.add_spread("deliveries_per_s", rates);
    report.add_spread("hub_grew_by_at_most_kib", growths);
    report.add_spread("pages_read", pages);
    report.add_spread("hub_processor_ms", hub_time);
    report.add_spread("postgres_processor_ms", postgres_time);
    stage.tear_down().await?;
    Ok(report)
}
