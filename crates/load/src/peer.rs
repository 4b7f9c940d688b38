//! Servers side by side: the hub, what others use, and the floor; each with its clients and a way
//! to publish.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    thread,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{self, Instant},
};

use crate::{
    crowd::{Crowd, Request},
    drive::Way,
    process,
    stage::{self, Hub, Stage},
};

/// Longest wait for a server to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for one to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Bellwether, events inserted into an attached table
    Hub,
    /// The same, with requests that are hyper's to serve
    Hyper,
    /// The same, built from another commit: the program that `--former` names
    Former,
    /// A bare loop that writes the same bytes to the same number of sockets
    Floor,
    /// The same on as many threads as there are processors, as the hub has them
    Floors,
    /// nginx with nchan, published to over HTTP
    Nchan,
    /// Redis behind a small Node server, as in tutorials
    Redis,
    /// The row trigger of textbooks, `pg_notify(row_to_json(NEW))`, behind the same Node server
    Textbook,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) way: Way,
    addresses: Vec<SocketAddr>,
    pub(crate) path: &'static str,
    /// What clients say beside what they must.
    pub(crate) header: Option<String>,
    /// How many events lie between the places of two lanes' clients, where the header names a place.
    pub(crate) apart: u64,
    /// Their families are what is measured.
    pids: Vec<i32>,
    children: Vec<Child>,
    _folder: Option<TempDir>,
    hubs: Vec<Hub>,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Hyper => "hyper",
            Self::Former => "former",
            Self::Floor => "floor",
            Self::Floors => "floors",
            Self::Nchan => "nchan",
            Self::Redis => "redis",
            Self::Textbook => "textbook",
        }
    }
}

impl Peer {
    /// Starts a server; of hubs, so many on the one database.
    pub(crate) async fn start(
        kind: Kind,
        stage: &Stage,
        hubs: u32,
        args: &[String],
    ) -> Result<Self> {
        match kind {
            Kind::Hub | Kind::Hyper | Kind::Former => Self::hubs(kind, stage, hubs, args).await,
            Kind::Floor => Self::floor(kind, 1).await,
            Kind::Floors => {
                let processors = thread::available_parallelism()?;
                Self::floor(kind, processors.get()).await
            }
            Kind::Nchan => Self::nchan().await,
            Kind::Redis => Self::redis().await,
            Kind::Textbook => Self::textbook(stage).await,
        }
    }

    fn new(kind: Kind, way: Way, path: &'static str, folder: Option<TempDir>) -> Self {
        Self {
            kind,
            way,
            addresses: Vec::new(),
            path,
            header: None,
            apart: 0,
            pids: Vec::new(),
            children: Vec::new(),
            _folder: folder,
            hubs: Vec::new(),
        }
    }

    async fn hubs(kind: Kind, stage: &Stage, count: u32, args: &[String]) -> Result<Self> {
        // What the one is to deliver is no business of the other.
        let url = match kind {
            Kind::Hyper | Kind::Former => stage.create_database(kind.name()).await?,
            _ => stage.url(),
        };
        let program = match kind {
            Kind::Former => stage.former()?,
            _ => stage::program()?,
        };
        let way = Way::Rows {
            url: url.clone(),
            table: "load",
        };
        let mut peer = Self::new(kind, way, "/v1/stream?topic=load.{lane}", None);
        if kind == Kind::Hyper {
            // Unusual enough for the short way to decline it.
            peer.header = Some("Content-Length: 0".to_owned());
        }
        for _ in 0..count {
            let hub = stage
                .start_hub_on(&program, &url, "127.0.0.1:0", args)
                .await?;
            peer.addresses.push(hub.address);
            peer.pids.push(hub.pid()?.as_raw());
            peer.hubs.push(hub);
        }
        Ok(peer)
    }

    async fn floor(kind: Kind, threads: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor", "--threads", &threads.to_string()]);
        let (child, line) = start(&mut command, "the floor").await?;
        let (clients, publishers) = line.split_once(' ').context("two addresses")?;
        let mut peer = Self::new(kind, Way::Raw(publishers.parse()?), "/", None);
        peer.keep(child, clients.parse()?)?;
        Ok(peer)
    }

    async fn nchan() -> Result<Self> {
        let folder = folder()?;
        let address = free_port()?;
        let config =
            include_str!("../peers/nginx.conf").replace("PORT", &address.port().to_string());
        let path = folder.path().join("nginx.conf");
        fs::write(&path, config)?;
        // Where Debian has its modules.
        std::os::unix::fs::symlink("/usr/lib/nginx/modules", folder.path().join("modules"))?;
        let child = spawn(
            Command::new("nginx")
                .arg("-p")
                .arg(folder.path())
                .arg("-c")
                .arg(&path),
            "nginx with nchan: apt-get install nginx libnginx-mod-nchan",
        )?;
        let way = Way::Http {
            address,
            path: "/publish",
        };
        let mut peer = Self::new(Kind::Nchan, way, "/stream", Some(folder));
        peer.keep(child, address)?;
        answers(address).await.context("nginx does not start")?;
        Ok(peer)
    }

    async fn redis() -> Result<Self> {
        let folder = folder()?;
        let address = free_port()?;
        let redis = spawn(
            Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--port", &address.port().to_string()])
                .arg("--dir")
                .arg(folder.path())
                .stdout(Stdio::null()),
            "Redis: apt-get install redis-server",
        )?;
        answers(address).await.context("Redis does not start")?;
        let mut peer = Self::node(
            Kind::Redis,
            &format!("redis://{address}"),
            Way::Resp(address),
            Some(folder),
        )
        .await?;
        peer.pids.push(pid(&redis)?);
        peer.children.push(redis);
        Ok(peer)
    }

    async fn textbook(stage: &Stage) -> Result<Self> {
        let way = Way::Rows {
            url: stage.url(),
            table: "load_textbook",
        };
        Self::node(Kind::Textbook, &stage.url(), way, None).await
    }

    /// The tutorials' server, with its packages installed if they are not yet.
    async fn node(kind: Kind, url: &str, way: Way, redis: Option<TempDir>) -> Result<Self> {
        let folder = PathBuf::from("target/load/peers");
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("package.json"),
            include_str!("../peers/package.json"),
        )?;
        fs::write(
            folder.join("server.mjs"),
            include_str!("../peers/server.mjs"),
        )?;
        let installed = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--silent"])
            .current_dir(&folder)
            .status()
            .await
            .context("cannot run npm: install Node.js 20 or newer")?;
        ensure!(
            installed.success(),
            "npm install in {}: {installed}",
            folder.display()
        );
        let source = if kind == Kind::Redis {
            "redis"
        } else {
            "postgres"
        };
        let mut command = Command::new("node");
        command
            .args(["server.mjs", source, url])
            .current_dir(&folder);
        let (child, address) = start(&mut command, "Node.js 20 or newer").await?;
        let mut peer = Self::new(kind, way, "/", redis);
        peer.keep(child, address.parse()?)?;
        Ok(peer)
    }

    fn keep(&mut self, child: Child, address: SocketAddr) -> Result<()> {
        self.pids.push(pid(&child)?);
        self.addresses.push(address);
        self.children.push(child);
        Ok(())
    }

    /// Opens so many clients, spread over its instances.
    pub(crate) async fn gather(&self, clients: u32, lanes: u32) -> Result<Vec<Crowd>> {
        let mut crowds = Vec::new();
        let instances = u32::try_from(self.addresses.len())?;
        for (&address, nth) in self.addresses.iter().zip(0..) {
            let request = Request {
                address,
                path: self.path.to_owned(),
                header: self.header.clone(),
                apart: self.apart,
                clients: (clients - nth).div_ceil(instances),
                lanes,
            };
            crowds.push(Crowd::open(&request).await?);
        }
        Ok(crowds)
    }

    pub(crate) fn processor(&self) -> Result<Duration> {
        self.pids
            .iter()
            .map(|&pid| process::family_processor(pid))
            .sum()
    }

    pub(crate) fn resident_kib(&self) -> Result<u64> {
        self.pids
            .iter()
            .map(|&pid| process::family_resident(pid))
            .sum()
    }

    /// The instances, if it is a hub.
    pub(crate) fn hub(&self) -> Option<&Hub> {
        self.hubs.first()
    }

    /// Whether what is written goes through the database.
    pub(crate) fn is_on_postgres(&self) -> bool {
        matches!(self.way, Way::Rows { .. })
    }
}

impl Drop for Peer {
    /// Politely, and waits for it: workers of nginx outlive a master that was killed.
    #[expect(clippy::disallowed_methods, reason = "for a fact, with a limit")]
    fn drop(&mut self) {
        for child in &mut self.children {
            if let Ok(pid) = pid(child) {
                // It may have ended by itself.
                let _: nix::Result<()> = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            let limit = Instant::now() + STOP_LIMIT;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < limit {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn pid(child: &Child) -> Result<i32> {
    Ok(child.id().context("it has ended")?.try_into()?)
}

fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("bellwether-load-")
        .tempdir()?)
}

/// An address that nobody listens on just now.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn spawn(command: &mut Command, what: &str) -> Result<Child> {
    let child = command.stdin(Stdio::null()).spawn();
    child.with_context(|| format!("cannot start {what}"))
}

/// Starts a program and returns the first line that it prints.
async fn start(command: &mut Command, what: &str) -> Result<(Child, String)> {
    let mut child = spawn(command.stdout(Stdio::piped()), what)?;
    let stdout = child.stdout.take().context("it has a standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = time::timeout(START_LIMIT, lines.next_line()).await??;
    let line = line.with_context(|| format!("it ended at once: {what}"))?;
    Ok((child, line))
}

/// Waits until somebody listens there.
async fn answers(address: SocketAddr) -> Result<()> {
    for _ in 0..START_LIMIT.as_millis() / 20 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        time::sleep(Duration::from_millis(20)).await;
    }
    bail!("nobody listens on {address} after {START_LIMIT:?}")
}
