//! Dashboards for which the database is polled, as a tutorial has it, and the same dashboards on
//! a hub: what each costs Postgres.

mod dashboards;
mod route;

use anyhow::{Context, Result};
use std::{future, time::Duration};
use tokio::{task::JoinSet, time};
use tokio_postgres::Client;

use crate::{
    report::{Report, float, tenths},
    stage::{Hub, Stage},
    writer::{connect, now},
};
use dashboards::Dashboards;
use route::Route;

/// The tutorial's tables, seeded as it seeds them.
const TABLES: &str = r#"
    CREATE TABLE events (
        id serial PRIMARY KEY, name text NOT NULL, properties jsonb,
        created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE metrics_snapshots (
        id serial PRIMARY KEY, page_views int, active_sessions int, events_count int,
        recorded_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO events (name, properties, created_at)
        SELECT 'page_view', '{"page": "/"}', now() - interval '18 seconds' * (200 - n)
        FROM generate_series(1, 200) AS n;
    INSERT INTO metrics_snapshots (page_views, active_sessions, events_count, recorded_at)
        SELECT n, n, n, now() - interval '2 minutes' * (30 - n) FROM generate_series(1, 30) AS n;
    ANALYZE events, metrics_snapshots"#;

/// Between two snapshots of the figures.
const SNAPSHOTS: Duration = Duration::from_secs(2);
/// Until all goes on evenly, and sessions have told the server what they did, as they do each second.
const SETTLED: Duration = Duration::from_millis(2_500);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Dashboards that are open
    #[arg(long, default_value_t = 200)]
    dashboards: u32,
    /// Rows a second in `events`; with any there is a snapshot of figures every 2 s, too
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2, 20])]
    rates: Vec<u32>,
    /// How often the route asks for each dashboard
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// How long to measure each rate
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// What Postgres had to do.
struct Cost {
    queries_per_s: f64,
    processor_percent: f64,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    connect(&stage.url()).await?.batch_execute(TABLES).await?;
    let name =
        |how: &str, rate: u32| format!("{} dashboards {how}, {rate} rows/s", options.dashboards);

    for &rate in &options.rates {
        report.section(format!("nobody looks, {rate} rows/s"));
        measure(&stage, options, rate, None, None, &mut report).await?;
    }

    let route = Route::start(&stage.url(), options.every).await?;
    let mut dashboards = Dashboards::open(route.address, options.dashboards, options.every).await?;
    let mut polled = Vec::new();
    for &rate in &options.rates {
        report.section(name("polled", rate));
        let seen = Some(&mut dashboards);
        polled.push(measure(&stage, options, rate, seen, None, &mut report).await?);
    }
    drop((dashboards, route));

    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    for (table, topic) in [("events", "events"), ("metrics_snapshots", "metrics")] {
        stage.command(&["attach", table, "--topic", topic]).await?;
    }
    let mut dashboards = Dashboards::open(hub.address, options.dashboards, options.every).await?;
    let mut pushed = Vec::new();
    for &rate in &options.rates {
        report.section(name("on a hub", rate));
        let seen = Some(&mut dashboards);
        pushed.push(measure(&stage, options, rate, seen, Some(&hub), &mut report).await?);
    }
    drop(dashboards);

    report.section("polled, as a multiple of on a hub");
    for ((rate, polled), pushed) in options.rates.iter().zip(polled).zip(pushed) {
        let queries = polled.queries_per_s / pushed.queries_per_s;
        report.add(&format!("queries_at_{rate}"), tenths(queries));
        let processor = polled.processor_percent / pushed.processor_percent;
        report.add(&format!("processor_at_{rate}"), tenths(processor));
    }
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// Lets things happen for a while, and looks what that costs.
async fn measure(
    stage: &Stage,
    options: &Options,
    rate: u32,
    mut seen: Option<&mut Dashboards>,
    hub: Option<&Hub>,
    report: &mut Report,
) -> Result<Cost> {
    let client = connect(&stage.url()).await?;
    let mut happening = JoinSet::new();
    happening.spawn(happen(stage.url(), rate));
    time::sleep(SETTLED).await;

    let rows_before = rows(&client).await?;
    if let Some(dashboards) = &mut seen {
        dashboards.forget();
    }
    let hub_before = hub.map(Hub::usage).transpose()?;
    let (queries, processor) = (queries(&client).await?, stage.processor()?);
    time::sleep(options.time).await;
    let processor = stage.processor()?.saturating_sub(processor);
    let queries = self::queries(&client).await? - queries;
    let hub_after = hub.map(Hub::usage).transpose()?;
    let rows = rows(&client).await? - rows_before;
    if let Some(ended) = happening.try_join_next() {
        ended?.context("nothing happens any more")?;
    }

    let percent = |time: Duration| 100.0 * time.as_secs_f64() / options.time.as_secs_f64();
    let cost = Cost {
        queries_per_s: queries / options.time.as_secs_f64(),
        processor_percent: percent(processor),
    };
    report.add("queries_per_s", tenths(cost.queries_per_s));
    report.add("postgres_processor_percent", tenths(cost.processor_percent));
    if let (Some(before), Some(after)) = (hub_before, hub_after) {
        let processor = after.processor.saturating_sub(before.processor);
        report.add("hub_processor_percent", tenths(percent(processor)));
    }
    if let Some(dashboards) = seen {
        let ages = dashboards.ages()?;
        if rows > 0.0 {
            let all = rows * f64::from(options.dashboards);
            report.add(
                "rows_shown_percent",
                tenths(100.0 * float(ages.len()) / all),
            );
            report.add_quantiles("insert_to_dashboard", &ages);
        }
    }
    Ok(cost)
}

/// Visitors, and a snapshot of their figures now and then, for ever. Nothing at all at a rate of 0.
async fn happen(url: String, rate: u32) -> Result<()> {
    if rate == 0 {
        return future::pending().await;
    }
    let client = connect(&url).await?;
    let visit = "INSERT INTO events (name, properties)
        VALUES ('page_view', jsonb_build_object('page', '/', 'sent_us', $1::bigint))";
    let count = "INSERT INTO metrics_snapshots (page_views, active_sessions, events_count)
        VALUES (1000, 50, 2000)";
    let (visit, count) = (client.prepare(visit).await?, client.prepare(count).await?);
    let mut visits = time::interval(Duration::from_secs(1) / rate);
    let mut snapshots = time::interval(SNAPSHOTS);
    loop {
        tokio::select! {
            _ = visits.tick() => client.execute(&visit, &[&i64::try_from(now())?]).await?,
            _ = snapshots.tick() => client.execute(&count, &[]).await?,
        };
    }
}

/// Queries so far, of all sessions: each is a transaction of its own.
async fn queries(client: &Client) -> Result<f64> {
    let query =
        "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()";
    Ok(client.query_one(query, &[]).await?.try_get(0)?)
}

/// Rows in `events` so far.
async fn rows(client: &Client) -> Result<f64> {
    let query = "SELECT last_value::float8 FROM events_id_seq";
    Ok(client.query_one(query, &[]).await?.try_get(0)?)
}
