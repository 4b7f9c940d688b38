//! How to reach the database, and what every session of ours is set to.

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use std::{fmt, time::Duration};
use tokio::time;
use tokio_postgres::{
    Client, Config, Connection, SimpleQueryMessage, Socket,
    config::{Host, SslMode, TargetSessionAttrs},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Error, limit::within, tls::TlsOptions};

/// A stream of TLS, as the driver wants it.
pub(crate) type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// How long to wait for the server to answer a new connection, and for one from the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence after which the kernel asks whether the other side is still there (default of
/// most systems: two hours), and how it goes on asking.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long data we sent may stay unacknowledged (default: about 16 minutes).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Our tables grow from nothing to millions of rows, and a plan made for the one must
/// serve the other. All our queries walk an index from a position on, so whatever the
/// statistics say, that is the plan: without helpers, which take longer to start than a page
/// takes to read. The rest undoes defaults of a role or database that
/// would break a promise: an answer means durable, and each statement sees what is new.
const SESSION: &str = "
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off;
    SET enable_mergejoin = off; SET enable_material = off; SET jit = off;
    SET max_parallel_workers_per_gather = 0;
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off;
    SET statement_timeout = 0;
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'";

/// For queries that nobody waits for longer than [`ANSWER_LIMIT`](crate::limit::ANSWER_LIMIT): so that
/// none goes on without us, and that it comes to nothing is known.
const POOL_SESSION: &str = "SET statement_timeout = '9s'";

/// A database, and how to reach it.
#[derive(Clone)]
pub struct Database {
    config: Config,
    tls: MakeRustlsConnect,
}

impl Database {
    /// From a connection string: `postgres://…` or `host=… user=…`. Reads the certificates that it
    /// names.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let (url, tls) = TlsOptions::take(url);
        let mut config: Config = url.parse().map_err(Error::Url)?;
        let (mode, tls) = tls.connector().map_err(Error::Tls)?;
        // As libpq: what does not leave the machine is not encrypted.
        let is_local = |host: &Host| matches!(host, Host::Unix(_));
        let is_local = !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_local);
        config.ssl_mode(if is_local { SslMode::Disable } else { mode });
        config
            .application_name("bellwether")
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_hosts().len() > 1 {
            // Of several servers, the one that is not a standby.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(Self { config, tls })
    }

    /// A connection whose messages the caller polls.
    pub(crate) async fn connect_raw(
        &self,
    ) -> Result<(Client, Connection<Socket, TlsStream>), Error> {
        // The library's own limit ends when the server's kernel has taken the connection.
        let limit = self.config.get_connect_timeout();
        let limit = *limit.unwrap_or(&CONNECT_TIMEOUT);
        let all = limit * u32::try_from(self.config.get_hosts().len()).unwrap_or(1);
        match time::timeout(all, self.config.connect(self.tls.clone())).await {
            Ok(connected) => connected.map_err(|source| Error::Connect {
                target: self.to_string(),
                source,
            }),
            Err(_) => Err(Error::TimedOut("connect", all)),
        }
    }

    /// A connection that a task of its own drives until the client is dropped, with our
    /// session settings.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let (client, connection) = self.connect_raw().await?;
        tokio::spawn(async move {
            // The client's callers see the same error.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        let set_up = format!("{SESSION}; SELECT pg_is_in_recovery()");
        let answers = within("set up a session", client.simple_query(&set_up)).await?;
        let is_in_recovery = answers.iter().any(|answer| {
            // The session settings may answer with a row of their own.
            matches!(answer, SimpleQueryMessage::Row(row)
                if matches!(row.try_get("pg_is_in_recovery"), Ok(Some("t"))))
        });
        if is_in_recovery {
            return Err(Error::InRecovery(self.to_string()));
        }
        Ok(client)
    }

    /// A pool of connections with our session settings. Connects when first asked.
    pub(crate) fn pool(&self, size: usize) -> Pool {
        let method = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(self.config.clone(), self.tls.clone(), method);
        let set_up = Hook::async_fn(|client: &mut deadpool_postgres::ClientWrapper, _| {
            Box::pin(async move {
                let set_up = format!("{SESSION}; {POOL_SESSION}");
                let set_up = client.batch_execute(&set_up).await;
                set_up.map_err(HookError::Backend)
            })
        });
        Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .post_create(set_up)
            .build()
            .expect("a runtime is given")
    }
}

/// Where it is, without the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.config.get_ports();
        let place = |(at, host): (usize, &Host)| {
            // One port for each host, or one for all, or none.
            let port = ports.get(at).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(host) => format!("{host}:{port}"),
                #[cfg(unix)]
                Host::Unix(folder) => format!("{}:{port}", folder.display()),
            }
        };
        let hosts = self.config.get_hosts().iter().enumerate();
        let places: Vec<String> = hosts.map(place).collect();
        let places = match places.as_slice() {
            [] => "no host".to_owned(),
            places => places.join(" or "),
        };
        let user = self.config.get_user().unwrap_or("the current user");
        let name = self.config.get_dbname().unwrap_or(user);
        write!(f, "database {name} on {places} as {user}")
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_it_is_and_no_password() {
        for (url, text) in [
            ("postgres://u:secret@a/x", "database x on a:5432 as u"),
            (
                "postgres://u:secret@a:1,b:2/x",
                "database x on a:1 or b:2 as u",
            ),
            ("host=a,b port=7 user=u", "database u on a:7 or b:7 as u"),
            ("host=/run/pg user=u", "database u on /run/pg:5432 as u"),
            ("user=u", "database u on no host as u"),
        ] {
            assert_eq!(Database::parse(url).expect(url).to_string(), text);
        }
    }
}
