//! Many lanes of one client each: what does an event cost that is for one of them.

use anyhow::{Context, Result};
use std::time::Duration;

use crate::{
    drive::{Pace, TRANSACTIONS},
    peer::Kind,
    report::Report,
    side::{self, Round},
    stage::Stage,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Lanes, each of one client: each of these is measured, and compared with the first
    #[arg(long, value_delimiter = ',', default_values_t = [100, 10_000])]
    lanes: Vec<u32>,
    /// Events a second, each for one lane
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long to publish in a round
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Bytes of an event's data, beside some 40
    #[arg(long, default_value_t = 160)]
    bytes: u32,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    let mut rounds: Vec<Vec<Round>> = Vec::new();
    for &lanes in &options.lanes {
        report.section(format!("{lanes} lanes of one client each"));
        let mut sides = side::start(&stage, &[Kind::Hub], 1, &[]).await?;
        let side = sides.first_mut().context("it was started")?;
        side.crowds = side.peer.gather(lanes, lanes).await?;
        let mut own = Vec::new();
        for nth in 0..=options.rounds {
            let pace = Pace {
                rate: options.rate,
                transactions: TRANSACTIONS,
                time: options.time,
                lanes,
                pad: options.bytes,
                first: side.next,
            };
            let round = side.round(&stage, pace).await?;
            round.tally.is_complete()?;
            if nth > 0 {
                own.push(round);
            }
        }
        let of = |of: fn(&Round) -> f64| own.iter().map(of).collect::<Vec<_>>();
        report.add_spread("hub_us_per_event", of(|round| round.processor));
        report.add_spread("postgres_us_per_event", of(|round| round.postgres));
        let p50 = |round: &Round| side::ms(round.tally.since_insert.value_at_quantile(0.5));
        report.add_spread("insert_to_client_p50_ms", of(p50));
        rounds.push(own);
    }
    if let [first, others @ ..] = &rounds[..] {
        report
            .section("hub's processor time per event, beside that with the first number of lanes");
        for (other, lanes) in others.iter().zip(&options.lanes[1..]) {
            let pairs = first.iter().zip(other);
            let ratios = pairs.map(|(first, other)| other.processor / first.processor);
            report.add_spread(&format!("ratio_with_{lanes}"), ratios.collect());
        }
    }
    stage.tear_down().await?;
    Ok(report)
}
