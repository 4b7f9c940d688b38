//! Starts the server: a port, the process, readiness, the first connection.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{self, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::binaries::Binaries;
use crate::folder::Folder;
use crate::former::{self, Status};
use crate::guard::Guard;
use crate::password::Password;
use crate::server::Postgres;
use crate::user::User;
use crate::{Error, ROLE, socket};

/// Time for an immediate shutdown. The postmaster kills its children after 5 s.
pub(crate) const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);

/// Time between two looks for readiness, which is one small file.
const POLL: Duration = Duration::from_millis(5);

/// Time before another attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// Where new ports are taken from. Below the range from which systems give
/// ports to outgoing connections (Linux: from 32768), so that it will not be
/// given away while the server is down.
const PORTS: Range<u16> = 20_000..32_000;

/// All that is needed to start the server, again and again.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) folder: Folder,
    pub(crate) binaries: Binaries,
    pub(crate) user: Option<User>,
    pub(crate) password: Password,
    pub(crate) socket_dir: PathBuf,
    pub(crate) settings: Vec<(String, String)>,
    /// Of the server, besides what it gets of ours.
    pub(crate) environment: Vec<(String, OsString)>,
    /// Time to become ready.
    pub(crate) limit: Duration,
}

/// Why an attempt failed.
enum Failure {
    /// The port was taken.
    Port(Error),
    /// A former server was just starting too, or has children left.
    Former(Error),
    /// Another attempt would fail as well.
    Final(Error),
}

impl Launch {
    /// The first start.
    pub(crate) async fn start(self) -> Result<Postgres, Error> {
        let begun = Instant::now();
        let (guard, port) = self.bring_up(None).await?;
        self.prepare(port).await.map_err(Error::Connect)?;
        self.folder.keep_port(port)?;
        tracing::info!(
            pg.pid = guard.pid(),
            pg.version = self.binaries.version,
            pg.port = port,
            dir = %self.folder.dir().display(),
            elapsed_ms = begun.elapsed().as_millis(),
            "postgres started"
        );
        Ok(Postgres {
            guard,
            port,
            launch: self,
        })
    }

    /// Starts the server on this port, or else on the last one or a new one.
    pub(crate) async fn bring_up(&self, port: Option<u16>) -> Result<(Guard, u16), Error> {
        let deadline = Instant::now() + self.limit;
        let mut last_port = self.folder.last_port();
        loop {
            let port = match port.or_else(|| last_port.take().filter(|&port| is_free(port))) {
                Some(port) => port,
                None => new_port().map_err(Error::file("find a free port on", "127.0.0.1"))?,
            };
            let error = match self.try_start(port).await {
                Ok(guard) => return Ok((guard, port)),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Port(error)) => error,
                Err(Failure::Former(error)) => {
                    former::stop(self.folder.dir(), &self.folder.pgdata()).await?;
                    error
                }
            };
            if Instant::now() > deadline {
                return Err(error);
            }
            time::sleep(PAUSE).await;
        }
    }

    /// Whether the caller minds losing everything in a power failure.
    pub(crate) fn is_durable(&self) -> bool {
        let is_off = |(name, value): &(String, String)| name == "fsync" && value == "off";
        !self.settings.iter().any(is_off)
    }

    async fn try_start(&self, port: u16) -> Result<Guard, Failure> {
        let (log, log_start) = self.folder.open_log().map_err(Failure::Final)?;
        let args = self.arguments(port);
        let (user, environment) = (self.user.as_ref(), &self.environment);
        let spawned = Guard::spawn(&self.binaries, "postgres", &args, environment, user, log);
        let mut guard = spawned.await.map_err(Failure::Final)?;

        let ready = time::timeout(self.limit, self.until_ready(&mut guard)).await;
        if let Ok(true) = ready {
            return Ok(guard);
        }
        if ready.is_err() {
            guard.stop("QUIT", IMMEDIATE_LIMIT).await;
        }
        let log = self.folder.log();
        let output = self.folder.log_tail(log_start);
        if ready.is_err() {
            let limit = self.limit;
            return Err(Failure::Final(Error::NotReady { limit, log, output }));
        }
        let has = |text| output.contains(text);
        let kind = if has("Address already in use") {
            Failure::Port
        } else if has("postmaster.pid\" already exists") || has("is still in use") {
            Failure::Former
        } else {
            Failure::Final
        };
        Err(kind(Error::Exited { log, output }))
    }

    /// True once the server takes connections, false if it ends.
    ///
    /// Its status file is asked rather than a connection tried: each attempt
    /// would be a FATAL in the log, and on a port that was stolen another server
    /// may answer, while this file is this cluster's.
    async fn until_ready(&self, guard: &mut Guard) -> bool {
        let pgdata = self.folder.pgdata();
        loop {
            if let Some(status) = Status::read(&pgdata)
                && status.pid == guard.pid()
                && status.is_ready
            {
                return true;
            }
            if time::timeout(POLL, guard.exited()).await.is_ok() {
                return false;
            }
        }
    }

    fn arguments(&self, port: u16) -> Vec<OsString> {
        let defaults = [("cluster_name", ROLE), ("lc_messages", "C")];
        let port = port.to_string();
        let fixed = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_permissions", "0700"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("external_pid_file", ""),
        ];
        let settings = self.settings.iter().map(|(n, v)| (n.as_str(), v.as_str()));

        let mut args: Vec<OsString> = vec!["-D".into(), self.folder.pgdata().into()];
        // Of two values for one name the last counts.
        for (name, value) in defaults.into_iter().chain(settings).chain(fixed) {
            args.push("-c".into());
            args.push(format!("{name}={value}").into());
        }
        let mut sockets = OsString::from("unix_socket_directories=");
        sockets.push(socket::quote(&self.socket_dir));
        args.extend(["-c".into(), sockets]);
        args
    }

    /// Makes sure that the database exists and that the password is the one in
    /// the file, which a person may have removed.
    async fn prepare(&self, port: u16) -> Result<(), tokio_postgres::Error> {
        let mut config = Config::new();
        config.user(ROLE).port(port).connect_timeout(self.limit);

        let mut socket = config.clone();
        socket.host_path(&self.socket_dir);
        let mut tcp = config;
        tcp.host("127.0.0.1").password(self.password.as_str());

        let Err(error) = connect(tcp.dbname(ROLE)).await else {
            return Ok(());
        };
        let statement = match error.code() {
            Some(&SqlState::INVALID_CATALOG_NAME) => format!("CREATE DATABASE {ROLE}"),
            Some(&SqlState::INVALID_PASSWORD) => {
                let password = self.password.as_str();
                format!(
                    "ALTER ROLE {ROLE} PASSWORD '{}'",
                    password.replace('\'', "''")
                )
            }
            _ => return Err(error),
        };
        let client = connect(socket.dbname("postgres")).await?;
        client.batch_execute(&statement).await?;
        connect(tcp.dbname(ROLE)).await?;
        Ok(())
    }
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends when the client is dropped; an error shows at the client too.
    tokio::spawn(connection);
    Ok(client)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn new_port() -> io::Result<u16> {
    for _ in 0..50 {
        let port = fastrand::u16(PORTS);
        if is_free(port) {
            return Ok(port);
        }
    }
    let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(any.local_addr()?.port())
}
