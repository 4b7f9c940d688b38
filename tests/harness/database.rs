//! One private server for all tests of a run, and a database for each.

use embedded::{Builder, Postgres};
use nix::{sys::signal::kill, unistd::Pid};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::within;

/// The server's folder goes with the run: its guard stops it when this process ends.
static SERVER: OnceCell<Postgres> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A database of its own, empty but for what a hub makes in it.
#[derive(Clone, Debug)]
pub(crate) struct TestDatabase {
    pub(crate) url: String,
}

impl TestDatabase {
    pub(crate) async fn create() -> Self {
        Self::create_from("template1").await
    }

    /// A copy of one that nobody is connected to any more, or will not be in a moment.
    pub(crate) async fn copy_of(original: &Self) -> Self {
        let (_, name) = original.url.rsplit_once('/').unwrap();
        Self::create_from(name).await
    }

    async fn create_from(template: &str) -> Self {
        let server = shared_server().await;
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = connect(&server.url()).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
            .unwrap();
        Self {
            url: server.database_url(&name),
        }
    }

    /// The one database of a server that a test has to itself.
    pub(crate) fn of(server: &Postgres) -> Self {
        Self { url: server.url() }
    }

    /// The same database with another password.
    pub(crate) fn url_with_password(&self, password: &str) -> String {
        let (user, rest) = self.url.split_once('@').unwrap();
        let (user, _) = user.rsplit_once(':').unwrap();
        format!("{user}:{password}@{rest}")
    }

    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// The same database for a new role that may log in and nothing else. Roles are the server's,
    /// so each has its own name.
    pub(crate) async fn role(&self, name: &str) -> String {
        let create = format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'");
        self.connect().await.batch_execute(&create).await.unwrap();
        let (_, rest) = self.url.split_once('@').unwrap();
        format!("postgres://{name}:secret@{rest}")
    }

    /// Inserts so many rows into `events`, in one transaction.
    pub(crate) async fn insert(&self, count: i32) {
        let insert = "INSERT INTO events (name) SELECT 'n' FROM generate_series(1, $1)";
        self.connect()
            .await
            .execute(insert, &[&count])
            .await
            .unwrap();
    }

    /// Makes the table `events` and its trigger, after a hub has made the schema.
    pub(crate) async fn create_events_table(&self) {
        let psql = self.connect().await;
        let create = psql.batch_execute(include_str!("../../sql/events.sql"));
        within("the table events", create).await.unwrap();
    }
}

async fn shared_server() -> &'static Postgres {
    let start = || async { private_postgres(&folder("shared")).await };
    SERVER.get_or_init(start).await
}

/// Whether some hub has promised to look, so that writers do not ring.
pub(crate) async fn is_promised(psql: &Client) -> bool {
    let promised = "SELECT coalesce(pg_sequence_last_value('bellwether.awake_until'), 0)
        >= bellwether.now_ms()";
    psql.query_one(promised, &[]).await.unwrap().get(0)
}

/// The major version of all servers here.
pub(crate) async fn server_major() -> u32 {
    shared_server().await.major()
}

/// A server for one test that wants to stop it.
pub(crate) async fn private_postgres(folder: &Path) -> Postgres {
    private_postgres_with(folder, &[]).await
}

/// One with settings of its own.
pub(crate) async fn private_postgres_with(folder: &Path, settings: &[(&str, &str)]) -> Postgres {
    let mut builder = Builder::new(folder)
        .binaries(std::env::var_os("BELLWETHER_TEST_PG_BIN").map(PathBuf::from))
        .holder("the end-to-end tests")
        .setting("max_prepared_transactions", "10")
        .setting("max_connections", "200")
        .setting("search_path", "public")
        .setting("fsync", "off"); // whether it survives a power cut is not what is tested
    for (name, value) in settings {
        builder = builder.setting(*name, *value);
    }
    let started = builder.start().await;
    started.unwrap_or_else(|error| panic!("{}", pg::chain(&error)))
}

/// A folder that is new in this run. It cannot be removed at the end, when the server still
/// has it, so it goes with the next run.
fn folder(name: &str) -> PathBuf {
    let prefix = "bellwether-tests-";
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let of = entry.file_name();
        let of = of
            .to_str()
            .and_then(|of| of.strip_prefix(prefix)?.split('-').next()?.parse().ok());
        if of.is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err()) {
            // Somebody else's, or being removed by another: not ours to worry about.
            let _: std::io::Result<()> = std::fs::remove_dir_all(entry.path());
        }
    }
    let folder = std::env::temp_dir().join(format!("{prefix}{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
