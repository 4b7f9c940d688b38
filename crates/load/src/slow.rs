//! Connections that never finish what they began: what it costs the hub, and what clients notice.

use anyhow::Result;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time,
};

use crate::{fleet::Fleet, report::Report, stage::Stage, writer};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Clients that are to notice nothing
    #[arg(long, default_value_t = 1_000)]
    clients: u32,
    /// Connections that say nothing, or a byte now and then, and begin anew when they are cut
    #[arg(long, default_value_t = 10_000)]
    attackers: u32,
    /// Events a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long, without and with them
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    time: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build().await?;
    let mut report = Report::default();
    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    let fleet = Fleet::open(hub.address, options.clients).await?;
    let mut head = 0;
    let mut attack = JoinSet::new();
    for attackers in [0, options.attackers] {
        report.section(format!(
            "{} clients, {attackers} attackers",
            options.clients
        ));
        for n in 0..attackers {
            attack.spawn(attacker(hub.address, n));
        }
        if attackers > 0 {
            while hub.metric("bellwether_connections").await? < u64::from(attackers * 9 / 10) {
                time::sleep(Duration::from_millis(50)).await;
            }
        }
        fleet.take_tally()?;
        let before = hub.usage()?;
        let inserted = writer::run(&stage.url(), options.rate, 200, options.time).await?;
        head += inserted;
        fleet.reach(head).await?;
        let (after, tally) = (hub.usage()?, fleet.take_tally()?);
        report.add("events", inserted);
        report.add("deliveries", tally.deliveries);
        report.add("broken", tally.broken);
        report.add("connections", hub.metric("bellwether_connections").await?);
        report.add_quantiles("latency", &tally.latencies);
        report.add_ms(
            "hub_processor",
            after.processor.saturating_sub(before.processor),
        );
        report.add("resident_kib", after.resident_kib);
        report.add("peak_kib", after.peak_kib);
        let cut = hub
            .metric("bellwether_refusals_total{limit=\"time\"}")
            .await?;
        report.add("cut_for_time", cut);
        let due = inserted * u64::from(options.clients);
        report.expect(
            tally.deliveries == due,
            "deliveries are missing or too many",
        );
        report.expect(tally.broken == 0, "clients were cut off");
    }
    attack.shutdown().await;
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// Comes back whenever it is cut.
async fn attacker(hub: SocketAddr, n: u32) {
    loop {
        // Neither a connection that fails nor one that is cut is its end.
        let _ = drip(hub, n).await;
        time::sleep(Duration::from_millis(100)).await;
    }
}

async fn drip(hub: SocketAddr, n: u32) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 256 + n % 64);
    socket.bind((source, 0).into())?;
    let mut stream: TcpStream = socket.connect(hub).await?;
    let begin: &[u8] = match n % 4 {
        0 => b"",
        1 => b"GET /v1/stream?topic=load HTTP/1.1\r\nHost: t\r\n",
        2 => b"POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n[",
        _ => b"PRI * HTTP/2.0\r\n\r\n",
    };
    stream.write_all(begin).await?;
    for &byte in b"X-Slow: a\r\n".iter().cycle() {
        time::sleep(Duration::from_secs(1)).await;
        if n % 4 != 3 {
            stream.write_all(&[byte]).await?;
        }
    }
    Ok(())
}
