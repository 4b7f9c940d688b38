//! The running server.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::guard::Guard;
use crate::launch::{IMMEDIATE_LIMIT, Launch};
use crate::{Error, ROLE, socket};

/// Time for a fast shutdown, before an immediate one; it writes a checkpoint.
const FAST_LIMIT: Duration = Duration::from_secs(30);

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Ends sessions, writes everything out.
    Fast,
    /// As in a crash: recovery follows at the next start.
    Immediate,
}

/// A private Postgres that runs for as long as this lives.
///
/// Dropping it tells the guard to stop the server and does not wait for it; a
/// start on the same folder does.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder, so that the pipe is closed before the lock is released.
    pub(crate) guard: Guard,
    pub(crate) port: u16,
    pub(crate) launch: Launch,
}

impl Postgres {
    /// `postgres://bellwether:PASSWORD@127.0.0.1:PORT/bellwether`
    pub fn url(&self) -> String {
        self.database_url(ROLE)
    }

    /// The same for another database, which need not exist.
    pub fn database_url(&self, database: &str) -> String {
        let password = percent_encode(self.launch.password.as_str()); // may be a person's own
        let database = percent_encode(database);
        format!(
            "postgres://{ROLE}:{password}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// The folder of the Unix socket, on which no password is asked for. Only
    /// the server's user and root may enter it.
    pub fn socket_dir(&self) -> &Path {
        &self.launch.socket_dir
    }

    /// The port, for TCP on 127.0.0.1 and in the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The version, as the server says it: `17.6`, `19beta1`.
    pub fn version(&self) -> &str {
        &self.launch.binaries.version
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.launch.binaries.major
    }

    /// The folder of the programs, `psql` most likely among them.
    pub fn binaries(&self) -> &Path {
        &self.launch.binaries.folder
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        self.launch.folder.dir()
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.launch.folder.log()
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.guard.pid()
    }

    /// Waits until the server ends by itself, which it should not.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; call it again.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.guard.exited().await
    }

    /// Stops the server and starts it again with the same port and settings.
    ///
    /// If it fails, the server is down; drop this.
    pub async fn restart(&mut self, mode: Mode) -> Result<(), Error> {
        self.halt(mode).await?;
        (self.guard, _) = self.launch.bring_up(Some(self.port)).await?;
        Ok(())
    }

    /// Stops the server and waits for its end.
    ///
    /// A shutdown that takes longer than 30 s becomes an immediate one.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.halt(Mode::Fast).await?;
        socket::remove_link(self.launch.folder.dir());
        Ok(())
    }

    async fn halt(&mut self, mode: Mode) -> Result<(), Error> {
        let pid = self.pid();
        let stopped = (mode == Mode::Fast && self.guard.stop("INT", FAST_LIMIT).await)
            || self.guard.stop("QUIT", IMMEDIATE_LIMIT).await;
        if !stopped {
            return Err(Error::Stop { pid });
        }
        tracing::info!(pg.pid = pid, ?mode, "postgres stopped");
        Ok(())
    }
}

/// Encodes what may not stand for itself in a part of a URL's path.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_encoded() {
        assert_eq!(percent_encode("bellwether"), "bellwether");
        assert_eq!(percent_encode("a b/ü?"), "a%20b%2F%C3%BC%3F");
    }
}
