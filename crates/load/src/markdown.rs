//! What fan-out has measured, as tables in Markdown.

use anyhow::Result;
use serde_json::{Map, Value};
use std::path::PathBuf;

use crate::{
    peer::Kind,
    runs::{self, Runs, median},
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What `fan-out` has written; of figures that are in several, the last counts
    #[arg(default_value = "target/load/fan-out.json")]
    files: Vec<PathBuf>,
    /// Servers, in this order; the first is compared with the others
    #[arg(long, value_delimiter = ',', default_values = ["hub", "nchan", "floor", "floors"])]
    servers: Vec<Kind>,
}

type Figures = Map<String, Value>;

/// A column: what stands above it, and what belongs into it.
type Column<'a> = (String, Box<dyn Fn(&Figures) -> Option<String> + 'a>);

pub(crate) fn run(options: &Options) -> Result<()> {
    let runs = runs::read(&options.files)?;
    let names = options.servers.iter().map(|server| server.name());
    let own = options.servers.first().map_or("", |server| server.name());
    let mut cost: Vec<Column<'_>> = Vec::new();
    let mut times: Vec<Column<'_>> = Vec::new();
    for name in names.clone() {
        let figure = format!("{name}_us_per_delivery");
        let median = move |of: &Figures| Some(digits(median(of, &figure)?));
        cost.push((format!("{name}, µs per delivery"), Box::new(median)));
        let figure = format!("{name}_insert_to_client");
        let both = move |of: &Figures| quantiles(of, &figure);
        times.push((format!("{name}, ms"), Box::new(both)));
    }
    for name in names.skip(1) {
        let figure = format!("{own}_to_{name}_processor");
        let ratio = move |of: &Figures| spread(of.get(&figure)?);
        cost.push((format!("{own} / {name}"), Box::new(ratio)));
    }
    let figure = format!("{own}_commit_to_client");
    let since_commit = move |of: &Figures| quantiles(of, &figure);
    times.push((format!("{own}, since the commit"), Box::new(since_commit)));

    println!("Processor time, medians, and ratios of the same round (lowest and highest):\n");
    print(&runs, &cost);
    println!("\nFrom before publishing until read, median / 99 %:\n");
    print(&runs, &times);
    Ok(())
}

fn print(runs: &Runs, columns: &[Column<'_>]) {
    let heads: Vec<&str> = columns.iter().map(|(head, _)| head.as_str()).collect();
    println!("| clients | events/s | {} |", heads.join(" | "));
    println!("|---:|---:|{}", "---:|".repeat(columns.len()));
    for (&(clients, rate, _), figures) in runs {
        let cells = columns.iter().map(|(_, cell)| cell(figures));
        let cells: Vec<String> = cells.map(Option::unwrap_or_default).collect();
        println!("| {clients} | {rate} | {} |", cells.join(" | "));
    }
}

fn quantiles(of: &Figures, figure: &str) -> Option<String> {
    let quantile = |suffix| Some(digits(median(of, &format!("{figure}_{suffix}_ms"))?));
    Some(format!("{} / {}", quantile("p50")?, quantile("p99")?))
}

/// A ratio of the rounds.
fn spread(of: &Value) -> Option<String> {
    let [median, min, max] = ["median", "min", "max"].map(|name| of[name].as_f64());
    Some(format!("{:.2} ({:.2}–{:.2})", median?, min?, max?))
}

/// With two digits that say something.
fn digits(number: f64) -> String {
    match number {
        ..1.0 => format!("{number:.2}"),
        1.0..10.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}
