use super::{problems, run, same};
use crate::harness::{
    Hub, HubOptions, TestDatabase, eventually, private_postgres_with, server_major, within,
};
use std::time::Duration;
use tokio::process::Command;
use tokio_postgres::Client;

async fn make_schema(database: &TestDatabase) {
    let hub = Hub::spawn(&database.url, HubOptions::default()).await;
    hub.expect("it makes the schema").kill().await;
}

/// All that was captured, as `name key`.
async fn captured(psql: &Client) -> Vec<String> {
    let query = "SELECT concat_ws(' ', name, key) FROM bellwether.event ORDER BY id";
    let rows = psql.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Real replication, from one database to another: the first copy, and what comes later.
#[tokio::test]
async fn replicated_rows_are_captured_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = private_postgres_with(folder.path(), &[("wal_level", "logical")]).await;
    let here = TestDatabase::of(&server);
    make_schema(&here).await;
    let subscriber = here.connect().await;
    subscriber
        .batch_execute("CREATE DATABASE publisher")
        .await
        .unwrap();
    let there = server.database_url("publisher");
    let publisher = crate::harness::connect(&there).await;
    let tables = "CREATE TABLE plain (id int PRIMARY KEY, a text);
        CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100)";
    publisher
        .batch_execute(&format!(
            "{tables}; INSERT INTO plain VALUES (1), (2); INSERT INTO parted VALUES (1);
            CREATE PUBLICATION all_of_it FOR ALL TABLES WITH (publish_via_partition_root = true)"
        ))
        .await
        .unwrap();
    publisher
        .batch_execute("SELECT pg_create_logical_replication_slot('slot', 'pgoutput')")
        .await
        .unwrap();
    subscriber
        .batch_execute(&format!(
            "{tables}; SELECT bellwether.attach(relation, event => '{{table}}.{{op}}', replica => true)
            FROM unnest('{{plain,parted}}'::regclass[]) AS relation"
        ))
        .await
        .unwrap();
    // Within one server it cannot make the slot itself.
    let subscribe = format!(
        "CREATE SUBSCRIPTION sub CONNECTION '{there}' PUBLICATION all_of_it WITH (create_slot = false, slot_name = 'slot')"
    );
    subscriber.batch_execute(&subscribe).await.unwrap();
    eventually(
        "the first copy",
        vec![
            "parted.insert 1".to_owned(),
            "plain.insert 1".to_owned(),
            "plain.insert 2".to_owned(),
        ],
        async || {
            let mut found = captured(&subscriber).await;
            found.sort();
            found
        },
    )
    .await;
    eventually("it is live", 2_i64, async || {
        let query = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'";
        subscriber.query_one(query, &[]).await.unwrap().get(0)
    })
    .await;
    publisher
        .batch_execute(
            "INSERT INTO plain VALUES (3), (4); UPDATE plain SET a = 'x' WHERE id = 3; UPDATE plain SET id = 5 WHERE id = 4;
            DELETE FROM plain WHERE id = 1; INSERT INTO parted VALUES (2); TRUNCATE plain; INSERT INTO plain VALUES (9)",
        )
        .await
        .unwrap();
    let live = [
        "plain.insert 3",
        "plain.insert 4",
        "plain.update 3",
        "plain.delete 4",
        "plain.insert 5",
        "plain.delete 1",
        "parted.insert 2",
        "plain.truncate",
        "plain.insert 9",
    ];
    eventually(
        "what came later",
        live.map(str::to_owned).to_vec(),
        async || captured(&subscriber).await.split_off(3),
    )
    .await;
    same(&problems(&subscriber).await, &[]);
    subscriber
        .batch_execute("DROP SUBSCRIPTION sub")
        .await
        .unwrap();
}

/// A database with attachments is dumped, and works where it is restored.
#[tokio::test]
async fn a_restored_dump_goes_on() {
    let version = Command::new("pg_dump")
        .arg("--version")
        .output()
        .await
        .unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let major: u32 = version
        .split([' ', '.'])
        .find_map(|word| word.parse().ok())
        .unwrap();
    if major < server_major().await {
        eprintln!("not tested: {} dumps older servers only", version.trim());
        return;
    }
    let (original, psql) = super::with_schema().await;
    run(&psql, "CREATE TABLE gone (id int); SELECT bellwether.attach('gone'); DROP TABLE gone;
        CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
        SELECT bellwether.attach('plain', replica => true), bellwether.attach('parted', retain => true);
        INSERT INTO plain VALUES (1); INSERT INTO parted VALUES (1)").await;
    let copy = TestDatabase::create().await;
    // The oids of the copy's tables are others.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump");
    for command in [
        Command::new("pg_dump")
            .arg("--format=custom")
            .arg("--file")
            .arg(&file)
            .arg(&original.url),
        Command::new("pg_restore")
            .arg("--exit-on-error")
            .arg("--dbname")
            .arg(&copy.url)
            .arg(&file),
    ] {
        let output = within("its end", command.output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let psql = copy.connect().await;
    let slower = "each statement asks whether this is its table, as a dump was restored: attach the table again";
    same(&problems(&psql).await, &[slower, slower]);
    let found = run(&psql, "INSERT INTO plain VALUES (2); INSERT INTO parted VALUES (2); INSERT INTO parted_1 VALUES (3)").await;
    same(
        &found,
        &[
            r#"plain plain.insert 2 {"id":2}"#,
            r#"parted parted.insert 2 {"id":2}"#,
            r#"parted parted.insert 3 {"id":3}"#,
        ],
    );
    let found = run(
        &psql,
        "CREATE TABLE more (id int PRIMARY KEY); SELECT bellwether.attach('more'); INSERT INTO more VALUES (1);
        SELECT bellwether.attach('plain', event => 'again'); INSERT INTO plain VALUES (3)",
    )
    .await;
    same(
        &found,
        &[
            r#"more more.insert 1 {"id":1}"#,
            r#"plain again 3 {"id":3}"#,
        ],
    );
    same(&problems(&psql).await, &[slower]);
    run(&psql, "SELECT bellwether.attach('parted', retain => true)").await;
    same(&problems(&psql).await, &[]);
}

/// Both want the table for themselves: one waits, neither is lost, and rows have all columns.
#[tokio::test]
async fn a_column_is_added_while_it_is_attached() {
    let (database, psql) = super::with_schema().await;
    run(
        &psql,
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100)",
    )
    .await;
    let other = database.connect().await;
    other
        .batch_execute("BEGIN; ALTER TABLE p ADD COLUMN a text DEFAULT 'x'")
        .await
        .unwrap();
    let mut attach = crate::harness::bellwether();
    attach.args(["attach", "p", "--database-url", &database.url]);
    let attach =
        tokio::spawn(async move { within("it is attached", attach.output()).await.unwrap() });
    eventually("it waits", true, async || {
        let query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = 'bellwether' AND wait_event_type = 'Lock')";
        psql.query_one(query, &[]).await.unwrap().get(0)
    })
    .await;
    // Longer than it waits at a time: it lets go, and comes back.
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.batch_execute("COMMIT").await.unwrap();
    let attached = attach.await.unwrap();
    assert!(attached.status.success(), "{attached:?}");
    let found = run(
        &psql,
        "INSERT INTO p VALUES (1); INSERT INTO p_1 VALUES (2)",
    )
    .await;
    same(
        &found,
        &[
            r#"p p.insert 1 {"id":1,"a":"x"}"#,
            r#"p p.insert 2 {"id":2,"a":"x"}"#,
        ],
    );
    // And the other way round: what is attached gets a column.
    let found = run(
        &psql,
        "ALTER TABLE p ADD COLUMN b int DEFAULT 7; INSERT INTO p VALUES (3)",
    )
    .await;
    same(&found, &[r#"p p.insert 3 {"id":3,"a":"x","b":7}"#]);
    same(&problems(&psql).await, &[]);
}

/// A partition that has become a table of its own is no longer captured, and no hindrance.
#[tokio::test]
async fn a_partition_leaves() {
    let (_database, psql) = super::with_schema().await;
    run(&psql, "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100);
        CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200);
        SELECT bellwether.attach('p'); ALTER TABLE p DETACH PARTITION p_1; ALTER TABLE p DETACH PARTITION p_2").await;
    same(&run(&psql, "INSERT INTO p_1 VALUES (1)").await, &[]);
    let found = run(
        &psql,
        "SELECT bellwether.attach('p_2'); INSERT INTO p_2 VALUES (100)",
    )
    .await;
    same(&found, &[r#"p_2 p_2.insert 100 {"id":100}"#]);
    let found = run(
        &psql,
        "SELECT bellwether.detach('p'); INSERT INTO p_1 VALUES (2); INSERT INTO p_2 VALUES (101)",
    )
    .await;
    same(&found, &[r#"p_2 p_2.insert 101 {"id":101}"#]);
    same(&problems(&psql).await, &[]);
    // It comes back, and is its parent's again.
    let found = run(&psql, "ALTER TABLE p ATTACH PARTITION p_2 FOR VALUES FROM (100) TO (200); SELECT bellwether.attach('p');
        INSERT INTO p_2 VALUES (102); INSERT INTO p VALUES (103)").await;
    same(
        &found,
        &[
            r#"p p.insert 102 {"id":102}"#,
            r#"p p.insert 103 {"id":103}"#,
        ],
    );
    same(&problems(&psql).await, &[]);
}
