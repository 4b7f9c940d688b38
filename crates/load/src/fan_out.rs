//! The same events to the same clients by several servers, in turn.

use anyhow::Result;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    drive::{Pace, TRANSACTIONS},
    peer::Kind,
    report::{REPORTS, Report, float, rounded},
    side::{self, Round, Side, ms},
    stage::Stage,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What is measured
    #[arg(long, value_delimiter = ',', default_values = ["hub", "nchan", "floor"])]
    pub(crate) servers: Vec<Kind>,
    /// How many clients: each of these is measured
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    pub(crate) clients: Vec<u32>,
    /// Events a second: each of these is measured
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 400])]
    pub(crate) rates: Vec<u32>,
    /// Lanes that clients and events are spread over, of a hub only
    #[arg(long, default_value_t = 1)]
    pub(crate) lanes: u32,
    /// Rounds; each measures each server
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    /// How long to publish in a round
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) time: Duration,
    /// Most deliveries of a round, which is made shorter if need be
    #[arg(long, default_value_t = 3_000_000)]
    pub(crate) deliveries: u32,
    /// Bytes of an event's data, beside some 40
    #[arg(long, default_value_t = 160)]
    pub(crate) bytes: u32,
    /// Hubs that share the clients
    #[arg(long, default_value_t = 1)]
    pub(crate) hubs: u32,
    /// How much longer than this machine's a flush of Postgres takes
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) flush: Duration,
    /// Another build of the program, which `former` among the servers stands for
    #[arg(long)]
    pub(crate) former: Option<PathBuf>,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build_slow(options.flush)
        .await?
        .with_former(options.former.clone());
    let mut report = Report::default();
    let mut sides = side::start(&stage, &options.servers, options.hubs, &[]).await?;
    for &clients in &options.clients {
        report.section(format!("{clients} clients connect"));
        for side in &mut sides {
            side.crowds.clear();
            let idle = side.peer.resident_kib()?;
            side.crowds = side.peer.gather(clients, options.lanes).await?;
            let (name, now) = (side.peer.kind.name(), side.peer.resident_kib()?);
            report.add(&format!("{name}_resident_kib"), now);
            let each = float(now.saturating_sub(idle)) / f64::from(clients);
            report.add(&format!("{name}_kib_more_per_client"), rounded(each));
        }
        for &rate in &options.rates {
            measure(&mut report, &stage, &mut sides, options, clients, rate).await?;
            // It takes a while: what was measured is to be there whatever happens next.
            report.write(Path::new(REPORTS), "fan-out")?;
        }
    }
    drop(sides);
    stage.tear_down().await?;
    Ok(report)
}

/// All rounds of one number of clients and one rate.
async fn measure(
    report: &mut Report,
    stage: &Stage,
    sides: &mut [Side],
    options: &Options,
    clients: u32,
    rate: u32,
) -> Result<()> {
    let longest = f64::from(options.deliveries) * f64::from(options.lanes)
        / (f64::from(clients) * f64::from(rate));
    let time = options.time.min(Duration::from_secs_f64(longest));
    report.section(format!("{clients} clients, {rate} events/s"));
    report.add("clients", clients);
    report.add("rate", rate);
    report.add("hubs", options.hubs);
    report.add_ms("published_for", time);
    let mut rounds: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
    // The first round is not like the others: files grow, memory is allocated.
    for nth in 0..=options.rounds {
        for side in &mut *sides {
            let pace = Pace {
                rate,
                transactions: TRANSACTIONS,
                time,
                lanes: options.lanes,
                pad: options.bytes,
                first: side.next,
            };
            let round = side.round(stage, pace).await?;
            let name = side.peer.kind.name();
            if let Err(why) = round.tally.is_complete() {
                report.note(format!("{name}, {clients} clients, {rate} events/s: {why}"));
                report.expect(side.peer.hub().is_none(), format!("the hub: {why}"));
            }
            if nth > 0 {
                rounds.entry(name).or_default().push(round);
            }
        }
    }
    for side in &*sides {
        let name = side.peer.kind.name();
        let rounds = &rounds[name];
        let mut spread = |what: &str, of: &dyn Fn(&Round) -> f64| {
            report.add_spread(&format!("{name}_{what}"), rounds.iter().map(of).collect());
        };
        spread("us_per_delivery", &|round| round.processor);
        if side.peer.is_on_postgres() {
            spread("postgres_us_per_event", &|round| round.postgres);
        }
        spread("deliveries_per_read", &|round| round.deliveries_per_read);
        for (quantile, suffix) in [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p999")] {
            let insert = |round: &Round| ms(round.tally.since_insert.value_at_quantile(quantile));
            spread(&format!("insert_to_client_{suffix}_ms"), &insert);
            let commit = |round: &Round| ms(round.tally.since_commit.value_at_quantile(quantile));
            spread(&format!("commit_to_client_{suffix}_ms"), &commit);
        }
    }
    let Some((first, others)) = sides.split_first() else {
        return Ok(());
    };
    let own = first.peer.kind.name();
    for other in others {
        let other = other.peer.kind.name();
        let pairs = || rounds[own].iter().zip(&rounds[other]);
        let processor = pairs().map(|(own, other)| own.processor / other.processor);
        report.add_spread(&format!("{own}_to_{other}_processor"), processor.collect());
        for (quantile, suffix) in [(0.5, "p50"), (0.99, "p99")] {
            let of = |round: &Round| ms(round.tally.since_insert.value_at_quantile(quantile));
            let ratios = pairs().map(|(own, other)| of(own) / of(other));
            report.add_spread(&format!("{own}_to_{other}_{suffix}"), ratios.collect());
        }
    }
    Ok(())
}
