//! Draws what was measured: how cost and latency grow, server by server.

use anyhow::{Context, Result};
use plotters::prelude::*;
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    report::float,
    runs::{self, Runs},
};

/// Of each picture, in pixels.
const SIZE: (u32, u32) = (720, 420);

/// Servers in the order of their colours, which suit most kinds of sight.
const SERVERS: [(&str, &str, RGBColor); 6] = [
    ("hub", "Bellwether", RGBColor(0, 114, 178)),
    ("nchan", "nchan", RGBColor(213, 94, 0)),
    ("floor", "bare loop", RGBColor(120, 120, 120)),
    ("redis", "Redis + Node", RGBColor(204, 51, 51)),
    ("textbook", "pg_notify + Node", RGBColor(204, 121, 167)),
    ("hyper", "Bellwether by hyper", RGBColor(86, 180, 233)),
];

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What `fan-out` has written; of figures that are in several, the last counts
    #[arg(default_value = "target/load/fan-out.json")]
    files: Vec<PathBuf>,
    /// Where to put the pictures
    #[arg(long, default_value = "docs/plots")]
    folder: PathBuf,
    /// Clients in pictures over rates and hubs
    #[arg(long, default_value_t = 1000)]
    clients: u64,
    /// Events a second in pictures over clients and hubs
    #[arg(long, default_value_t = 100)]
    rate: u64,
}

/// A line: its name, its colour and its points.
type Line = (String, RGBColor, Vec<(f64, f64)>);

struct Picture<'a> {
    file: &'a str,
    title: String,
    x: &'a str,
    y: &'a str,
    lines: Vec<Line>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runs = runs::read(&options.files)?;
    fs::create_dir_all(&options.folder)?;
    let (clients, rate) = (options.clients, options.rate);
    let by_rate = |figure: &str| {
        let chosen = |&(c, r, hubs): &_| (c == clients && hubs == 1).then_some(r);
        lines(&runs, figure, chosen)
    };
    let by_clients = |figure: &str| {
        let chosen = |&(c, r, hubs): &_| (r == rate && hubs == 1).then_some(c);
        lines(&runs, figure, chosen)
    };
    let by_hubs = |figure: &str| {
        let chosen = |&(c, r, hubs): &_| (c == clients && r == rate).then_some(hubs);
        lines(&runs, figure, chosen)
    };
    let (cost, p50, p99) = (
        "us_per_delivery",
        "insert_to_client_p50_ms",
        "insert_to_client_p99_ms",
    );
    let pictures = [
        Picture {
            file: "cost-by-rate.svg",
            title: format!("Processor time of the server, {clients} clients"),
            x: "events a second",
            y: "µs for each delivery",
            lines: by_rate(cost),
        },
        Picture {
            file: "cost-by-clients.svg",
            title: format!("Processor time of the server, {rate} events/s"),
            x: "clients",
            y: "µs for each delivery",
            lines: by_clients(cost),
        },
        Picture {
            file: "p50-by-clients.svg",
            title: format!("From before publishing until read, median, {rate} events/s"),
            x: "clients",
            y: "ms",
            lines: by_clients(p50),
        },
        Picture {
            file: "p99-by-clients.svg",
            title: format!("From before publishing until read, 99 %, {rate} events/s"),
            x: "clients",
            y: "ms",
            lines: by_clients(p99),
        },
        Picture {
            file: "p50-by-rate.svg",
            title: format!("From before publishing until read, median, {clients} clients"),
            x: "events a second",
            y: "ms",
            lines: by_rate(p50),
        },
        Picture {
            file: "cost-by-hubs.svg",
            title: format!("Processor time of all hubs, {clients} clients, {rate} events/s"),
            x: "hubs on one database",
            y: "µs for each delivery",
            lines: by_hubs(cost),
        },
    ];
    for picture in pictures {
        let is_a_line = |(_, _, points): &Line| points.len() > 1;
        if picture.lines.iter().any(is_a_line) {
            let path = options.folder.join(picture.file);
            picture
                .draw(&path)
                .with_context(|| format!("cannot draw {}", path.display()))?;
            println!("{}", path.display());
        }
    }
    Ok(())
}

/// A figure of each server, over what is chosen.
fn lines(runs: &Runs, figure: &str, chosen: impl Fn(&(u64, u64, u64)) -> Option<u64>) -> Vec<Line> {
    let line = |&(server, name, colour): &(&str, &str, RGBColor)| {
        let points = runs.iter().filter_map(|(run, figures)| {
            let value = runs::median(figures, &format!("{server}_{figure}"))?;
            Some((float(chosen(run)?), value))
        });
        (name.to_owned(), colour, points.collect())
    };
    let lines = SERVERS.iter().map(line);
    lines
        .filter(|(_, _, points): &Line| !points.is_empty())
        .collect()
}

/// From the lowest to the highest, with some room.
fn range(numbers: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = numbers.fold((f64::MAX, f64::MIN), |(low, high), number| {
        (low.min(number), high.max(number))
    });
    low * 0.8..high * 1.25
}

impl Picture<'_> {
    fn draw(&self, path: &Path) -> Result<()> {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|(_, _, points)| points);
        let (xs, ys) = (
            range(points().map(|point| point.0)),
            range(points().map(|point| point.1)),
        );
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
        let label = |number: &f64| format!("{}", (number * 100.0).round() / 100.0);
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .light_line_style(WHITE.mix(0.0))
            .draw()?;
        for (name, colour, points) in &self.lines {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            let dots = points.iter().map(|&at| Circle::new(at, 3, colour.filled()));
            chart.draw_series(dots)?;
        }
        // Where no line is.
        let rises = |(_, _, points): &Line| match (points.first(), points.last()) {
            (Some(first), Some(last)) => last.1 > first.1,
            _ => false,
        };
        let position = if self.lines.iter().any(rises) {
            SeriesLabelPosition::UpperLeft
        } else {
            SeriesLabelPosition::UpperRight
        };
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .position(position)
            .draw()?;
        root.present()?;
        Ok(())
    }
}
