//! The command line, and how it speaks to a person.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pg::Database;
use std::{fmt, io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use crate::{
    auth::{AuthOptions, TokenOptions},
    edge::EdgeOptions,
};

/// The exit code for a command line that makes no sense (`EX_USAGE` of BSD's sysexits).
const USAGE: u8 = 64;

/// A live event hub on Postgres: an INSERT reaches every browser, curl and service that is
/// subscribed.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// File with what flags say, and snapshots [default: `bellwether.toml`, if it is there]
    #[arg(long, global = true, env = "BELLWETHER_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve events from your database, or from a private one if none is given
    Serve(ServeOptions),
    /// Run a hub on a private database in which something happens all the time
    Demo(DemoOptions),
    /// Follow events in the terminal, across reconnects
    Tail(TailOptions),
    /// Publish what happens to a table
    Attach(AttachOptions),
    /// No longer publish what happens to a table
    Detach(DetachOptions),
    /// List the attached tables, and what is wrong with them
    Attachments(AttachmentsOptions),
    /// Publish one event
    Publish(PublishOptions),
    /// Let a role run a hub, attach tables or publish
    Allow(AllowOptions),
    /// Make a token, to try things out with
    Token(TokenOptions),
    /// Look at everything a hub needs of a database, and say what to do about the rest
    Doctor(DoctorOptions),
    /// Print a script with which a shell completes commands and flags
    Completions(CompletionsOptions),
    /// Print the manual page, or write one for each command into a folder
    Man(ManOptions),
    /// Print the README's tables of commands and flags
    #[command(hide = true)]
    Markdown,
}

impl Command {
    /// What a hub is told, if it is one that is to be run.
    pub(crate) fn hub(&self) -> Option<&HubOptions> {
        match self {
            Self::Serve(options) => Some(&options.hub),
            Self::Demo(options) => Some(&options.hub),
            _ => None,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct LogOptions {
    /// What to log: a level, or a filter such as `warn,pg=debug`
    #[arg(
        long,
        global = true,
        env = "BELLWETHER_LOG",
        value_name = "FILTER",
        default_value = "info,refinery_core=warn"
    )]
    pub(crate) log: String,
    /// For people or for machines
    #[arg(
        long,
        global = true,
        env = "BELLWETHER_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct ServeOptions {
    /// Your database, as `postgres://USER:PASSWORD@HOST/NAME`. Also read from `DATABASE_URL`.
    /// Without one, a private Postgres is started
    #[arg(
        long,
        env = "BELLWETHER_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) database_url: Option<String>,
    #[command(flatten)]
    pub(crate) private: PrivateOptions,
    #[command(flatten)]
    pub(crate) hub: HubOptions,
}

#[derive(Args, Debug)]
pub(crate) struct DemoOptions {
    /// What to show [default: visitors of a site, in the inspector]
    #[arg(value_enum)]
    pub(crate) scene: Option<Scene>,
    #[command(flatten)]
    pub(crate) private: PrivateOptions,
    #[command(flatten)]
    pub(crate) hub: HubOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Scene {
    /// Visitors of a site, with figures and a chart
    Analytics,
    /// Orders during a sale, with stock that falls and alerts raised by the database
    Shop,
    /// Monitors of several organisations, each of which sees its own
    Uptime,
}

/// The private Postgres.
#[derive(Args, Debug)]
pub(crate) struct PrivateOptions {
    /// Folder that the private Postgres keeps its data in [default: `~/.local/share/bellwether`; root: `/var/lib/bellwether`]
    #[arg(long, env = "BELLWETHER_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Folder of the Postgres programs to run it with [default: the newest found]
    #[arg(long, env = "BELLWETHER_PG_BIN", value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
}

/// What any hub can be told.
#[derive(Args, Debug)]
pub(crate) struct HubOptions {
    /// Address to serve HTTP on
    #[arg(
        long,
        env = "BELLWETHER_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7080"
    )]
    pub(crate) listen: SocketAddr,
    /// Without keys of tokens, serve also on an address that others can reach: whoever comes can
    /// read and publish everything
    #[arg(long, env = "BELLWETHER_ALLOW_ANONYMOUS")]
    pub(crate) allow_anonymous: bool,
    #[command(flatten)]
    pub(crate) auth: AuthOptions,
    /// Most time between heartbeats to each client
    #[arg(long, env = "BELLWETHER_HEARTBEAT", value_name = "TIME", default_value = "15s", value_parser = time)]
    pub(crate) heartbeat: Duration,
    /// How long a client is to wait before it reconnects: each is told from half to one and a half
    /// of it
    #[arg(long, env = "BELLWETHER_RETRY", value_name = "TIME", default_value = "2s", value_parser = time)]
    pub(crate) retry: Duration,
    /// Close a client that takes nothing for this long, though something is waiting for it. It
    /// loses nothing, as it comes back with its cursor
    #[arg(long, env = "BELLWETHER_STALL_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(crate) stall_timeout: Duration,
    /// Delete events that were published longer ago than this; `0` keeps them. Who asks for them
    /// is told by a `gap`
    #[arg(long, env = "BELLWETHER_MAX_AGE", value_name = "TIME", default_value = "7d", value_parser = time_or_never)]
    pub(crate) max_age: Duration,
    /// Keep only so many of the newest events; `0` keeps all
    #[arg(
        long,
        env = "BELLWETHER_MAX_EVENTS",
        value_name = "N",
        default_value_t = 0
    )]
    pub(crate) max_events: u64,
    /// How long to wait for clients to take their leave at the end
    #[arg(long, env = "BELLWETHER_GRACE", value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) grace: Duration,
    /// How long to go on serving after being told to stop, while `/readyz` already says so: as long
    /// as it takes a load balancer to notice
    #[arg(long, env = "BELLWETHER_DRAIN_DELAY", value_name = "TIME", default_value = "0", value_parser = time_or_never)]
    pub(crate) drain_delay: Duration,
    /// Most events kept in memory for clients that come back
    #[arg(
        long,
        env = "BELLWETHER_RING_EVENTS",
        value_name = "N",
        default_value_t = 65_536
    )]
    pub(crate) ring_events: usize,
    /// Most bytes of events kept in memory for clients that come back
    #[arg(long, env = "BELLWETHER_RING_BYTES", value_name = "N", default_value_t = 64 * 1024 * 1024)]
    pub(crate) ring_bytes: usize,
    #[command(flatten)]
    pub(crate) edge: EdgeOptions,
    #[command(flatten)]
    pub(crate) traces: TraceOptions,
}

/// Where traces go.
#[derive(Args, Debug)]
pub(crate) struct TraceOptions {
    /// Send traces to this OpenTelemetry collector, such as `http://127.0.0.1:4318`, by OTLP over
    /// HTTP. Also read from `OTEL_EXPORTER_OTLP_ENDPOINT`
    #[arg(long, env = "BELLWETHER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TailOptions {
    /// Topics to follow: `orders`, `org.*.alerts`, `orders.>`
    #[arg(value_name = "PATTERN", default_value = ">")]
    pub(crate) patterns: Vec<String>,
    /// Address of the hub
    #[arg(
        long,
        env = "BELLWETHER_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:7080"
    )]
    pub(crate) url: String,
    /// Root certificates, as PEM, one of which must have signed that of a hub on https://
    /// [default: the system's]
    #[arg(long, env = "BELLWETHER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Begin with the last N events
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<usize>,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// Token to show the hub
    #[arg(
        long,
        env = "BELLWETHER_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
}

/// A database that must be given.
#[derive(Args, Debug)]
pub(crate) struct DatabaseOptions {
    /// The database, as `postgres://USER:PASSWORD@HOST/NAME`. Also read from `DATABASE_URL`
    #[arg(
        long,
        env = "BELLWETHER_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
}

#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "as many switches as bellwether.attach has"
)]
pub(crate) struct AttachOptions {
    /// The table, as SQL names it: `orders`, `shop.orders`, `"Order"`. Partitions come along
    pub(crate) table: String,
    /// Topic of its events; `{table}`, `{schema}`, `{op}` and `{COLUMN}` stand for values
    #[arg(long, value_name = "TEMPLATE", default_value = "{table}")]
    pub(crate) topic: String,
    /// Name of its events; likewise
    #[arg(long, value_name = "TEMPLATE", default_value = "{table}.{op}")]
    pub(crate) event: String,
    /// What is published
    #[arg(
        long,
        value_name = "OP,…",
        value_delimiter = ',',
        default_value = "insert,update,delete,truncate"
    )]
    pub(crate) ops: Vec<String>,
    /// The columns that are published [default: all, also those added later]
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Publish `{"old": …, "new": …}`: the row before, too
    #[arg(long)]
    pub(crate) old: bool,
    /// Give new clients the last event of each topic first; a delete ends that
    #[arg(long)]
    pub(crate) retain: bool,
    /// Do not wake a hub, which then looks once a second. For tables written in two-phase commit
    #[arg(long)]
    pub(crate) no_doorbell: bool,
    /// Also publish rows that logical replication applies here
    #[arg(long)]
    pub(crate) replica: bool,
    #[command(flatten)]
    pub(crate) patience: PatienceOptions,
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
}

#[derive(Args, Debug)]
pub(crate) struct DetachOptions {
    /// The table, as SQL names it
    pub(crate) table: String,
    #[command(flatten)]
    pub(crate) patience: PatienceOptions,
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
}

#[derive(Args, Debug)]
pub(crate) struct PatienceOptions {
    /// How long to go on trying while others lock the table. Writers wait behind a try for 200 ms
    /// at most
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time_or_never)]
    pub(crate) patience: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct AttachmentsOptions {
    /// As JSON, one line each
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
}

#[derive(Args, Debug)]
pub(crate) struct PublishOptions {
    /// Topic, such as `org.7.alerts`
    pub(crate) topic: String,
    /// Name of the event
    pub(crate) event: String,
    /// JSON
    pub(crate) data: String,
    /// What it is about
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Make it the topic's state, which new clients are given first; the data `null` ends that
    #[arg(long)]
    pub(crate) retain: bool,
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
}

#[derive(Args, Debug)]
pub(crate) struct AllowOptions {
    /// The role
    pub(crate) role: String,
    /// What it may do then
    pub(crate) what: Allowance,
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Allowance {
    /// Run a hub
    Hub,
    /// Attach tables on which it may create triggers
    Attach,
    /// Publish on any topic
    Publish,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorOptions {
    /// As JSON, one line for each finding
    #[arg(long)]
    pub(crate) json: bool,
    /// Name transactions that have been open for longer
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time_or_never)]
    pub(crate) long: Duration,
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsOptions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManOptions {
    /// Folder to write pages to, such as `/usr/local/share/man/man1`
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
}

impl DatabaseOptions {
    /// The database that is named.
    pub(crate) fn database(self) -> Result<Database> {
        let url = self
            .database_url
            .or_else(|| std::env::var("DATABASE_URL").ok());
        let url = url.context(
            "no database is named: give --database-url, or set DATABASE_URL \
             (a demo prints its own in the psql line)",
        )?;
        Ok(Database::parse(&url)?)
    }
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match time_or_never(text)? {
        Duration::ZERO => Err("it must be more than nothing".to_owned()),
        time => Ok(time),
    }
}

fn time_or_never(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Prints help, the version, or what is wrong with the command line.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    // If nobody can read it, there is nobody to tell.
    let _: std::io::Result<()> = error.print();
    ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
}

/// Says a line on standard output, where a program may read it.
pub(crate) fn say(line: impl fmt::Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Says on standard error why it ends: each cause on a line of its own.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut err = std::io::stderr().lock();
    let story = error.chain().enumerate().try_for_each(|(i, cause)| {
        let lead = if i == 0 {
            "bellwether: "
        } else {
            "  because: "
        };
        writeln!(err, "{lead}{cause}")
    });
    // If nobody can read it, there is nobody to tell.
    let _: std::io::Result<()> = story;
}
