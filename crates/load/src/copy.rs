//! What being attached costs a bulk load.

use anyhow::Result;
use std::time::Duration;
use tokio::time::{self, Instant};

use crate::{
    fleet::Fleet,
    report::Report,
    stage::Stage,
    tables::{self, Listener, TABLES},
    writer,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Rows, in one COPY
    #[arg(long, default_value_t = 1_000_000)]
    rows: u32,
    /// Rounds; each loads into each of the tables
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How much longer than this machine's a flush takes
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    flush: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build_slow(options.flush).await?;
    let mut report = Report::default();
    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    tables::create(&stage.url()).await?;
    let listener = Listener::connect(&stage.url()).await?;
    let client = writer::connect(&stage.url()).await?;
    let fleet = Fleet::open(hub.address, 1).await?;

    let file = stage.server_folder().join("rows");
    let file = file.display();
    let rows = options.rows;
    client
        .batch_execute(&format!(
            "COPY (SELECT n, repeat('x', 64) FROM generate_series(1, {rows}) AS n) TO '{file}'"
        ))
        .await?;
    for round in 1..=options.rounds {
        report.section(format!("round {round}"));
        for table in TABLES {
            let (used, start) = (stage.processor()?, Instant::now());
            let copied = client
                .batch_execute(&format!("COPY {table} (t, note) FROM '{file}'"))
                .await;
            report.add_ms(table, start.elapsed());
            match (copied, table) {
                (Err(error), _) => {
                    let what = error
                        .as_db_error()
                        .map_or("lost".to_owned(), |error| error.message().to_owned());
                    report.add(&format!("{table}_failed"), what);
                }
                (Ok(()), "attached") => {
                    fleet.reach(u64::from(round * rows)).await?;
                    report.add_ms("attached_until_client_has_all", start.elapsed());
                }
                (Ok(()), "textbook") => {
                    while listener.heard() < u64::from(round * rows) {
                        time::sleep(Duration::from_millis(10)).await;
                    }
                    report.add_ms("textbook_until_listener_has_all", start.elapsed());
                }
                _ => {}
            }
            let used = stage.processor()?.saturating_sub(used);
            report.add_ms(&format!("{table}_postgres_processor"), used);
        }
    }
    let tally = fleet.take_tally()?;
    report.expect(tally.out_of_order == 0, "events out of order");

    drop(fleet);
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}
