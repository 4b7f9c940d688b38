use super::{problems, refusal, run, same, with_schema};
use crate::harness::server_major;

#[tokio::test]
async fn types_of_all_kinds() {
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE DOMAIN word AS text CHECK (value <> ''); CREATE TYPE mood AS ENUM ('good', 'so.so');
        CREATE TYPE pair AS (a int, b text);
        CREATE TABLE t (w word, m mood, a int[], p pair, b bytea, i interval, at timestamptz, n numeric, f float8, PRIMARY KEY (w, m));
        SELECT bellwether.attach('t', topic => '{m}.{a}.{p}.{b}.{i}.{at}.{n}', event => '{op}/{f}/{w}')").await;
    let found = run(&psql, r#"INSERT INTO t VALUES
        ('x', 'so.so', '{1,2}', '(1,"x y")', '\x00ff', '1 day 02:00', 'infinity', 'NaN', '-Infinity')"#).await;
    same(
        &found,
        &[concat!(
            r#"so%2Eso.{1,2}.(1,"x%20y").\x00ff.1%20day%2002:00:00.infinity.NaN insert/-Infinity/x ["x", "so.so"] "#,
            r#"{"w":"x","m":"so.so","a":[1,2],"p":{"a":1,"b":"x y"},"b":"\\x00ff","i":"1 day 02:00:00","at":"infinity","n":"NaN","f":"-Infinity"}"#,
        )],
    );
}

/// What is captured does not depend on the settings of whoever writes.
#[tokio::test]
async fn settings_of_writers() {
    let (_database, psql) = with_schema().await;
    run(&psql, "SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601';
        SET bytea_output = 'escape'; SET extra_float_digits = -10; CREATE DOMAIN moment AS timestamptz").await;
    for (kind, value, key, json) in [
        ("interval", "1 day", "1 day", r#""1 day""#),
        ("bytea", r"\xff", r"\xff", r#""\\xff""#),
        ("float8", "0.1", "0.1", "0.1"),
        (
            "moment",
            "2026-01-01 00:00+00",
            "2026-01-01 00:00:00+00",
            r#""2026-01-01T00:00:00+00:00""#,
        ),
        (
            "timestamptz[]",
            "{2026-01-01 00:00+00}",
            r#"{"2026-01-01 00:00:00+00"}"#,
            r#"["2026-01-01T00:00:00+00:00"]"#,
        ),
        (
            "daterange",
            "[2026-01-01,2026-01-02)",
            "[2026-01-01,2026-01-02)",
            r#""[2026-01-01,2026-01-02)""#,
        ),
    ] {
        let found = run(&psql, &format!("CREATE TABLE t (v {kind} PRIMARY KEY); SELECT bellwether.attach('t', event => '{{op}}');
            INSERT INTO t VALUES ('{value}'); DROP TABLE t")).await;
        same(&found, &[&format!(r#"t insert {key} {{"v":{json}}}"#)]);
    }
}

/// A column is added whose text depends on settings: attaching again makes it independent.
#[tokio::test]
async fn settings_of_writers_and_a_new_column() {
    let (_database, psql) = with_schema().await;
    let attach = "SELECT bellwether.attach('t', event => '{op}')";
    run(
        &psql,
        &format!("CREATE TABLE t (id int PRIMARY KEY); {attach}; SET intervalstyle = 'iso_8601'"),
    )
    .await;
    run(&psql, &format!("ALTER TABLE t ADD i interval; {attach}")).await;
    let found = run(&psql, "INSERT INTO t VALUES (1, '1 day')").await;
    same(&found, &[r#"t insert 1 {"id":1,"i":"1 day"}"#]);
    let again: String = psql.query_one(attach, &[]).await.unwrap().get(0);
    assert_eq!(again, "unchanged");
}

/// Postgres does not compute them for triggers, and fails statements that ask for them.
#[tokio::test]
async fn virtual_columns() {
    if server_major().await < 18 {
        return; // there are none
    }
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE TABLE t (id int PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2) VIRTUAL)").await;
    for options in ["topic => 'g.{gross}'", "columns => '{id,gross}'"] {
        let said = refusal(&psql, &format!("SELECT bellwether.attach('t', {options})")).await;
        assert!(
            said.contains("the virtual column gross of public.t cannot be captured"),
            "{said}"
        );
    }
    run(
        &psql,
        "SELECT bellwether.attach('t', event => '{op}', old => true)",
    )
    .await;
    let found = run(&psql, "INSERT INTO t VALUES (1, 5); UPDATE t SET net = 6").await;
    same(
        &found,
        &[
            r#"t insert 1 {"old" : null, "new" : {"id":1,"net":5,"gross":null}}"#,
            r#"t update 1 {"old" : {"id":1,"net":5,"gross":null}, "new" : {"id":1,"net":6,"gross":null}}"#,
        ],
    );
    same(&problems(&psql).await, &[]);
}
