//! What is measured: a Postgres of its own, and the program as a process.

use anyhow::{Context, Result, bail, ensure};
use embedded::{Builder, Postgres};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};
use std::{
    env,
    fs::Permissions,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time,
};

use crate::{process, slow_flush, writer};

/// Longest wait for the program to start.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A Postgres that goes with its folder.
#[derive(Debug)]
pub(crate) struct Stage {
    postgres: Postgres,
    folder: TempDir,
    /// Another build of the program, to compare with.
    former: Option<PathBuf>,
}

/// A running hub. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Hub {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) processor: Duration,
    /// Resident now, and at most so far, in KiB.
    pub(crate) resident_kib: u64,
    pub(crate) peak_kib: u64,
}

impl Stage {
    pub(crate) async fn build() -> Result<Self> {
        Self::build_slow(Duration::ZERO).await
    }

    /// With flushes that take so much longer than this machine's.
    pub(crate) async fn build_slow(flush: Duration) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("bellwether-load-")
            .permissions(Permissions::from_mode(0o755)) // the server may be another user's
            .tempdir()?;
        let mut builder = Builder::new(folder.path().join("postgres"))
            .holder("the load harness")
            .setting("search_path", "public") // not the schema that is called as the role
            .setting("max_wal_size", "8GB"); // a checkpoint would slow down one round, not all
        if !flush.is_zero() {
            let library = slow_flush::compile(folder.path())?;
            builder = builder
                .env("LD_PRELOAD", library)
                .env("SLOW_FLUSH_US", flush.as_micros().to_string());
        }
        let postgres = builder.start().await.context("cannot start Postgres")?;
        Ok(Self {
            postgres,
            folder,
            former: None,
        })
    }

    /// The same with another build of the program.
    pub(crate) fn with_former(mut self, program: Option<PathBuf>) -> Self {
        self.former = program;
        self
    }

    /// The other build.
    pub(crate) fn former(&self) -> Result<PathBuf> {
        let former = self.former.clone();
        former.context("say where the former program is with --former PATH")
    }

    pub(crate) fn url(&self) -> String {
        self.postgres.url()
    }

    /// Makes another database on the server. Returns its URL.
    pub(crate) async fn create_database(&self, name: &str) -> Result<String> {
        let url = self.url();
        let client = writer::connect(&url).await?;
        let create = format!("CREATE DATABASE {name}");
        client.batch_execute(&create).await?;
        let (server, _) = url.rsplit_once('/').context("a URL names a database")?;
        Ok(format!("{server}/{name}"))
    }

    /// Starts the program that lies beside this one, and waits until it is ready.
    pub(crate) async fn start_hub(&self, listen: &str, args: &[String]) -> Result<Hub> {
        self.start_hub_on(&program()?, &self.url(), listen, args)
            .await
    }

    /// The same, whichever build, on any of the server's databases.
    pub(crate) async fn start_hub_on(
        &self,
        program: &Path,
        url: &str,
        listen: &str,
        args: &[String],
    ) -> Result<Hub> {
        let mut child = Command::new(program)
            .args(["serve", "--log", "warn", "--listen", listen])
            // How far it could go is what is measured.
            .args(["--publish-rate", "0", "--max-streams-per-client", "1000000"])
            .args(["--max-connections-per-address", "1000000"])
            .args(["--database-url", url])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().context("it has a standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut address = None;
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, at)) = line.split_once("://")
                    && line.starts_with("http")
                {
                    address = Some(at.parse()?);
                } else if line.starts_with("ready") {
                    return address.context("the address comes before ready");
                }
            }
            bail!("the hub has ended before it was ready")
        };
        let address = time::timeout(START_LIMIT, ready).await??;
        Ok(Hub { child, address })
    }

    /// A folder that the server can read and write.
    pub(crate) fn server_folder(&self) -> PathBuf {
        self.postgres.data_dir().join("pgdata")
    }

    /// Runs one command of the program to its end. Returns what it printed.
    pub(crate) async fn command(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(program()?)
            .args(args)
            .args(["--database-url", &self.url()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .await?;
        let (said, status) = (String::from_utf8(output.stdout)?, output.status);
        ensure!(status.success(), "bellwether {}: {status}", args.join(" "));
        Ok(said)
    }

    /// What the server's processes have used together, those that have ended too.
    pub(crate) fn processor(&self) -> Result<Duration> {
        let postmaster = i32::try_from(self.postgres.pid())?;
        let fields = process::fields(postmaster)?;
        let ticks: i64 = fields
            .get(13..15)
            .context("it has so many fields")?
            .iter()
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("there are clock ticks")?;
        let ended = Duration::from_secs(ticks.unsigned_abs()) / u32::try_from(per_second)?;
        Ok(ended + process::family_processor(postmaster)?)
    }

    pub(crate) async fn tear_down(self) -> Result<()> {
        self.postgres.stop().await?;
        self.folder.close()?;
        Ok(())
    }
}

impl Hub {
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.pid()?.as_raw();
        let status = format!("/proc/{pid}/status");
        Ok(Usage {
            processor: process::processor(pid)?,
            resident_kib: process::kib(&status, "VmRSS:")?,
            peak_kib: process::kib(&status, "VmHWM:")?,
        })
    }

    /// Waits until it has published so many events.
    pub(crate) async fn reach(&self, head: u64) -> Result<()> {
        let reached = async {
            while self.metric("bellwether_stream_head").await? < head {
                time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        time::timeout(START_LIMIT, reached).await?
    }

    /// Waits until it only waits to be rung.
    pub(crate) async fn fall_asleep(&self) -> Result<()> {
        let asleep = async {
            while self.metric("bellwether_asleep").await? == 0 {
                time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        time::timeout(START_LIMIT, asleep).await?
    }

    /// A counter or gauge of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("no {name} among the hub's metrics"))?;
        Ok(value.parse()?)
    }

    /// As `kill -9`, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGKILL)?;
        self.child.wait().await?;
        Ok(())
    }

    pub(crate) fn pid(&self) -> Result<Pid> {
        let pid = self.child.id().context("the hub has ended")?;
        Ok(Pid::from_raw(pid.try_into()?))
    }
}

/// The program that lies beside this one.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("bellwether"))
}
