//! Many streams on each connection of HTTP/2, or TLS on each connection: what a stream costs.

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    sync::Barrier,
    task::JoinSet,
    time,
};
use tokio_rustls::TlsConnector;

use crate::{
    fleet::{Reader, Tally},
    report::{Report, tenths},
    stage::Stage,
    writer,
};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_mins(2);

/// The name that the hub's certificate is for.
const NAME: &str = "hub.test";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Connections
    #[arg(long, default_value_t = 150)]
    connections: u32,
    /// Streams on each of them; of HTTP/1.1, one
    #[arg(long, default_value_t = 100)]
    streams: u32,
    /// HTTP/1.1
    #[arg(long)]
    http1: bool,
    /// TLS
    #[arg(long)]
    tls: bool,
    /// Events a second
    #[arg(long, default_value_t = 5)]
    rate: u32,
    /// Bytes of an event's data
    #[arg(long, default_value_t = 200)]
    bytes: u32,
    /// How long events come
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    time: Duration,
}

/// What all streams have in common.
struct Shared {
    /// All have begun, and this one.
    begun: Barrier,
    tally: Mutex<Tally>,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for S {}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let streams = if options.http1 { 1 } else { options.streams };
    let all = options.connections * streams;
    let stage = Stage::build().await?;
    let mut report = Report::default();
    let (certificate, flags) = certificate()?;
    let mut args = vec![
        "--max-streams-per-connection".to_owned(),
        streams.to_string(),
    ];
    if options.tls {
        args.extend(flags);
    }
    let hub = stage.start_hub("127.0.0.1:0", &args).await?;
    let connector = connector(&certificate.path().join("cert.pem"), options.http1)?;
    report.section(format!(
        "{all} streams on {} connections of {}{}",
        options.connections,
        if options.http1 { "HTTP/1.1" } else { "HTTP/2" },
        if options.tls { " with TLS" } else { "" },
    ));
    let before = hub.usage()?;
    let shared = Arc::new(Shared {
        begun: Barrier::new(usize::try_from(all)? + 1),
        tally: Mutex::new(Tally::new()?),
    });
    let mut tasks = JoinSet::new();
    for n in 0..options.connections {
        let stream = connect(hub.address, n).await?;
        if options.tls {
            let name = ServerName::try_from(NAME)?;
            let stream = connector.connect(name, stream).await?;
            open(stream, streams, options.http1, &shared, &mut tasks).await?;
        } else {
            open(stream, streams, options.http1, &shared, &mut tasks).await?;
        }
    }
    time::timeout(LIMIT, shared.begun.wait())
        .await
        .context("not all streams have begun")?;
    let idle = hub.usage()?;
    report.add_ms(
        "connect_processor",
        idle.processor.saturating_sub(before.processor),
    );
    report.add("idle_kib_more", idle.resident_kib - before.resident_kib);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = (idle.resident_kib - before.resident_kib) as f64 / f64::from(all);
    report.add("idle_kib_each", tenths(each));

    let inserted = writer::run(&stage.url(), options.rate, options.bytes, options.time).await?;
    let due = inserted * u64::from(all);
    let delivered = async {
        while shared
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .deliveries
            < due
        {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Too few is told below.
    let _ = time::timeout(LIMIT, delivered).await;
    let after = hub.usage()?;
    let tally = shared
        .tally
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    report.add("events", inserted);
    report.add("deliveries", tally.deliveries);
    report.add("out_of_order", tally.out_of_order);
    report.add_quantiles("latency", &tally.latencies);
    let processor = after.processor.saturating_sub(idle.processor);
    report.add_ms("hub_processor", processor);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = processor.as_secs_f64() * 1e6 / tally.deliveries.max(1) as f64;
    report.add("hub_us_per_delivery", (each * 100.0).round() / 100.0);
    report.add("resident_kib", after.resident_kib);
    report.add("peak_kib", after.peak_kib);
    report.expect(
        tally.deliveries == due,
        format!("{} of {due} deliveries", tally.deliveries),
    );
    report.expect(tally.out_of_order == 0, "events out of order");
    report.expect(tasks.try_join_next().is_none(), "a stream has ended");

    drop(tasks);
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// From several addresses: each has 28,000 ports towards one of a server.
async fn connect(address: SocketAddr, n: u32) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + n % 8);
    socket.bind((source, 0).into())?;
    Ok(socket.connect(address).await?)
}

/// Opens the streams of a connection, each followed by a task of its own.
async fn open(
    stream: impl Connection,
    streams: u32,
    is_http1: bool,
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    const PATH: &str = "/v1/stream?topic=load";
    // As a browser writes it: over HTTP/1.1 the rest is for proxies.
    let uri = if is_http1 {
        PATH.to_owned()
    } else {
        format!("http://{NAME}{PATH}")
    };
    let request = Request::get(uri).header("host", NAME);
    let request = request.body(Empty::<Bytes>::new())?;
    let io = TokioIo::new(stream);
    if is_http1 {
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        tasks.spawn(follow(answer.into_body(), Arc::clone(shared)));
        return Ok(());
    }
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    for _ in 0..streams {
        let answer = sender.send_request(request.clone()).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        tasks.spawn(follow(answer.into_body(), Arc::clone(shared)));
    }
    Ok(())
}

async fn follow(mut body: Incoming, shared: Arc<Shared>) -> Result<()> {
    let mut reader = Reader::default();
    let mut has_begun = false;
    loop {
        let frame = body.frame().await.context("the stream has ended")??;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        reader.take(&bytes)?;
        if !has_begun && reader.has_begun() {
            has_begun = true;
            shared.begun.wait().await;
        }
        let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
        reader.report(&mut tally, None)?;
    }
}

/// A certificate that has signed itself, in a folder, and the flags for a hub that shows it.
fn certificate() -> Result<(TempDir, [String; 4])> {
    let folder = tempfile::Builder::new()
        .prefix("bellwether-load-")
        .tempdir()?;
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("cert.pem"), made.cert.pem())?;
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem())?;
    let text = |name: &str| path(name).display().to_string();
    let flags = [
        "--tls-cert".to_owned(),
        text("cert.pem"),
        "--tls-key".to_owned(),
        text("key.pem"),
    ];
    Ok((folder, flags))
}

fn connector(root: &Path, is_http1: bool) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    let protocol: &[u8] = if is_http1 { b"http/1.1" } else { b"h2" };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
