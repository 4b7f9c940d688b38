//! Dashboards that are polled for, as the tutorials have it, and the same dashboards on a hub.
//!
//! The tutorials' route keeps a stream for each client and asks the database every 2 s for what
//! is newest: one row of `metrics_snapshots`, five of `events`. It is done here with as little as
//! it takes, prepared and from a pool of ten connections, and runs in this process, so its own
//! processor time is not counted.

use anyhow::{Context, Result};
use deadpool_postgres::{Config, Pool, Runtime};
use hdrhistogram::Histogram;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_postgres::NoTls;

use crate::{
    report::{Report, tenths},
    stage::{Hub, Stage},
    writer::{connect, now},
};

const TABLES: &str = "
    CREATE TABLE events (
        id serial PRIMARY KEY, name text NOT NULL, properties jsonb, created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE metrics_snapshots (
        id serial PRIMARY KEY, page_views int, active_sessions int, events_count int,
        recorded_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO events (name, properties)
        SELECT 'page_view', '{\"page\": \"/\"}' FROM generate_series(1, 200);
    INSERT INTO metrics_snapshots (page_views, active_sessions, events_count)
        SELECT n, n, n FROM generate_series(1, 30) AS n";

const SNAPSHOT: &str = "SELECT row_to_json(newest)::text FROM (
    SELECT * FROM metrics_snapshots ORDER BY id DESC LIMIT 1) AS newest";
const ACTIVITY: &str = "SELECT json_agg(newest)::text FROM (
    SELECT * FROM events ORDER BY id DESC LIMIT 5) AS newest";

/// Connections of the route to the database.
const POOL: usize = 10;
/// Between two snapshots.
const SNAPSHOTS: Duration = Duration::from_secs(2);
/// Until all goes on evenly, and sessions have told the server what they did, as they do each second.
const SETTLED: Duration = Duration::from_millis(2_500);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Dashboards that are open
    #[arg(long, default_value_t = 200)]
    dashboards: u32,
    /// Rows a second in `events`, when something happens
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// How often the route asks, for each dashboard
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// How long each way is measured
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// How long after its INSERT was sent an event was on a dashboard, in microseconds.
type Ages = Arc<Mutex<Histogram<u64>>>;

/// What was measured of one way, per second.
struct Cost {
    transactions: f64,
    processor: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    connect(&stage.url()).await?.batch_execute(TABLES).await?;

    for rate in [0, options.rate] {
        report.section(format!("nobody looks, {rate} rows/s"));
        measure(&stage, &mut report, options, rate, None, &ages()?).await?;
    }

    let route = TcpListener::bind("127.0.0.1:0").await?;
    let address = route.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(route, pool(&stage.url())?, options.every));
    let mut polled = None;
    let seen = ages()?;
    let dashboards = open(address, options.dashboards, options.every, &seen).await?;
    for rate in [0, options.rate] {
        report.section(format!(
            "{} dashboards, polled, {rate} rows/s",
            options.dashboards
        ));
        polled = Some(measure(&stage, &mut report, options, rate, None, &seen).await?);
    }
    drop((tasks, dashboards));

    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    for (table, topic) in [("events", "events"), ("metrics_snapshots", "metrics")] {
        stage.command(&["attach", table, "--topic", topic]).await?;
    }
    let mut pushed = None;
    let seen = ages()?;
    let dashboards = open(hub.address, options.dashboards, Duration::ZERO, &seen).await?;
    for rate in [0, options.rate] {
        report.section(format!(
            "{} dashboards, on a hub, {rate} rows/s",
            options.dashboards
        ));
        pushed = Some(measure(&stage, &mut report, options, rate, Some(&hub), &seen).await?);
    }
    drop(dashboards);

    let (polled, pushed) = polled.zip(pushed).context("both were measured")?;
    report.section("polled, as a multiple of on a hub, while something happens");
    report.add(
        "transactions",
        tenths(polled.transactions / pushed.transactions),
    );
    let processor = polled.processor.as_secs_f64() / pushed.processor.as_secs_f64();
    report.add("postgres_processor", tenths(processor));
    report.expect(
        processor > 1.0,
        "polling costs the server no more than a hub",
    );

    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// Lets things happen for a while, and looks what that costs.
async fn measure(
    stage: &Stage,
    report: &mut Report,
    options: &Options,
    rate: u32,
    hub: Option<&Hub>,
    seen: &Ages,
) -> Result<Cost> {
    let psql = connect(&stage.url()).await?;
    let count =
        "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()";
    let transactions = async || anyhow::Ok(psql.query_one(count, &[]).await?.try_get::<_, f64>(0)?);
    let mut happening = JoinSet::new();
    happening.spawn(happen(stage.url(), rate));
    time::sleep(SETTLED).await;
    lock(seen).reset();
    let (before, processor) = (transactions().await?, stage.processor()?);
    let hub_before = hub.map(Hub::usage).transpose()?;
    time::sleep(options.time).await;
    let processor = stage.processor()?.saturating_sub(processor);
    let hub_after = hub.map(Hub::usage).transpose()?;
    let transactions = transactions().await? - before;
    if let Some(ended) = happening.try_join_next() {
        ended??;
    }

    let per_second = transactions / options.time.as_secs_f64();
    report.add("transactions_per_s", tenths(per_second));
    let percent = |time: Duration| tenths(100.0 * time.as_secs_f64() / options.time.as_secs_f64());
    report.add("postgres_processor_percent", percent(processor));
    if let (Some(before), Some(after)) = (hub_before, hub_after) {
        let processor = after.processor.saturating_sub(before.processor);
        report.add("hub_processor_percent", percent(processor));
    }
    let seen = lock(seen).clone();
    if rate > 0 && !seen.is_empty() {
        report.add_quantiles("insert_to_dashboard", &seen);
        report.add("deliveries", seen.len());
    }
    Ok(Cost {
        transactions: per_second,
        processor,
    })
}

/// Visitors, and a snapshot of them every 2 s, for ever. Nothing at all at a rate of 0.
async fn happen(url: String, rate: u32) -> Result<()> {
    if rate == 0 {
        return std::future::pending().await;
    }
    let psql = connect(&url).await?;
    let visit = "INSERT INTO events (name, properties)
        VALUES ('page_view', json_build_object('page', '/', 'sent_us', $1::bigint))";
    let count = "INSERT INTO metrics_snapshots (page_views, active_sessions, events_count)
        VALUES (1000, 50, 2000)";
    let (visit, count) = (psql.prepare(visit).await?, psql.prepare(count).await?);
    let mut visits = time::interval(Duration::from_secs(1) / rate);
    let mut snapshots = time::interval(SNAPSHOTS);
    loop {
        tokio::select! {
            _ = visits.tick() => {
                let sent = i64::try_from(now())?;
                psql.execute(&visit, &[&sent]).await?;
            }
            _ = snapshots.tick() => {
                psql.execute(&count, &[]).await?;
            }
        }
    }
}

// === the route ===

fn pool(url: &str) -> Result<Pool> {
    let mut config = Config::new();
    config.url = Some(url.to_owned());
    config.pool = Some(deadpool_postgres::PoolConfig::new(POOL));
    Ok(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
}

async fn serve(listener: TcpListener, pool: Pool, every: Duration) -> Result<()> {
    let mut clients = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        // An error is that a client has left.
        clients.spawn(poll(stream, pool.clone(), every));
    }
}

/// One client's stream: what is newest, again and again.
async fn poll(stream: TcpStream, pool: Pool, every: Duration) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\n\
        Connection: close\r\n\r\nretry: 5000\n\n";
    stream.write_all(head.as_bytes()).await?;
    let mut ticks = time::interval(every);
    for id in 1_u64.. {
        ticks.tick().await;
        let client = pool.get().await?;
        let mut text = String::new();
        for (name, query) in [("metrics", SNAPSHOT), ("activity", ACTIVITY)] {
            let query = client.prepare_cached(query).await?;
            let data: String = client.query_one(&query, &[]).await?.try_get(0)?;
            // JSON of several rows has line breaks, which end a line of data.
            let data = data.replace('\n', "");
            text += &format!("id: {id}\nevent: {name}\ndata: {data}\n\n");
        }
        drop(client);
        text += ": heartbeat\n\n";
        stream.write_all(text.as_bytes()).await?;
    }
    Ok(())
}

// === dashboards ===

fn ages() -> Result<Ages> {
    Ok(Arc::new(Mutex::new(Histogram::new(3)?)))
}

fn lock(ages: &Ages) -> std::sync::MutexGuard<'_, Histogram<u64>> {
    ages.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens so many, evenly over some time, as people do.
async fn open(
    address: SocketAddr,
    count: u32,
    over: Duration,
    seen: &Ages,
) -> Result<JoinSet<Result<()>>> {
    let mut dashboards = JoinSet::new();
    for _ in 0..count {
        dashboards.spawn(follow(TcpStream::connect(address).await?, Arc::clone(seen)));
        time::sleep(over / count).await;
    }
    Ok(dashboards)
}

/// Reads a stream and takes down how old each event is that it has not had yet.
async fn follow(stream: TcpStream, seen: Ages) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let request = "GET /v1/stream?topic=events&topic=metrics HTTP/1.1\r\nHost: hub\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let (mut line, mut last) = (Vec::new(), 0);
    while stream.read_until(b'\n', &mut line).await? > 0 {
        let now = now();
        let text = String::from_utf8_lossy(&line);
        let sent = text.split("\"sent_us\": ").skip(1);
        let sent = sent.filter_map(|rest| rest.split('}').next()?.parse::<u64>().ok());
        let mut fresh: Vec<u64> = sent.filter(|&sent| sent > last).collect();
        last = fresh.iter().copied().max().unwrap_or(last);
        fresh
            .drain(..)
            .for_each(|sent| lock(&seen).saturating_record(now.saturating_sub(sent)));
        line.clear();
    }
    Ok(())
}
