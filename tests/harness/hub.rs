//! A hub as a process of its own.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    net::{SocketAddr, TcpListener},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
};

use super::{Client, Lines, Proxy, ProxyKind, TestDatabase, within};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");

/// The program under test, without what the machine's environment would tell it.
pub(crate) fn bellwether() -> Command {
    undisturbed(Command::new(PROGRAM))
}

fn undisturbed(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            let begins = |with| name.starts_with(with);
            begins("BELLWETHER_") || begins("OTEL_") || name == "DATABASE_URL"
        }) {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// A running `bellwether serve`. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Hub {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Where clients find it: its own address, or that of the proxy that all hubs are behind.
    pub(crate) address: SocketAddr,
    /// Where it is itself.
    pub(crate) own: SocketAddr,
    proxy: Option<Arc<Proxy>>,
}

/// How a hub is to be started.
#[derive(Clone, Debug)]
pub(crate) struct HubOptions {
    pub(crate) listen: String,
    pub(crate) args: Vec<String>,
    /// The network namespace it is in, if not in ours.
    pub(crate) network: Option<String>,
    /// What is in its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Whether to keep what it logs from the test's output.
    pub(crate) is_quiet: bool,
    /// What it is behind, if that is there already.
    pub(crate) proxy: Option<Arc<Proxy>>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            args: Vec::new(),
            network: None,
            env: Vec::new(),
            is_quiet: false,
            proxy: None,
        }
    }
}

impl HubOptions {
    pub(crate) fn args(args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self {
            args,
            ..Self::default()
        }
    }

    /// The same where another one was: at its address, and behind its proxy.
    pub(crate) fn in_place_of(self, hub: &Hub) -> Self {
        Self {
            listen: hub.own.to_string(),
            proxy: hub.proxy.clone(),
            ..self
        }
    }
}

impl Hub {
    /// A hub on this database that is ready, and the table `events` in it.
    pub(crate) async fn start(database: &TestDatabase) -> Self {
        Self::start_with(database, HubOptions::default()).await
    }

    pub(crate) async fn start_with(database: &TestDatabase, options: HubOptions) -> Self {
        let hub = Self::spawn(&database.url, options)
            .await
            .expect("the hub gets ready");
        database.create_events_table().await;
        hub
    }

    /// A hub that has said that it is ready, or what it said on standard error instead.
    pub(crate) async fn spawn(
        url: &str,
        options: HubOptions,
    ) -> Result<Self, (ExitStatus, String)> {
        let mut command = match &options.network {
            None => bellwether(),
            Some(network) => {
                let mut command = undisturbed(Command::new("ip"));
                command.args(["netns", "exec", network, PROGRAM]);
                command
            }
        };
        let mut child = command
            .args(["serve", "--listen", &options.listen, "--database-url", url])
            .args(&options.args)
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let is_quiet = options.is_quiet;
        let log = tokio::spawn(async move {
            let mut log = Vec::new();
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut bytes).await {
                if !is_quiet {
                    eprint!("{}", String::from_utf8_lossy(&bytes[..read]));
                }
                log.extend_from_slice(&bytes[..read]);
            }
            String::from_utf8_lossy(&log).into_owned()
        });
        let mut address = None;
        loop {
            let mut line = String::new();
            within("a line of the hub", stdout.read_line(&mut line))
                .await
                .unwrap();
            if let Some((_, at)) = line.split_once("://")
                && line.starts_with("http")
            {
                address = Some(at.trim().parse().unwrap());
            } else if line.starts_with("ready") {
                let address = address.expect("the address comes before ready");
                return Ok(Self::behind(options.proxy, child, stdout, address).await);
            } else if line.is_empty() {
                let status = within("the hub's end", child.wait()).await.unwrap();
                return Err((status, log.await.unwrap()));
            }
        }
    }

    /// A hub that may take long to be ready, at an address that is free now.
    pub(crate) async fn begin(url: &str) -> Self {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let listen = address.to_string();
        let mut child = bellwether()
            .args(["serve", "--listen", &listen, "--database-url", url])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        super::eventually("it is alive", true, async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self::behind(None, child, stdout, address).await
    }

    async fn behind(
        proxy: Option<Arc<Proxy>>,
        child: Child,
        stdout: BufReader<ChildStdout>,
        own: SocketAddr,
    ) -> Self {
        let proxy = match (proxy, ProxyKind::of_all_hubs()) {
            (None, Some(kind)) => Some(Arc::new(Proxy::start(kind, &[own]).await)),
            (proxy, _) => proxy,
        };
        Self {
            child,
            stdout,
            address: proxy.as_ref().map_or(own, |proxy| proxy.address),
            own,
            proxy,
        }
    }

    /// Follows a stream: the query after `/v1/stream?`.
    pub(crate) async fn lines(&self, query: &str) -> Lines {
        Lines::connect(self.address, query).await
    }

    pub(crate) async fn stream(&self, query: &str) -> Client {
        Client::connect(self.address, query, None).await
    }

    /// Follows a stream from a cursor on.
    pub(crate) async fn resume(&self, query: &str, cursor: &str) -> Client {
        Client::connect(self.address, query, Some(cursor)).await
    }

    /// A counter or gauge of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, text) = super::client::get(self.own, "/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// The memory it has, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends SIGTERM; returns at once.
    pub(crate) fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("it runs").try_into().unwrap())
    }

    /// Waits for its end and returns the exit code.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        // Nobody else reads what it still says.
        let mut rest = String::new();
        let ended = async {
            self.stdout.read_to_string(&mut rest).await.unwrap();
            self.child.wait().await.unwrap()
        };
        within("the hub's end", ended).await.code()
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Nothing has happened for longer than any event takes.
    pub(crate) async fn is_asleep(&self) {
        let mut last = 0;
        super::eventually("the sequencer sleeps", true, async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let before = std::mem::replace(&mut last, self.metric("bellwether_looks_total").await);
            last <= before + 1 && self.metric("bellwether_asleep").await == 1
        })
        .await;
    }
}
