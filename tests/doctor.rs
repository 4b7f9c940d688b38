use nix::unistd::User;
use serde_json::Value;
use std::{net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Stdio};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::harness::{
    Hub, HubOptions, TestDatabase, bellwether, eventually, private_postgres, within,
};

/// What the doctor found.
#[derive(Debug)]
struct Report {
    code: Option<i32>,
    findings: Vec<Value>,
}

async fn examine(url: &str, args: &[&str]) -> Report {
    let output = bellwether()
        .args(["doctor", "--json", "--database-url", url])
        .args(args)
        .output();
    let output = within("its end", output).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let findings = said.lines().map(|line| serde_json::from_str(line).unwrap());
    Report {
        code: output.status.code(),
        findings: findings.collect(),
    }
}

impl Report {
    /// The one finding of a check that is not good has this state, and says and advises this.
    #[track_caller]
    fn says(&self, check: &str, state: &str, found: &str, advice: &str) {
        let ill = |finding: &&Value| finding["check"] == check && finding["state"] != "good";
        let ill: Vec<&Value> = self.findings.iter().filter(ill).collect();
        let [finding] = ill.as_slice() else {
            panic!("not one finding of {check}: {self:?}");
        };
        let text = |name: &str| finding[name].as_str().unwrap();
        assert!(
            text("state") == state
                && text("found").contains(found)
                && text("advice").contains(advice),
            "{finding}"
        );
        assert_eq!(self.code, Some(i32::from(state == "bad")), "{self:?}");
    }

    /// What is not good. The tests' servers do without fsync, which is always told.
    fn ill(&self) -> Vec<&str> {
        let ill = |finding: &&Value| finding["state"] != "good" && finding["check"] != "settings";
        let ill = self.findings.iter().filter(ill);
        ill.map(|finding| finding["check"].as_str().unwrap())
            .collect()
    }
}

#[tokio::test]
async fn all_is_well() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    psql.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT bellwether.attach('t', topic => 'the.topic')",
    )
    .await
    .unwrap();
    database.insert(2).await;
    hub.stream("topic=events&last=2").await.events(2).await;
    hub.is_asleep().await;
    let report = examine(&database.url, &[]).await;
    assert_eq!(report.ill(), [""; 0], "{report:?}");
    assert_eq!(report.code, Some(0));
    let checks: Vec<&str> = report
        .findings
        .iter()
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    assert_eq!(
        checks,
        [
            "connection",
            "notify",
            "server",
            "settings",
            "clock",
            "notification queue",
            "transactions",
            "rights",
            "schema",
            "hubs",
            "lag",
            "retention",
            "attachments",
            "attachments"
        ]
    );

    // For people: a line for each, and what to do below it.
    let output = bellwether()
        .args(["doctor", "--database-url", &database.url])
        .output();
    let output = within("its end", output).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("ok    attachments         t on the.topic\n"),
        "{said}"
    );
    assert!(
        said.contains("warn  settings            fsync = off\n      "),
        "{said}"
    );
}

#[tokio::test]
async fn it_cannot_connect() {
    let database = TestDatabase::create().await;
    // A port that nobody listens on as long as we have it.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nobody = format!("postgres://u@127.0.0.1:{port}/x");
    let (server, _) = database.url.rsplit_once('/').unwrap();
    for (url, found, advice) in [
        (nobody, "Connection refused", "check host and port"),
        (
            database.url_with_password("wrong"),
            "password authentication failed",
            "the role and its password",
        ),
        (
            format!("{server}/nix"),
            "database \"nix\" does not exist",
            "or create it",
        ),
    ] {
        let report = examine(&url, &[]).await;
        assert_eq!(report.findings.len(), 1, "{report:?}");
        report.says("connection", "bad", found, advice);
    }
}

#[tokio::test]
async fn it_is_a_standby() {
    let folder = tempfile::tempdir().unwrap();
    private_postgres(folder.path()).await.stop().await.unwrap();
    std::fs::write(folder.path().join("pgdata/standby.signal"), "").unwrap();
    let standby = private_postgres(folder.path()).await;
    let report = examine(&standby.url(), &[]).await;
    report.says(
        "connection",
        "bad",
        "is in recovery",
        "connect to the primary",
    );
}

#[tokio::test]
async fn the_schema_is_not_there_or_another() {
    let database = TestDatabase::create().await;
    let report = examine(&database.url, &[]).await;
    report.says("schema", "bad", "there is none", "bellwether serve");
    assert_eq!(report.ill(), ["schema"]);

    Hub::start(&database).await.kill().await;
    let psql = database.connect().await;
    let set = async |change: &str| {
        psql.batch_execute(change).await.unwrap();
        examine(&database.url, &[]).await
    };
    let report = set("UPDATE bellwether.migration SET version = version + 100").await;
    report.says(
        "schema",
        "bad",
        "this program knows versions up to",
        "run the newer program",
    );
    let report = set("UPDATE bellwether.migration SET version = version - 101").await;
    report.says("schema", "bad", "this program's is", "it upgrades it");
}

#[tokio::test]
async fn rights_are_missing() {
    let database = TestDatabase::create().await;
    let url = database.role("patient").await;
    let report = examine(&url, &[]).await;
    report.says(
        "rights",
        "bad",
        "may not do what a hub does",
        "GRANT CREATE ON DATABASE test_",
    );
    let hub = Hub::start(&database).await;
    let report = examine(&url, &[]).await;
    let allow = "SELECT bellwether.allow('patient', 'hub')";
    report.says("rights", "bad", "may not do what a hub does", allow);
    assert_eq!(report.ill(), ["rights"], "one reason, told once");
    database.connect().await.batch_execute(allow).await.unwrap();
    let report = examine(&url, &[]).await;
    assert_eq!(report.ill(), [""; 0], "{report:?}");
    drop(hub);
}

/// The real `PgBouncer`, as another user, as it does not run as root.
async fn pooler(folder: &Path, database: &TestDatabase, mode: &str) -> (Child, String) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url: tokio_postgres::Config = database.url.parse().unwrap();
    let name = url.get_dbname().unwrap();
    let config = format!(
        "[databases]\n{name} = host=127.0.0.1 port={} user={} password={}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n",
        url.get_ports()[0],
        url.get_user().unwrap(),
        String::from_utf8(url.get_password().unwrap().to_vec()).unwrap(),
    );
    let file = folder.join(format!("{mode}.ini"));
    std::fs::write(&file, config).unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("pgbouncer");
    command
        .env("PATH", format!("{path}:/usr/sbin"))
        .arg(&file)
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if nix::unistd::geteuid().is_root() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    }
    let child = command
        .spawn()
        .expect("pgbouncer: apt-get install pgbouncer");
    eventually("the pooler listens", true, async || {
        TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    (child, format!("postgres://anybody@127.0.0.1:{port}/{name}"))
}

#[tokio::test]
async fn a_pooler_is_between() {
    let database = TestDatabase::create().await;
    let _hub = Hub::start(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let (_session, url) = pooler(folder.path(), &database, "session").await;
    let report = examine(&url, &[]).await;
    assert_eq!(report.ill(), [""; 0], "{report:?}");
    let (_transaction, url) = pooler(folder.path(), &database, "transaction").await;
    let report = examine(&url, &[]).await;
    report.says("notify", "bad", "", "a pooler in session mode");
    assert_eq!(report.ill(), ["notify"], "the rest would mean nothing");
}

#[tokio::test]
async fn transactions_are_long() {
    let database = TestDatabase::create().await;
    let _hub = Hub::start(&database).await;
    let (open, prepared) = (database.connect().await, database.connect().await);
    let row = open
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap();
    let pid: i32 = row.get(0);
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()")
        .await
        .unwrap();
    prepared
        .batch_execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'doctor''s'")
        .await
        .unwrap();
    let report = examine(&database.url, &["--long", "0"]).await;
    // Those of other tests may be named, too.
    let advice: Vec<&str> = report
        .findings
        .iter()
        .filter_map(|finding| finding["advice"].as_str())
        .collect();
    let advice = advice.join("\n");
    assert!(
        advice.contains(&format!("SELECT pg_terminate_backend({pid})")),
        "{report:?}"
    );
    assert!(
        advice.contains("ROLLBACK PREPARED 'doctor''s'"),
        "{report:?}"
    );
    assert_eq!(report.code, Some(0), "a hub can do its work");
    prepared
        .batch_execute("ROLLBACK PREPARED 'doctor''s'")
        .await
        .unwrap();
    drop(open);
}

#[tokio::test]
async fn an_attachment_has_drifted() {
    let database = TestDatabase::create().await;
    let _hub = Hub::start(&database).await;
    let psql = database.connect().await;
    psql.batch_execute("CREATE TABLE t (id int PRIMARY KEY, org int); CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        SELECT bellwether.attach('t', topic => 'org.{org}'), bellwether.attach('p')").await.unwrap();
    for (change, found, advice, undo) in [
        ("ALTER TABLE t RENAME org TO team", "column org is gone or renamed", "attach the table again",
            "ALTER TABLE t RENAME team TO org"),
        ("ALTER TABLE t DISABLE TRIGGER bellwether_insert", "bellwether_insert on public.t is disabled", "enable it",
            "ALTER TABLE t ENABLE TRIGGER bellwether_insert"),
        ("CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (9); SELECT bellwether.attach('p', ops => '{insert}');
            CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (9) TO (19)",
            "rows put straight into public.p_2 are not captured", "attach public.p again", "DROP TABLE p_2"),
    ] {
        psql.batch_execute(change).await.unwrap();
        let report = examine(&database.url, &[]).await;
        report.says("attachments", "warning", found, advice);
        psql.batch_execute(undo).await.unwrap();
        let report = examine(&database.url, &[]).await;
        assert_eq!(report.ill(), [""; 0], "{report:?}");
    }
}

#[tokio::test]
async fn nobody_looks() {
    let database = TestDatabase::create().await;
    Hub::start(&database).await.kill().await;
    database.insert(1).await;
    let psql = database.connect().await;
    psql.batch_execute("UPDATE bellwether.event SET at = at - interval '1 minute'")
        .await
        .unwrap();
    let report = examine(&database.url, &[]).await;
    report.says(
        "lag",
        "bad",
        "waiting for its number for 6",
        "no hub is looking",
    );
    let hub = ["hubs", "lag"];
    assert_eq!(report.ill(), hub, "{report:?}");
    let hub = Hub::spawn(&database.url, HubOptions::default())
        .await
        .unwrap();
    hub.stream("topic=events&last=1").await.events(1).await;
    let report = examine(&database.url, &[]).await;
    assert_eq!(report.ill(), [""; 0], "{report:?}");
}
