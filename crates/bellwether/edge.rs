//! How connections are let in: TLS, limits, and proxies that tell whom they come from.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use server::{Edge, ForwardedHeader, Limits, Proxies, Tls};
use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::cli;

/// Files that are open for other things: connections to the database, logs, what is read.
const OTHER_FILES: usize = 128;

/// As many connections as anybody has tried.
const MOST_CONNECTIONS: usize = 1_000_000;

#[derive(Args, Debug)]
pub(crate) struct EdgeOptions {
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    limits: LimitOptions,
    #[command(flatten)]
    proxies: ProxyOptions,
}

#[derive(Args, Debug)]
struct TlsOptions {
    /// Serve HTTPS: the certificate, and what it is signed with, as PEM. Read anew when it changes,
    /// and on SIGHUP
    #[arg(
        long,
        env = "BELLWETHER_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// Its private key, as PEM
    #[arg(
        long,
        env = "BELLWETHER_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct LimitOptions {
    /// Most open connections; one beyond is closed at once. `0`: as many as it may open files for
    #[arg(
        long,
        env = "BELLWETHER_MAX_CONNECTIONS",
        value_name = "N",
        default_value_t = 0
    )]
    max_connections: usize,
    /// Most open connections of one address, or IPv6 network of 64 bits. `0`: half of all
    #[arg(
        long,
        env = "BELLWETHER_MAX_CONNECTIONS_PER_ADDRESS",
        value_name = "N",
        default_value_t = 0
    )]
    max_connections_per_address: usize,
    /// Most open streams; who asks for one beyond is told to come back later. `0`: fifteen for each
    /// sixteen connections, so that these find a place
    #[arg(
        long,
        env = "BELLWETHER_MAX_STREAMS",
        value_name = "N",
        default_value_t = 0
    )]
    max_streams: usize,
    /// Most open streams of one client. `0`: half of all
    #[arg(
        long,
        env = "BELLWETHER_MAX_STREAMS_PER_CLIENT",
        value_name = "N",
        default_value_t = 0
    )]
    max_streams_per_client: usize,
    /// Most requests at the same time on a connection of HTTP/2
    #[arg(long, env = "BELLWETHER_MAX_STREAMS_PER_CONNECTION", value_name = "N",
          default_value_t = Limits::default().streams_per_connection)]
    max_streams_per_connection: u32,
    /// Most bytes of a request's head
    #[arg(long, env = "BELLWETHER_MAX_HEAD_BYTES", value_name = "N", value_parser = head_bytes,
          default_value_t = Limits::default().head_bytes)]
    max_head_bytes: usize,
    /// Most bytes of a request's body
    #[arg(long, env = "BELLWETHER_MAX_BODY_BYTES", value_name = "N",
          default_value_t = Limits::default().body_bytes)]
    max_body_bytes: usize,
    /// How long a client may take to shake hands, then to send a request's head, then its body
    #[arg(long, env = "BELLWETHER_REQUEST_TIMEOUT", value_name = "TIME", default_value = "10s",
          value_parser = cli::time)]
    request_timeout: Duration,
    /// Most topics of one stream
    #[arg(long, env = "BELLWETHER_MAX_PATTERNS", value_name = "N",
          default_value_t = Limits::default().patterns)]
    max_patterns: usize,
    /// Most events that one client may publish over HTTP each second; `0` is without limit
    #[arg(long, env = "BELLWETHER_PUBLISH_RATE", value_name = "N",
          default_value_t = Limits::default().publish_rate)]
    publish_rate: u32,
}

#[derive(Args, Debug)]
struct ProxyOptions {
    /// Networks of proxies that are believed when they tell whom a connection or request is from
    #[arg(long, env = "BELLWETHER_TRUSTED_PROXY", value_name = "CIDR,…", value_delimiter = ',',
          value_parser = network)]
    trusted_proxy: Vec<IpNet>,
    /// Their connections begin with a header of the PROXY protocol, version 1 or 2
    #[arg(long, env = "BELLWETHER_PROXY_PROTOCOL", requires = "trusted_proxy")]
    proxy_protocol: bool,
    /// The header in which they tell whom a request is from
    #[arg(long, env = "BELLWETHER_FORWARDED_HEADER", value_enum, default_value_t)]
    forwarded_header: Header,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Header {
    #[default]
    XForwardedFor,
    Forwarded,
}

impl EdgeOptions {
    /// Whether clients speak TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.tls_cert.is_some()
    }

    /// All of it, with the certificate read and as many files allowed as can be.
    pub(crate) fn open(&self) -> Result<Edge> {
        let TlsOptions { tls_cert, tls_key } = &self.tls;
        let tls = tls_cert.clone().zip(tls_key.clone());
        let tls = tls.map(|(cert, key)| Tls::load(cert, key)).transpose();
        let tls = tls.context("cannot serve HTTPS: see --tls-cert and --tls-key")?;
        Ok(Edge::new(
            self.limits.limits(files()?)?,
            self.proxies.proxies(),
            tls,
        ))
    }
}

impl LimitOptions {
    fn limits(&self, files: usize) -> Result<Limits> {
        let most = files.saturating_sub(OTHER_FILES).min(MOST_CONNECTIONS);
        let connections = or(self.max_connections, most);
        if connections > most {
            bail!(
                "--max-connections {connections} takes as many open files and {OTHER_FILES} more, but this process \
                 may open only {files}: raise that (ulimit -n, LimitNOFILE=), or let fewer in"
            );
        }
        let streams = or(self.max_streams, connections - connections / 16);
        Ok(Limits {
            connections,
            connections_per_address: or(self.max_connections_per_address, connections.div_ceil(2)),
            streams,
            streams_per_client: or(self.max_streams_per_client, streams.div_ceil(2)),
            streams_per_connection: self.max_streams_per_connection,
            head_bytes: self.max_head_bytes,
            request_time: self.request_timeout,
            body_bytes: self.max_body_bytes,
            patterns: self.max_patterns,
            publish_rate: self.publish_rate,
        })
    }
}

impl ProxyOptions {
    fn proxies(&self) -> Proxies {
        Proxies {
            trusted: self.trusted_proxy.clone(),
            proxy_protocol: self.proxy_protocol,
            header: match self.forwarded_header {
                Header::XForwardedFor => ForwardedHeader::XForwardedFor,
                Header::Forwarded => ForwardedHeader::Forwarded,
            },
        }
    }
}

fn or(asked: usize, otherwise: usize) -> usize {
    if asked == 0 { otherwise } else { asked }
}

/// How many files this process may open, once it has raised that as far as it may.
fn files() -> Result<usize> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot tell how many files may be opened")?;
    // Where that is refused, there are fewer.
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let files = raised.map_or(soft, |()| hard);
    Ok(usize::try_from(files).unwrap_or(usize::MAX))
}

/// hyper needs 8 KiB to work with.
fn head_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().map_err(|_| "it is no number".to_owned())?;
    if bytes < 8192 {
        return Err("it must be at least 8192".to_owned());
    }
    Ok(bytes)
}

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>();
    network.or_else(|_| {
        let address = text.parse::<IpAddr>();
        address.map(IpNet::from).map_err(|_| {
            "it is no network such as 10.0.0.0/8 or fd00::/8, nor an address".to_owned()
        })
    })
}
