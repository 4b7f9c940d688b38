//! What can go wrong, in words for the person at the terminal.

use std::error;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The likeliest way to install a server.
const INSTALL: &str = if cfg!(target_os = "macos") {
    "brew install postgresql@17"
} else {
    "apt-get install postgresql"
};

/// Why the private Postgres does not run.
///
/// `Display` says what was tried, what went wrong and what to do; a cause, if
/// there is one, is in `source`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The folder that was named has no `program` in it.
    Binaries {
        /// The folder.
        folder: PathBuf,
        /// What it lacks.
        program: &'static str,
    },
    /// A program of the folder that was named says no version when asked.
    Version {
        /// The program.
        program: PathBuf,
        /// Its answer, or why there was none.
        answer: String,
    },
    /// The folder that was named has binaries older than [`crate::OLDEST_MAJOR`].
    TooOld {
        /// The folder.
        folder: PathBuf,
        /// Its major version.
        major: u32,
    },
    /// No binaries anywhere.
    NotFound {
        /// Where they were looked for.
        searched: String,
        /// Binaries that are too old: major version and folder.
        too_old: Vec<(u32, PathBuf)>,
    },
    /// There are binaries, but not of the major version that made the cluster.
    Major {
        /// The data folder.
        dir: PathBuf,
        /// The major version that made its cluster.
        made_by: u32,
        /// The binaries at hand: major version and folder.
        found: Vec<(u32, PathBuf)>,
    },
    /// The file `PG_VERSION` makes no sense.
    PgVersion {
        /// The file.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// The system names no home folder to keep data in.
    NoHome,
    /// The data folder has something else in it.
    NotOurs {
        /// The data folder.
        dir: PathBuf,
        /// One of the things in it.
        entry: PathBuf,
    },
    /// Another process has the data folder.
    InUse {
        /// The data folder.
        dir: PathBuf,
        /// Its process id and what it says it is.
        holder: String,
    },
    /// The cluster belongs to another user, and we are not root.
    Owner {
        /// The data folder.
        dir: PathBuf,
        /// The user it belongs to.
        user: String,
    },
    /// We are root, and the user that Postgres is to run as cannot get at a path.
    Unreachable {
        /// The path.
        path: PathBuf,
        /// The folder on the way where it fails.
        at: PathBuf,
        /// The user.
        user: String,
        /// What would help: an option with an example.
        option: &'static str,
    },
    /// We are root, and the system has no other user for Postgres to run as.
    NoUser,
    /// Something with a file or a folder.
    File {
        /// What we were doing to it: "create", "read".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The guard could not be started.
    Spawn {
        /// The program it was to run.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A server from before has the cluster and cannot be stopped.
    Former {
        /// The data folder.
        dir: PathBuf,
        /// The processes that are left.
        pids: Vec<u32>,
    },
    /// initdb failed.
    Initdb {
        /// The last lines of its output.
        output: String,
    },
    /// The server ended while it was starting.
    Exited {
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        output: String,
    },
    /// The server was not ready in time.
    NotReady {
        /// The time it had.
        limit: Duration,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        output: String,
    },
    /// The server is ready, but the first connection to it failed.
    Connect(tokio_postgres::Error),
    /// The server did not stop, not even at once.
    Stop {
        /// Its process id.
        pid: u32,
    },
}

impl Error {
    pub(crate) fn file(
        doing: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binaries { folder, program } => write!(
                f,
                "{} has no executable `{program}`: name the folder of a PostgreSQL server's \
                 programs, e.g. --pg-bin /usr/lib/postgresql/17/bin",
                folder.display()
            ),
            Self::Version { program, answer } => write!(
                f,
                "`{} --version` did not say a version but: {answer}",
                program.display()
            ),
            Self::TooOld { folder, major } => write!(
                f,
                "{} holds PostgreSQL {major}: {} or newer is needed",
                folder.display(),
                crate::OLDEST_MAJOR
            ),
            Self::NotFound { searched, too_old } => {
                let oldest = crate::OLDEST_MAJOR;
                write!(f, "no PostgreSQL {oldest} or newer found (")?;
                if !too_old.is_empty() {
                    write!(f, "too old: {}; ", List(too_old))?;
                }
                write!(
                    f,
                    "looked in {searched}): install it, e.g. `{INSTALL}`, or name its folder with \
                     --pg-bin"
                )
            }
            Self::Major {
                dir,
                made_by,
                found,
            } => write!(
                f,
                "data folder {} was made by PostgreSQL {made_by}, and of that there is none \
                 (found: {}): install PostgreSQL {made_by}, name its folder with --pg-bin, or give \
                 another --data-dir",
                dir.display(),
                List(found)
            ),
            Self::PgVersion { path, content } => write!(
                f,
                "{} should hold a major version, but holds {content:?}: the cluster is damaged, \
                 restore it or give another --data-dir",
                path.display()
            ),
            Self::NoHome => f.write_str("no home folder is known: give a --data-dir"),
            Self::NotOurs { dir, entry } => write!(
                f,
                "folder {} is not a data folder of bellwether and not empty (it has {}): give a \
                 new or an empty one as --data-dir",
                dir.display(),
                entry.display()
            ),
            Self::InUse { dir, holder } => write!(
                f,
                "data folder {} is in use by {holder}, stop it or give another --data-dir",
                dir.display()
            ),
            Self::Owner { dir, user } => write!(
                f,
                "data folder {} belongs to user {user}: run as that user, or give another \
                 --data-dir",
                dir.display()
            ),
            Self::Unreachable {
                path,
                at,
                user,
                option,
            } => write!(
                f,
                "PostgreSQL does not run as root, and user {user}, which it is to run as, may not \
                 enter {at}, so it cannot use {}: choose another place, e.g. {option}, \
                 or `chmod o+x {at}`",
                path.display(),
                at = at.display(),
            ),
            Self::NoUser => f.write_str(
                "PostgreSQL does not run as root, and there is neither a user postgres nor a user \
                 nobody to run it as: add one, or run bellwether as another user",
            ),
            Self::File { doing, path, .. } => write!(f, "cannot {doing} {}", path.display()),
            Self::Spawn { program, .. } => {
                write!(f, "cannot start a process for {}", program.display())
            }
            Self::Former { dir, pids } => write!(
                f,
                "a former server of data folder {} does not stop (process {pids:?}): kill it, or \
                 give another --data-dir",
                dir.display()
            ),
            Self::Initdb { output } => write!(f, "initdb failed and said:\n{output}"),
            Self::Exited { log, output } => write!(
                f,
                "PostgreSQL ended while starting; the end of {}:\n{output}",
                log.display()
            ),
            Self::NotReady { limit, log, output } => write!(
                f,
                "PostgreSQL was not ready after {} s; the end of {}:\n{output}",
                limit.as_secs_f32(),
                log.display()
            ),
            Self::Connect(_) => f.write_str("PostgreSQL has started, but cannot be connected to"),
            Self::Stop { pid } => write!(f, "PostgreSQL (process {pid}) does not stop: kill it"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::File { source, .. } | Self::Spawn { source, .. } => Some(source),
            Self::Connect(source) => Some(source),
            _ => None,
        }
    }
}

/// Binaries as "15 in /usr/lib/postgresql/15/bin, 17 in …".
struct List<'a>(&'a [(u32, PathBuf)]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, (major, folder)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{major} in {}", folder.display())?;
        }
        if self.0.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}
