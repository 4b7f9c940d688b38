//! What being attached costs those who insert: single rows, committed one by one.

use anyhow::Result;
use std::time::Duration;
use tokio_postgres::Client;

use crate::{
    fleet::Fleet,
    report::{Report, median, tenths},
    stage::Stage,
    tables::{self, Listener, TABLES, Written},
    writer,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How many write at the same time: each of these is measured
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    writers: Vec<u32>,
    /// Clients that are given what is written to the attached table
    #[arg(long, default_value_t = 1)]
    clients: u32,
    /// Rounds; each writes to each of the tables
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// How long to write to a table
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// How much longer than this machine's a flush takes
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    flush: Duration,
}

/// What one table's writers did in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Rows a second.
    rate: f64,
    /// Of the server, the hub's sessions included, and of the hub.
    us_per_row: f64,
    flushes_per_row: f64,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build_slow(options.flush).await?;
    let mut report = Report::default();
    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    tables::create(&stage.url()).await?;
    let _listener = Listener::connect(&stage.url()).await?;
    let watcher = writer::connect(&stage.url()).await?;
    let fleet = Fleet::open(hub.address, options.clients).await?;

    let mut head = 0;
    for &writers in &options.writers {
        let mut rounds = TABLES.map(|_| Vec::new());
        let mut latencies = Vec::new();
        // The first round is not like the others: files grow, pages are read.
        for n in 0..=options.rounds {
            for (table, rounds) in TABLES.iter().zip(&mut rounds) {
                hub.fall_asleep().await?;
                fleet.take_tally()?;
                let (flushed, used) = (flushes(&watcher).await?, stage.processor()?);
                let used = used + hub.usage()?.processor;
                let written =
                    tables::write(&stage.url(), table, writers, None, options.time).await?;
                if *table == "attached" {
                    head += written.rows;
                    fleet.reach(head).await?;
                    latencies.push(fleet.take_tally()?.latencies);
                }
                let used = (stage.processor()? + hub.usage()?.processor).saturating_sub(used);
                let flushed = flushes(&watcher).await? - flushed;
                if n > 0 {
                    rounds.push(Round::of(&written, used, flushed));
                }
            }
        }
        report.section(format!("{writers} writers"));
        let [plain, ..] = rounds.clone();
        for (table, rounds) in TABLES.iter().zip(&rounds) {
            let all = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
            let mut rates = all(|round| round.rate);
            report.add(&format!("{table}_rows_per_s"), median(&mut rates).round());
            report.add(&format!("{table}_rows_per_s_min"), rates[0].round());
            let max = rates[rates.len() - 1].round();
            report.add(&format!("{table}_rows_per_s_max"), max);
            let mut percent: Vec<f64> = plain
                .iter()
                .zip(rounds)
                .map(|(plain, round)| 100.0 * round.rate / plain.rate)
                .collect();
            report.add(&format!("{table}_percent"), tenths(median(&mut percent)));
            let (low, high) = (percent[0], percent[percent.len() - 1]);
            report.add(&format!("{table}_percent_min"), tenths(low));
            report.add(&format!("{table}_percent_max"), tenths(high));
            let used = median(&mut all(|round| round.us_per_row));
            report.add(&format!("{table}_processor_us_per_row"), tenths(used));
            let flushes = median(&mut all(|round| round.flushes_per_row));
            report.add(
                &format!("{table}_flushes_per_100_rows"),
                tenths(100.0 * flushes),
            );
        }
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let ms = |us: u64| f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0;
            let mut each: Vec<f64> = latencies
                .iter()
                .map(|latencies| ms(latencies.value_at_quantile(quantile)))
                .collect();
            let name = format!("insert_to_client_{name}_ms");
            report.add(&name, tenths(median(&mut each)));
        }
    }

    drop(fleet);
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// How often the server has flushed its log. Sessions that are still there may owe a second's.
async fn flushes(watcher: &Client) -> Result<u32> {
    let query = "SELECT wal_sync FROM pg_stat_wal";
    let flushes: i64 = watcher.query_one(query, &[]).await?.get(0);
    Ok(u32::try_from(flushes)?)
}

impl Round {
    fn of(written: &Written, used: Duration, flushes: u32) -> Self {
        let rows = f64::from(u32::try_from(written.rows).unwrap_or(u32::MAX)).max(1.0);
        Self {
            rate: rows / written.time.as_secs_f64(),
            us_per_row: used.as_secs_f64() * 1e6 / rows,
            flushes_per_row: f64::from(flushes) / rows,
        }
    }
}
