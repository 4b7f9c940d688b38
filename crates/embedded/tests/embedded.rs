//! A real Postgres: started, stopped, killed, and its owner too.
//!
//! `BELLWETHER_TEST_PG_BIN` names the folder of other binaries than the
//! system's newest.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::error::Error as _;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use embedded::{Builder, Error, Mode, Postgres};
use nix::sys::signal::{self, Signal};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;
use tokio::time::{self, Instant};
use tokio_postgres::{Client, Config, NoTls};

/// For whatever must happen "soon"; machines can be slow.
const PATIENCE: Duration = Duration::from_secs(30);

const OWNED_DIR: &str = "EMBEDDED_TEST_OWNED_DIR";

// --- keeping, locking, stopping ---

#[tokio::test]
async fn data_outlives_a_restart() {
    let scratch = scratch();
    let dir = scratch.path().join("new/data");

    let server = builder(&dir).start().await.unwrap();
    let (url, pid) = (server.url(), server.pid());
    assert!(url.starts_with("postgres://bellwether:"), "{url}");
    assert!(server.major() >= embedded::OLDEST_MAJOR);
    assert!(server.version().starts_with(&server.major().to_string()));
    let client = connect(&url).await;
    client
        .batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (42)")
        .await
        .unwrap();
    server.stop().await.unwrap();
    assert!(!is_running(pid));

    let server = builder(&dir).start().await.unwrap();
    assert_eq!(server.url(), url, "the line in the shell's history works");
    assert_eq!(number(&connect(&url).await, "SELECT a FROM t").await, 42);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn text_sorts_by_code_point_and_knows_case() {
    let scratch = scratch();
    let server = start(&scratch).await;
    let client = connect(&server.url()).await;
    let row = client
        .query_one(
            "SELECT 'a' > 'B' AND lower('Ä') = 'ä', current_setting('server_encoding')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (true, "UTF8"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn only_we_can_read_the_secrets() {
    let scratch = scratch();
    let server = start(&scratch).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = server.data_dir();
    assert_eq!(mode(&dir.join("password")), 0o600);
    assert_eq!(mode(&dir.join("postgres.log")), 0o600);
    assert_eq!(mode(&dir.join("pgdata")), 0o700);
    assert_eq!(mode(server.socket_dir()), 0o700);
    assert!(!dir.join("password.initdb").exists());

    let mut config: Config = server.url().parse().unwrap();
    config.password("wrong");
    assert!(config.connect(NoTls).await.is_err());
    let password = fs::read_to_string(dir.join("password")).unwrap();
    assert!(!format!("{server:?}").contains(password.trim()));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_in_use_names_its_holder() {
    let scratch = scratch();
    let server = start(&scratch).await;
    let error = start_error(builder(scratch.path())).await;
    let expected = format!(
        "data folder {} is in use by process {} (embedded test), stop it or give another --data-dir",
        scratch.path().canonicalize().unwrap().display(),
        std::process::id(),
    );
    assert_eq!(error.to_string(), expected);
    server.stop().await.unwrap();
    start(&scratch).await.stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_makes_way_for_the_next() {
    let scratch = scratch();
    let server = start(&scratch).await;
    let pid = server.pid();
    // A session, so that there is something to shut down.
    let _client = connect(&server.url()).await;
    drop(server);
    let server = start(&scratch).await;
    until_gone(pid).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_port_and_data() {
    let scratch = scratch();
    let mut server = start(&scratch).await;
    let url = server.url();
    let client = connect(&url).await;
    client
        .batch_execute("CREATE TABLE t (a int)")
        .await
        .unwrap();
    for mode in [Mode::Immediate, Mode::Fast] {
        let pid = server.pid();
        server.restart(mode).await.unwrap();
        assert_ne!(server.pid(), pid);
        assert_eq!(server.url(), url);
        let client = connect(&url).await;
        client
            .batch_execute("INSERT INTO t VALUES (1)")
            .await
            .unwrap();
    }
    let client = connect(&url).await;
    assert_eq!(number(&client, "SELECT count(*)::int FROM t").await, 2);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_environment_arrives() {
    let scratch = scratch();
    let builder = builder(scratch.path()).env("EMBEDDED_TEST_WORD", "a word");
    let server = builder.start().await.unwrap();
    let client = connect(&server.url()).await;
    let ask = "CREATE TABLE said (word text);
        COPY said FROM PROGRAM 'printenv EMBEDDED_TEST_WORD'";
    client.batch_execute(ask).await.unwrap();
    let said = client
        .query_one("SELECT word FROM said", &[])
        .await
        .unwrap();
    assert_eq!(said.get::<_, &str>(0), "a word");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn settings_arrive() {
    let scratch = scratch();
    let server = builder(scratch.path())
        .setting("max_prepared_transactions", "7")
        .setting("listen_addresses", "*")
        .start()
        .await
        .unwrap();
    let client = connect(&server.url()).await;
    let query = "SELECT current_setting('max_prepared_transactions')::int";
    assert_eq!(number(&client, query).await, 7);
    let row = client
        .query_one("SHOW listen_addresses", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "127.0.0.1", "not up to the caller");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn another_database_has_an_url_too() {
    let scratch = scratch();
    let server = start(&scratch).await;
    let client = connect(&server.url()).await;
    client
        .batch_execute("CREATE DATABASE \"an other/ü\"")
        .await
        .unwrap();
    let other = connect(&server.database_url("an other/ü")).await;
    assert_eq!(number(&other, "SELECT 1").await, 1);
    server.stop().await.unwrap();
}

// --- death ---

#[tokio::test]
async fn a_server_that_dies_is_noticed() {
    let scratch = scratch();
    let mut server = start(&scratch).await;
    let url = server.url();
    kill(server.pid(), Signal::SIGKILL);
    let status = time::timeout(PATIENCE, server.exited())
        .await
        .unwrap()
        .unwrap();
    assert!(!status.success());
    // And it can be had again, though children of the dead one may linger.
    server.restart(Mode::Fast).await.unwrap();
    assert_eq!(server.url(), url);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_guard_is_replaced() {
    let scratch = scratch();
    let mut server = start(&scratch).await;
    let (url, orphan) = (server.url(), server.pid());
    let guard = processes().iter().find(|p| p.0 == orphan).unwrap().1;
    let watcher = children(guard).into_iter().find(|&pid| pid != orphan);
    kill(watcher.unwrap(), Signal::SIGKILL);
    kill(guard, Signal::SIGKILL);
    let exited = time::timeout(PATIENCE, server.exited());
    exited.await.unwrap().unwrap();

    server.restart(Mode::Fast).await.unwrap();
    until_gone(orphan).await;
    assert_eq!(server.url(), url);
    connect(&url).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_owner_leaves_nothing_running() {
    let scratch = scratch();
    let mut owner = Owner::start(scratch.path()).await;
    let _client = connect(&owner.url).await;
    owner.kill();
    for pid in owner.family() {
        until_gone(pid).await;
    }
}

#[cfg(target_os = "linux")] // it looks into /proc
#[tokio::test]
async fn the_owners_output_is_kept_open_by_the_owner_alone() {
    use std::os::fd::AsRawFd;
    let scratch = scratch();
    let mut owner = Owner::start(scratch.path()).await;
    let fds = |pid: u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let fds: Vec<_> = fds.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
        fds
    };
    let stdout = owner.child.stdout.as_ref().unwrap().as_raw_fd();
    let stdout = fs::read_link(format!("/proc/self/fd/{stdout}")).unwrap();
    assert!(fds(owner.child.id()).contains(&stdout));
    for pid in owner.family() {
        assert!(!fds(pid).contains(&stdout), "{:?}", fds(pid));
    }
    owner.kill();
    for pid in owner.family() {
        until_gone(pid).await;
    }
}

#[tokio::test]
async fn a_start_waits_for_what_a_killed_owner_left() {
    let scratch = scratch();
    let mut owner = Owner::start(scratch.path()).await;
    let client = connect(&owner.url).await;
    client
        .batch_execute("CREATE TABLE t (a int)")
        .await
        .unwrap();
    owner.kill();
    let server = start(&scratch).await;
    until_gone(owner.server).await;
    assert_eq!(
        number(&connect(&server.url()).await, "SELECT count(*)::int FROM t").await,
        0
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_takes_over_when_the_guard_was_killed_too() {
    let scratch = scratch();
    let mut owner = Owner::start(scratch.path()).await;
    let client = connect(&owner.url).await;
    client
        .batch_execute("CREATE TABLE t (a int)")
        .await
        .unwrap();
    kill(owner.guard, Signal::SIGKILL);
    kill(owner.watcher, Signal::SIGKILL);
    until_gone(owner.watcher).await;
    owner.kill();
    assert!(is_running(owner.server), "the test shows nothing");

    let server = start(&scratch).await;
    until_gone(owner.server).await;
    assert_eq!(
        number(&connect(&server.url()).await, "SELECT count(*)::int FROM t").await,
        0
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_recovers_when_all_were_killed() {
    let scratch = scratch();
    let mut owner = Owner::start(scratch.path()).await;
    let client = connect(&owner.url).await;
    client
        .batch_execute("CREATE TABLE t (a int)")
        .await
        .unwrap();
    // A child that is slow to notice the postmaster's death.
    let busy = tokio::spawn(async move {
        let busy = "SELECT count(*) FROM generate_series(1, 1000000000)";
        client.batch_execute(busy).await
    });
    owner.kill();
    for pid in [owner.guard, owner.watcher, owner.server] {
        kill(pid, Signal::SIGKILL);
    }
    let pgdata = scratch.path().join("pgdata");
    assert!(pgdata.join("postmaster.pid").exists());

    let server = start(&scratch).await;
    assert!(busy.await.unwrap().is_err());
    assert_eq!(
        number(&connect(&server.url()).await, "SELECT count(*)::int FROM t").await,
        0
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_reused_process_id_does_no_harm() {
    let scratch = scratch();
    start(&scratch).await.stop().await.unwrap();
    let pgdata = scratch.path().join("pgdata");
    let meta = fs::metadata(&pgdata).unwrap();
    let mut command = Command::new("sleep");
    command
        .arg("60")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if geteuid().is_root() {
        command.uid(meta.uid()).gid(meta.gid());
    }
    let mut innocent = command.spawn().unwrap();
    let text = format!("{}\n{}\n1\n5432\n", innocent.id(), pgdata.display());
    fs::write(pgdata.join("postmaster.pid"), text).unwrap();

    let server = start(&scratch).await;
    assert!(innocent.try_wait().unwrap().is_none(), "it still lives");
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_initdb_is_begun_anew() {
    for with_guard in [false, true] {
        let scratch = scratch();
        let mut owner = Owner::spawn(scratch.path());
        let unfinished = until("initdb writes", || {
            let found = unfinished(scratch.path());
            found.filter(|dir| dir.join("PG_VERSION").exists())
        })
        .await;
        let initdb = until("initdb runs", || {
            let all = processes();
            let found = all.iter().find(|(_, _, command)| {
                let program = command.split(' ').next();
                program.is_some_and(|program| program.ends_with("/initdb"))
                    && command.contains(&*unfinished.to_string_lossy())
            });
            found.map(|&(pid, guard, _)| (pid, guard))
        })
        .await;
        if with_guard {
            kill(owner.id(), Signal::SIGSTOP); // it shall not see this
            let guard = initdb.1;
            let watcher = children(guard).into_iter().find(|&pid| pid != initdb.0);
            kill(watcher.unwrap(), Signal::SIGKILL);
            kill(guard, Signal::SIGKILL);
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        let server = start(&scratch).await;
        assert_eq!(unfinished_name(scratch.path()), None);
        until_gone(initdb.0).await;
        server.stop().await.unwrap();
    }
}

// --- folders ---

#[tokio::test]
async fn odd_paths_work() {
    let scratch = scratch();
    let dir = scratch.path().join("it's \"odd\", ünï=côdé $HOME");
    let server = builder(&dir).start().await.unwrap();
    assert!(
        server
            .socket_dir()
            .starts_with(scratch.path().canonicalize().unwrap())
    );
    check_socket(&server).await;
    server.stop().await.unwrap();
}

#[cfg(target_os = "linux")] // elsewhere such names cannot be
#[tokio::test]
async fn a_path_that_is_not_unicode_works() {
    use std::os::unix::ffi::OsStrExt;
    let scratch = scratch();
    let dir = scratch.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    let server = builder(&dir).start().await.unwrap();
    check_socket(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_works() {
    let scratch = scratch();
    let dir = scratch.path().join("long".repeat(30));
    let server = builder(&dir).start().await.unwrap();
    let socket_dir = server.socket_dir().to_owned();
    assert!(
        socket_dir.as_os_str().len() < 80,
        "{}",
        socket_dir.display()
    );
    check_socket(&server).await;
    drop(server);
    // The folder that the dropped one left behind is not left for ever.
    let server = builder(&dir).start().await.unwrap();
    assert!(!socket_dir.exists());
    check_socket(&server).await;
    let socket_dir = server.socket_dir().to_owned();
    server.stop().await.unwrap();
    assert!(!socket_dir.exists());
}

#[tokio::test]
async fn a_folder_with_other_things_is_left_alone() {
    let scratch = scratch();
    fs::write(scratch.path().join("thesis.txt"), "").unwrap();
    let error = start_error(builder(scratch.path())).await;
    assert!(error.to_string().contains("it has thesis.txt"), "{error}");
    assert!(!scratch.path().join("lock").exists());
}

#[tokio::test]
async fn a_lost_password_is_replaced() {
    let scratch = scratch();
    let server = start(&scratch).await;
    let old = server.url();
    let file = server.data_dir().join("password");
    server.stop().await.unwrap();
    fs::remove_file(file).unwrap();
    let server = start(&scratch).await;
    assert_ne!(server.url(), old);
    connect(&server.url()).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_not_insisted_on() {
    let scratch = scratch();
    let server = start(&scratch).await;
    let port = server.port();
    server.stop().await.unwrap();
    let _thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let server = start(&scratch).await;
    assert_ne!(server.port(), port);
    connect(&server.url()).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn root_is_told_of_a_folder_that_postgres_cannot_enter() {
    if !geteuid().is_root() {
        return;
    }
    let scratch = scratch();
    let shut = scratch.path().join("shut");
    fs::create_dir(&shut).unwrap();
    fs::set_permissions(&shut, Permissions::from_mode(0o700)).unwrap();
    let error = start_error(builder(&shut.join("new/data"))).await;
    assert!(!shut.join("new").exists());
    assert!(matches!(&error, Error::Unreachable { at, .. } if *at == shut.canonicalize().unwrap()));
    assert!(
        error.to_string().contains("--data-dir /var/lib/bellwether"),
        "{error}"
    );
}

// --- binaries ---

#[tokio::test]
async fn a_wrong_folder_is_named() {
    let scratch = scratch();
    let bin = scratch.path().join("bin");
    let error =
        start_error(builder(&scratch.path().join("data")).binaries(Some(bin.clone()))).await;
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("{} has no executable `postgres`", bin.display())),
        "{text}"
    );
}

#[tokio::test]
async fn missing_binaries_are_one_line_with_what_to_do() {
    let scratch = scratch();
    let error = start_error(builder(&scratch.path().join("data")).search(vec![])).await;
    assert_eq!(
        error.to_string(),
        format!(
            "no PostgreSQL 15 or newer found (looked in no folder): install it, e.g. `{}`, \
             or name its folder with --pg-bin",
            if cfg!(target_os = "macos") {
                "brew install postgresql@17"
            } else {
                "apt-get install postgresql"
            }
        )
    );

    let old = fake_binaries(scratch.path(), "9.6.24");
    let error = start_error(builder(&scratch.path().join("data")).search(vec![old])).await;
    assert!(error.to_string().contains("too old: 9 in "), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[tokio::test]
async fn a_cluster_wants_the_binaries_that_made_it() {
    let scratch = scratch();
    let dir = scratch.path().join("data");
    let server = builder(&dir).start().await.unwrap();
    let (major, bin) = (server.major(), server.binaries().to_owned());
    server.stop().await.unwrap();

    let newer = fake_binaries(scratch.path(), "99.1");
    let error = start_error(builder(&dir).binaries(Some(newer.clone())))
        .await
        .to_string();
    assert!(
        error.contains(&format!("was made by PostgreSQL {major}")),
        "{error}"
    );
    assert!(error.contains("found: 99 in "), "{error}");
    assert!(
        error.contains(&format!("install PostgreSQL {major}")),
        "{error}"
    );

    let server = builder(&dir)
        .search(vec![newer, bin])
        .start()
        .await
        .unwrap();
    assert_eq!(server.major(), major, "not the newest");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn binaries_that_postgres_cannot_enter_are_passed_over() {
    if !geteuid().is_root() {
        return;
    }
    let scratch = scratch();
    let dir = scratch.path().join("data");
    let server = builder(&dir).start().await.unwrap();
    let (major, bin) = (server.major(), server.binaries().to_owned());
    server.stop().await.unwrap();
    fs::remove_dir_all(&dir).unwrap();

    let shut = fake_binaries(scratch.path(), "99.1");
    fs::set_permissions(&shut, Permissions::from_mode(0o700)).unwrap();
    let error = start_error(builder(&dir).search(vec![shut.clone()])).await;
    assert!(error.to_string().contains("e.g. --pg-bin"), "{error}");

    let both = builder(&dir).search(vec![shut, bin]);
    let server = both.start().await.unwrap();
    assert_eq!(server.major(), major);
    server.stop().await.unwrap();
}

// --- failure ---

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let scratch = scratch();
    let error = start_error(builder(scratch.path()).setting("shared_buffers", "lots")).await;
    assert!(matches!(error, Error::Exited { .. }));
    assert!(
        error.to_string().contains("\"shared_buffers\": \"lots\""),
        "{error}"
    );
    start(&scratch).await.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_has_a_limit() {
    let scratch = scratch();
    start(&scratch).await.stop().await.unwrap();
    let slow = builder(scratch.path()).start_limit(Duration::from_millis(1));
    let error = start_error(slow).await;
    assert!(matches!(error, Error::NotReady { .. }), "{error}");
    assert!(error.source().is_none());
    start(&scratch).await.stop().await.unwrap();
}

// --- helpers ---

/// A folder that Postgres's user can enter if we are root.
fn scratch() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

fn builder(dir: &Path) -> Builder {
    Builder::new(dir)
        .binaries(std::env::var_os("BELLWETHER_TEST_PG_BIN").map(PathBuf::from))
        .setting("fsync", "off")
        .holder("embedded test")
}

async fn start(scratch: &TempDir) -> Postgres {
    builder(scratch.path()).start().await.unwrap()
}

async fn start_error(builder: Builder) -> Error {
    builder.start().await.map(drop).unwrap_err()
}

async fn connect(url: &str) -> Client {
    connect_with(&url.parse().unwrap()).await
}

async fn connect_with(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn check_socket(server: &Postgres) {
    let mut config = Config::new();
    config.user("bellwether").port(server.port());
    config.host_path(server.socket_dir());
    assert_eq!(number(&connect_with(&config).await, "SELECT 1").await, 1);
}

async fn number(client: &Client, query: &str) -> i32 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Programs that know their version and nothing else.
fn fake_binaries(at: &Path, version: &str) -> PathBuf {
    let folder = at.join(format!("fake-{version}"));
    fs::create_dir(&folder).unwrap();
    for program in ["postgres", "initdb"] {
        let script = format!("#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n");
        // Not written by us: a test that forks at this moment would keep the
        // file open for writing, and then it cannot be executed.
        let mut write = Command::new("sh");
        write.args(["-c", r#"printf %s "$1" > "$2""#, "sh", &script]);
        assert!(write.arg(folder.join(program)).status().unwrap().success());
        fs::set_permissions(folder.join(program), Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

fn unfinished_name(dir: &Path) -> Option<String> {
    let names = fs::read_dir(dir).unwrap().flatten();
    let mut names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.find(|name| name.starts_with("pgdata.new-"))
}

fn unfinished(dir: &Path) -> Option<PathBuf> {
    unfinished_name(dir).map(|name| dir.join(name))
}

/// A server with an owner that can be killed: this program again, running
/// [`be_an_owner`].
struct Owner {
    child: Child,
    guard: u32,
    watcher: u32,
    server: u32,
    url: String,
}

impl Owner {
    fn spawn(dir: &Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "be_an_owner", "--ignored", "--nocapture"])
            .env(OWNED_DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    async fn start(dir: &Path) -> Self {
        let child = Self::spawn(dir);
        let said = until("the owner has started", || {
            let text = fs::read_to_string(dir.join("said")).ok()?;
            let (pid, url) = text.strip_suffix('\n')?.split_once(' ')?;
            Some((pid.parse::<u32>().unwrap(), url.to_owned()))
        });
        let (server, url) = said.await;
        let guard = processes().iter().find(|p| p.0 == server).unwrap().1;
        let watcher = children(guard).into_iter().find(|&pid| pid != server);
        Self {
            child,
            guard,
            watcher: watcher.unwrap(),
            server,
            url,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn family(&self) -> [u32; 3] {
        [self.guard, self.watcher, self.server]
    }
}

#[tokio::test]
#[ignore = "run by the tests above, as a process of its own"]
async fn be_an_owner() {
    let Some(dir) = std::env::var_os(OWNED_DIR).map(PathBuf::from) else {
        return; // all ignored tests were asked for
    };
    let server = builder(&dir).start().await.unwrap();
    let said = format!("{} {}\n", server.pid(), server.url());
    fs::write(dir.join("said"), said).unwrap();
    std::future::pending::<()>().await;
    drop(server);
}

/// All processes: id, parent, command line. Zombies do not count.
fn processes() -> Vec<(u32, u32, String)> {
    let output = Command::new("ps")
        .args(["-A", "-ww", "-o", "pid=,ppid=,stat=,command="])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let parent = words.next()?.parse().ok()?;
        let is_zombie = words.next()?.starts_with('Z');
        (!is_zombie).then(|| (pid, parent, words.collect::<Vec<_>>().join(" ")))
    };
    text.lines().filter_map(process).collect()
}

fn children(parent: u32) -> Vec<u32> {
    let all = processes().into_iter();
    all.filter(|p| p.1 == parent).map(|p| p.0).collect()
}

fn is_running(pid: u32) -> bool {
    processes().iter().any(|process| process.0 == pid)
}

fn kill(pid: u32, signal: Signal) {
    signal::kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

async fn until_gone(pid: u32) {
    until("a process is gone", || (!is_running(pid)).then_some(())).await;
}

async fn until<T>(fact: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain until {fact}");
        time::sleep(Duration::from_millis(10)).await;
    }
}
