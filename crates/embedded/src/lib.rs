//! The private Postgres: a server of one's own on the machine's binaries.
//!
//! For `bellwether demo`, for `serve` without a database, and for the tests.
//! [`Builder::start`] finds Postgres 15 or newer, makes a cluster in a data
//! folder the first time, and runs it on 127.0.0.1 until its owner goes away.
//!
//! # The data folder
//!
//! | | |
//! |---|---|
//! | `lock` | locked by the owner; says who that is |
//! | `pgdata/` | the cluster |
//! | `password` | of the role `bellwether`, over TCP |
//! | `port` | the last port, taken again if it is free |
//! | `socket/` | the Unix socket, or a link to it where the path is too long |
//! | `postgres.log` | what the server and initdb say |
//!
//! A cluster is made in a folder beside `pgdata` and renamed into place, so an
//! initdb that is killed leaves rubbish, which the next start removes, and
//! never half a cluster.
//!
//! # Users
//!
//! Postgres refuses to run as root. An owner that is root runs it as the user
//! that `pgdata` belongs to, at first `postgres` or else `nobody`. Only `pgdata`
//! and the socket's folder belong to that user; root writes nothing into them.
//!
//! # Life and death
//!
//! The server's parent is a guard, a small `sh` script that holds the reading
//! end of a pipe from the owner. When the owner closes the pipe, or dies in any
//! way, SIGKILL included, the guard shuts the server down. When the server
//! dies, the guard ends, and the owner can see it: [`Postgres::exited`].
//! The guard has a process group of its own, out of reach of a terminal's
//! Ctrl-C: the owner decides when the server stops. If the guard is killed too,
//! the server is an orphan; the next start on the same folder stops it first.
//!
//! The obvious other way, `PR_SET_PDEATHSIG`, needs unsafe code before exec, is
//! cleared by the change of user, and fires when a *thread* ends.
//!
//! # Why not `postgresql_embedded`
//!
//! Version 0.22 was read. Its server is started by `pg_ctl` in a session of
//! its own and outlives a killed owner. That `postmaster.pid` exists counts as
//! running, even if it is stale; nothing locks a folder or takes it over. It
//! always starts with `-F`, without fsync. It knows nothing of root. By default
//! it downloads binaries of its own from GitHub into the home folder, and it
//! brings sqlx, reqwest and native-tls, 183 crates in all.

mod binaries;
mod builder;
mod cluster;
mod error;
mod folder;
mod former;
mod guard;
mod launch;
mod password;
mod server;
mod socket;
mod user;

pub use binaries::OLDEST_MAJOR;
pub use builder::Builder;
pub use error::Error;
pub use folder::default_data_dir;
pub use server::{Mode, Postgres};

/// The role that owns everything, and the database made for it.
pub const ROLE: &str = "bellwether";
