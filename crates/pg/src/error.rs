//! What can go wrong with the database.

use hub::Epoch;
use std::{fmt, time::Duration};
use tokio_postgres::error::SqlState;

use crate::tls::{self, InvalidTls};

/// What was tried when it went wrong. The cause is the [`source`](std::error::Error::source).
#[derive(Debug)]
pub enum Error {
    /// Reading the connection string.
    Url(tokio_postgres::Error),
    /// TLS cannot be spoken as the connection string asks.
    Tls(InvalidTls),
    /// Connecting.
    Connect {
        /// Where to, without the password.
        target: String,
        /// What went wrong.
        source: tokio_postgres::Error,
    },
    /// The server is a standby; which.
    InRecovery(String),
    /// The role lacks rights.
    Rights {
        /// The statements that would give them.
        grants: String,
    },
    /// Making or upgrading our tables.
    Migrate(Box<refinery::Error>),
    /// The tables were made by a newer program.
    SchemaNewer {
        /// The schema's version.
        found: i32,
        /// The newest that this program knows.
        known: i32,
    },
    /// The tables and functions are of this version, but not as this program makes them.
    SchemaDiffers {
        /// The first version that is different.
        version: i32,
    },
    /// A query; what it was for.
    Query(&'static str, tokio_postgres::Error),
    /// Getting a connection from the pool.
    Pool(deadpool_postgres::PoolError),
    /// Nothing came back in time; what was waited for, and how long.
    TimedOut(&'static str, Duration),
    /// The session does not listen any more, although nobody told it to stop.
    NotListening,
    /// The server closed the connection.
    Closed,
    /// Another epoch has begun: this one's numbers are not continued.
    EpochEnded(Epoch),
    /// A row that is not what this program writes.
    Decode(String),
}

impl Error {
    /// Whether trying again later cannot help: somebody has to change something first.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::Tls(_)
            | Self::SchemaNewer { .. }
            | Self::SchemaDiffers { .. }
            | Self::Migrate(_)
            | Self::Rights { .. } => !self.is_disconnect(),
            Self::Connect { source, .. } => is_refusal(source) || tls::is_refusal(source),
            _ => self.is_denied(),
        }
    }

    /// A query that the role has no right to.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Query(_, source) if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
    }

    /// A cause that reads like a lost connection or a server that is going down, wherever
    /// it stands in the chain.
    fn is_disconnect(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<tokio_postgres::Error>() {
                let class = error.code().map_or("", |code| &code.code()[..2]);
                // 08: connection exceptions. 57: operator intervention.
                return error.is_closed()
                    || error.as_db_error().is_none()
                    || class == "08"
                    || class == "57";
            }
            cause = error.source();
        }
        false
    }
}

/// The server is there and says no: wrong password, no such role or database.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let refused = [
        &SqlState::INVALID_PASSWORD,
        &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        &SqlState::INVALID_CATALOG_NAME,
        &SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    error.code().is_some_and(|code| refused.contains(&code))
        // The driver's own refusal has no code: the server wants a password, none was given.
        || error.to_string().contains("password missing")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(_) => f.write_str("the database URL cannot be read"),
            Self::Tls(_) => f.write_str("TLS cannot be spoken as the database URL asks"),
            Self::Connect { target, .. } => write!(f, "cannot connect to {target}"),
            Self::InRecovery(target) => write!(
                f,
                "the server of {target} is in recovery: read-only until it is promoted"
            ),
            Self::Rights { grants } => write!(
                f,
                "rights are missing: have the schema's owner or a superuser run {grants}"
            ),
            Self::Migrate(_) => f.write_str("cannot make or upgrade the schema `bellwether`"),
            Self::SchemaNewer { found, known } => write!(
                f,
                "the schema `bellwether` has version {found}, made by a newer program; this one knows \
                 versions up to {known}: run the newer program"
            ),
            Self::SchemaDiffers { version } => write!(
                f,
                "version {version} of the schema `bellwether` was made by another build of this program, and is \
                 different: run that one, or drop the schema, with all events in it, and attach the tables anew"
            ),
            Self::Query(what, _) => write!(f, "cannot {what}"),
            Self::Pool(_) => f.write_str("cannot get a database connection from the pool"),
            Self::TimedOut(what, limit) => {
                write!(f, "no answer within {limit:?} from the database, to {what}")
            }
            Self::NotListening => f.write_str(
                "the session has stopped listening: is there a pooler in transaction mode between? \
                 Connect to Postgres directly",
            ),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::EpochEnded(epoch) => write!(f, "the epoch {epoch} has ended"),
            Self::Decode(what) => write!(f, "a row cannot be read: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Url(source) | Self::Connect { source, .. } | Self::Query(_, source) => {
                Some(source)
            }
            Self::Tls(source) => Some(source),
            Self::Migrate(source) => Some(source),
            Self::Pool(source) => Some(source),
            _ => None,
        }
    }
}

/// The whole story in one line: the error, and its causes after colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        story.push_str(": ");
        story.push_str(&error.to_string());
        cause = error.source();
    }
    story
}
