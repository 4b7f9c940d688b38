//! How many requests to publish a hub answers.

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

use crate::{
    report::{Report, tenths},
    stage::Stage,
    writer,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How many publish at the same time: each of these is measured
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256])]
    publishers: Vec<u32>,
    /// How long each of them is measured
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// How much longer than this machine's a flush takes
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    flush: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build_slow(options.flush).await?;
    let mut report = Report::default();
    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    let watcher = writer::connect(&stage.url()).await?;
    // Not like the others: connections are made, files grow.
    publish(hub.address, 16, Duration::from_secs(1)).await?;
    for &publishers in &options.publishers {
        report.section(format!("{publishers} publishers"));
        let newest = "SELECT max(id) FROM bellwether.event";
        let newest: i64 = watcher.query_one(newest, &[]).await?.get(0);
        let start = Instant::now();
        let latencies = publish(hub.address, publishers, options.time).await?;
        let time = start.elapsed();
        let count = "SELECT count(*), count(DISTINCT xid) FROM bellwether.event WHERE id > $1";
        let row = watcher.query_one(count, &[&newest]).await?;
        let (events, commits): (i64, i64) = (row.get(0), row.get(1));
        report.expect(
            u64::try_from(events)? == latencies.len(),
            format!("{events} events of {} requests", latencies.len()),
        );
        let events = f64::from(u32::try_from(events)?);
        report.add("requests_per_s", (events / time.as_secs_f64()).round());
        let commits = f64::from(u32::try_from(commits)?);
        report.add("events_per_commit", tenths(events / commits));
        report.add_quantiles("request", &latencies);
    }
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// Publishers that each send request after request for so long. Returns how long each of those
/// took, in microseconds.
async fn publish(address: SocketAddr, publishers: u32, time: Duration) -> Result<Histogram<u64>> {
    let mut tasks = JoinSet::new();
    let end = Instant::now() + time;
    for _ in 0..publishers {
        tasks.spawn(async move {
            let stream = TokioIo::new(TcpStream::connect(address).await?);
            let (mut sender, connection) = http1::handshake(stream).await?;
            // Its sender sees the same error.
            tokio::spawn(connection);
            let mut latencies = Histogram::<u64>::new(3)?;
            while Instant::now() < end {
                let event =
                    Bytes::from_static(br#"{"topic": "load", "event": "e", "data": {"n": 1}}"#);
                let request = Request::post("/v1/events")
                    .header(header::HOST, "hub")
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(Full::new(event))?;
                let start = Instant::now();
                let response = sender.send_request(request).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                ensure!(status == StatusCode::CREATED, "{status}: {body:?}");
                latencies.record(u64::try_from(start.elapsed().as_micros())?)?;
            }
            Ok(latencies)
        });
    }
    let mut latencies = Histogram::new(3)?;
    while let Some(done) = tasks.join_next().await {
        latencies.add(done??)?;
    }
    Ok(latencies)
}
