use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{collections::HashSet, path::Path, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};
use tokio_postgres::SimpleQueryMessage;

use crate::harness::{Client, Hub, TestDatabase, bellwether, eventually, get, within};

/// A demo that has said that it is ready, and the lines it printed before.
pub(crate) struct Demo {
    child: Child,
    stdout: BufReader<ChildStdout>,
    lines: Vec<String>,
}

fn command(folder: &Path) -> Command {
    command_of(folder, &[])
}

fn command_of(folder: &Path, scene: &[&str]) -> Command {
    let mut command = bellwether();
    command.arg("demo").args(scene);
    command.arg("--data-dir").arg(folder);
    command.env("BELLWETHER_LISTEN", "127.0.0.1:0");
    if let Some(binaries) = std::env::var_os("BELLWETHER_TEST_PG_BIN") {
        command.arg("--pg-bin").arg(binaries);
    }
    command
}

impl Demo {
    async fn start(folder: &Path) -> Self {
        Self::start_of(folder, &[]).await
    }

    pub(crate) async fn start_of(folder: &Path, scene: &[&str]) -> Self {
        let mut child = command_of(folder, scene)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = within("a line of the demo", stdout.read_line(&mut line))
                .await
                .unwrap();
            assert_ne!(read, 0, "it ended after {lines:?}");
            if line.starts_with("ready") {
                return Self {
                    child,
                    stdout,
                    lines,
                };
            }
            lines.push(line.trim_end().to_owned());
        }
    }

    /// `127.0.0.1:7080`
    pub(crate) fn address(&self) -> &str {
        let page = self.lines[0].strip_prefix("http://");
        let address = page.and_then(|page| page.split('/').next());
        address.expect("its first line is the page's address")
    }

    /// As by somebody with the line that it prints for psql.
    pub(crate) async fn psql(&self, statement: &str) {
        let url = self.line("psql ").split('\'').nth(1);
        let mut psql = Command::new("psql");
        psql.args([url.expect("it is quoted"), "-c", statement]);
        let output = within("psql", psql.output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// As by Ctrl-C.
    pub(crate) async fn stop(self) {
        self.signal(Signal::SIGINT);
        assert_eq!(self.exit_code().await, Some(0));
    }

    fn line(&self, start: &str) -> &str {
        let line = self.lines.iter().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no line begins with {start}: {:?}", self.lines))
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().unwrap().try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    async fn exit_code(mut self) -> Option<i32> {
        let mut rest = String::new();
        within("its last word", self.stdout.read_to_string(&mut rest))
            .await
            .unwrap();
        within("its end", self.child.wait()).await.unwrap().code()
    }
}

/// The process id in the data folder of a Postgres that runs.
fn postmaster(folder: &Path) -> Option<Pid> {
    let file = std::fs::read_to_string(folder.join("pgdata/postmaster.pid")).ok()?;
    let pid = Pid::from_raw(file.lines().next()?.parse().ok()?);
    kill(pid, None).ok()?;
    Some(pid)
}

/// What a person does: start it, paste its two lines, see the insert arrive, press Ctrl-C.
/// Then all of it again, on the data of the first time.
#[tokio::test]
async fn paste_its_lines_and_see_the_insert_arrive() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=2 {
        let demo = Demo::start(folder.path()).await;
        assert!(demo.lines[0].starts_with("http://127.0.0.1:"));
        let mut curl = Command::new("sh")
            .args(["-c", &format!("exec {}", demo.line("curl -N "))])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut seen = BufReader::new(curl.stdout.take().unwrap()).lines();
        let first = within("the stream's first line", seen.next_line())
            .await
            .unwrap()
            .unwrap();
        assert!(first.starts_with("retry: "), "{first}");

        let psql = Command::new("sh").args(["-c", demo.line("psql ")]).output();
        let psql = within("psql", psql).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&psql.stdout),
            "INSERT 0 1\n",
            "{psql:?}"
        );
        within("the insert in curl", async {
            // The demo's own visitors sign up too, but never exactly like this.
            while !seen
                .next_line()
                .await
                .unwrap()
                .unwrap()
                .contains(r#""properties":{"plan": "pro"},"#)
            {}
        })
        .await;

        demo.signal(Signal::SIGINT);
        assert_eq!(demo.exit_code().await, Some(0), "round {round}");
        assert_eq!(postmaster(folder.path()), None, "Postgres is gone with it");
        within("curl's end", curl.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn things_happen_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path()).await;
    let address = demo.address().parse().unwrap();
    let mut client = Client::connect(address, "topic=events", None).await;
    client.events(5).await;
}

/// Each on the same folder, one after the other: its page, its lines, and what happens in it.
#[tokio::test]
async fn things_happen_in_each_scene() {
    let folder = tempfile::tempdir().unwrap();
    for (scene, page, topics, names) in [
        (
            "analytics",
            "/analytics",
            "topic=events&topic=metrics",
            &["page_view", "snapshot"][..],
        ),
        (
            "shop",
            "/shop",
            "topic=shop.%3E",
            &["placed", "changed", "counted", "inventory"],
        ),
        (
            "uptime",
            "/uptime?org=1",
            "topic=org.1.%3E",
            &["probe", "summary"],
        ),
    ] {
        let demo = Demo::start_of(folder.path(), &[scene]).await;
        assert!(demo.lines[0].ends_with(page), "{}", demo.lines[0]);
        let address = demo.address().parse().unwrap();
        assert_eq!(get(address, page.split('?').next().unwrap()).await.0, 200);
        let mut client = Client::connect(address, topics, None).await;
        let mut missing: HashSet<&str> = names.iter().copied().collect();
        while !missing.is_empty() {
            missing.remove(&*client.events(1).await[0].name);
        }
        let psql = Command::new("sh").args(["-c", demo.line("psql ")]).output();
        let psql = within("psql", psql).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&psql.stdout),
            "INSERT 0 1\n",
            "{psql:?}"
        );
        demo.stop().await;
    }
}

/// It reads the same number of pages at ten thousand events and at many times that.
/// `BELLWETHER_SNAPSHOT_EVENTS=10000000` says how many.
#[tokio::test]
async fn a_snapshot_costs_the_same_however_many_events_there_are() {
    let many = std::env::var("BELLWETHER_SNAPSHOT_EVENTS");
    let many: i32 = many.map_or(100_000, |many| many.parse().expect("a number"));
    let database = TestDatabase::create().await;
    let _hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let script = include_str!("../sql/demo/analytics.sql");
    psql.batch_execute(script).await.unwrap();
    let mut events = 4_000; // the demo's past
    let mut pages = Vec::new();
    for total in [10_000, many] {
        while events < total {
            // In pieces, each of which is numbered within the limit of a wait.
            let more = 100_000.min(total - events);
            visits(&psql, more, "1 day").await;
            events += more;
        }
        psql.batch_execute("SELECT demo.take_snapshot()")
            .await
            .unwrap();
        visits(&psql, 10, "0").await;
        events += 10;
        pages.push(pages_of_a_snapshot(&database).await);
        let counted = "SELECT events_count FROM metrics_snapshots ORDER BY id DESC LIMIT 1";
        let counted: i64 = psql.query_one(counted, &[]).await.unwrap().get(0);
        assert_eq!(counted, i64::from(events));
    }
    println!("a snapshot reads {pages:?} pages, at 10,000 events and at {events}");
    // An index of ten million entries is a page or two deeper, and ten events are looked up.
    assert!(pages[1] < pages[0] + 100, "{pages:?}");
}

/// So many visits that happened so long ago, numbered.
async fn visits(psql: &tokio_postgres::Client, count: i32, ago: &str) {
    let insert = format!(
        "INSERT INTO events (name, properties, created_at)
        SELECT 'page_view', '{{\"session\": \"s\"}}', now() - interval '{ago}'
        FROM generate_series(1, $1::int)"
    );
    psql.execute(&insert, &[&count]).await.unwrap();
    let numbered = "SELECT (SELECT max(id) FROM bellwether.event)
        = (SELECT first_id + (last_seq - first_seq) FROM bellwether.stream ORDER BY last_seq DESC LIMIT 1)";
    eventually("they are numbered", Some(true), async || {
        psql.query_one(numbered, &[]).await.unwrap().get(0)
    })
    .await;
}

/// Pages of tables and indexes that one reads, in memory or not: as `EXPLAIN` counts them, in a
/// session that has planned it before.
async fn pages_of_a_snapshot(database: &TestDatabase) -> u64 {
    let psql = database.connect().await;
    let rehearse = "BEGIN; SELECT demo.take_snapshot(); ROLLBACK";
    psql.batch_execute(rehearse).await.unwrap();
    let explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT demo.take_snapshot()";
    let rows = psql.simple_query(explain).await.unwrap();
    let plan = rows.iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: serde_json::Value = serde_json::from_str(plan.unwrap()).unwrap();
    let of = |what: &str| plan[0]["Plan"][what].as_u64().unwrap();
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

#[tokio::test]
async fn a_second_one_says_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path()).await;
    let second = within("the second one's end", command(folder.path()).output())
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    let pid = demo.child.id().unwrap().to_string();
    for part in [
        &folder.path().display().to_string(),
        &pid,
        "bellwether demo",
        "--data-dir",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_leaves_nothing_running() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let refused = command(folder.path()).args(["--listen", &address]).output();
    let refused = within("its end", refused).await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );
    assert_eq!(postmaster(folder.path()), None);
}

#[tokio::test]
async fn killed_it_leaves_nothing_running() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path()).await;
    assert_ne!(postmaster(folder.path()), None);
    demo.signal(Signal::SIGKILL);
    eventually("Postgres is gone", None, async || postmaster(folder.path())).await;
    let demo = Demo::start(folder.path()).await;
    demo.signal(Signal::SIGTERM);
    assert_eq!(demo.exit_code().await, Some(0));
}
