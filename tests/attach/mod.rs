use crate::harness::{Hub, HubOptions, TestDatabase};
use tokio_postgres::Client;

mod copies;
mod rights;
mod types;

/// A database with the schema, and no hub: what a trigger does, it does in Postgres.
async fn with_schema() -> (TestDatabase, Client) {
    let database = TestDatabase::create().await;
    let hub = Hub::spawn(&database.url, HubOptions::default()).await;
    hub.expect("it makes the schema").kill().await;
    let psql = database.connect().await;
    (database, psql)
}

/// Runs statements, and takes what was captured since the last time: a line for each event,
/// its topic, name, key and data.
async fn run(psql: &Client, sql: &str) -> Vec<String> {
    let (before, _) = ids(psql).await;
    psql.batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {}", pg::chain(&error)));
    let captured = "
        SELECT concat_ws(' ', topic, name, coalesce(key, '-'), data) FROM bellwether.event
        WHERE id > $1 ORDER BY id";
    let rows = psql.query(captured, &[&before]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn ids(psql: &Client) -> (i64, i64) {
    let query = "SELECT coalesce(max(id), 0), count(*) FROM bellwether.event";
    let row = psql.query_one(query, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[track_caller]
fn same(found: &[String], expected: &[&str]) {
    assert_eq!(found, expected);
}

/// What `attach` says when it refuses.
async fn refusal(psql: &Client, sql: &str) -> String {
    pg::chain(&psql.batch_execute(sql).await.unwrap_err())
}

async fn problems(psql: &Client) -> Vec<String> {
    let query = "SELECT coalesce(array_agg(problem), '{}') FROM bellwether.attachments, unnest(problems) AS problem";
    psql.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn every_operation() {
    let (_database, psql) = with_schema().await;
    run(
        &psql,
        "CREATE TABLE orders (id int PRIMARY KEY, org int, total numeric, card text)",
    )
    .await;
    run(
        &psql,
        "SELECT bellwether.attach('orders', topic => 'org.{org}.{table}', columns => '{id,total}')",
    )
    .await;
    let found = run(
        &psql,
        "INSERT INTO orders VALUES (1, 7, 1.50, 'secret'), (2, 8, 2, 'secret')",
    )
    .await;
    same(
        &found,
        &[
            r#"org.7.orders orders.insert 1 {"id":1,"total":1.50}"#,
            r#"org.8.orders orders.insert 2 {"id":2,"total":2}"#,
        ],
    );
    let found = run(&psql, "UPDATE orders SET total = total + 1 WHERE id = 1").await;
    same(
        &found,
        &[r#"org.7.orders orders.update 1 {"id":1,"total":2.50}"#],
    );
    let found = run(&psql, "DELETE FROM orders WHERE id = 2").await;
    same(
        &found,
        &[r#"org.8.orders orders.delete 2 {"id":2,"total":2}"#],
    );
    same(
        &run(&psql, "TRUNCATE orders").await,
        &["org.%null.orders orders.truncate - null"],
    );
    same(&run(&psql, "UPDATE orders SET total = 0; DELETE FROM orders; INSERT INTO orders SELECT 1 WHERE false").await, &[]);
}

/// Who keeps rows by their keys, or sees only some topics, must be told that a row has left.
#[tokio::test]
async fn a_row_that_moves_leaves_where_it_was() {
    let (_database, psql) = with_schema().await;
    run(
        &psql,
        "CREATE TABLE seats (id int PRIMARY KEY DEFERRABLE, room int)",
    )
    .await;
    run(
        &psql,
        "SELECT bellwether.attach('seats', topic => 'room.{room}', event => '{op}')",
    )
    .await;
    run(&psql, "INSERT INTO seats VALUES (1, 1), (2, 1), (3, 2)").await;
    same(
        &run(&psql, "UPDATE seats SET room = 2 WHERE id = 1").await,
        &[
            r#"room.1 delete 1 {"id":1,"room":1}"#,
            r#"room.2 insert 1 {"id":1,"room":2}"#,
        ],
    );
    // Two change places: first both leave.
    same(
        &run(&psql, "UPDATE seats SET id = 5 - id WHERE id IN (2, 3)").await,
        &[
            r#"room.1 delete 2 {"id":2,"room":1}"#,
            r#"room.2 delete 3 {"id":3,"room":2}"#,
            r#"room.1 insert 3 {"id":3,"room":1}"#,
            r#"room.2 insert 2 {"id":2,"room":2}"#,
        ],
    );
    // Without deletes, it is an update where it arrives.
    run(&psql, "SELECT bellwether.attach('seats', topic => 'room.{room}', event => '{op}', ops => '{update}')").await;
    same(
        &run(&psql, "UPDATE seats SET room = 9 WHERE id = 1").await,
        &[r#"room.9 update 1 {"id":1,"room":9}"#],
    );
}

#[tokio::test]
async fn the_old_row_on_request() {
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    run(
        &psql,
        "SELECT bellwether.attach('t', event => '{op}', old => true)",
    )
    .await;
    let found = run(
        &psql,
        "INSERT INTO t VALUES (1, 'x'); UPDATE t SET a = 'y'; UPDATE t SET id = 2; DELETE FROM t",
    )
    .await;
    same(
        &found,
        &[
            r#"t insert 1 {"old" : null, "new" : {"id":1,"a":"x"}}"#,
            r#"t update 1 {"old" : {"id":1,"a":"x"}, "new" : {"id":1,"a":"y"}}"#,
            r#"t delete 1 {"old" : {"id":1,"a":"y"}, "new" : null}"#,
            r#"t insert 2 {"old" : null, "new" : {"id":2,"a":"y"}}"#,
            r#"t delete 2 {"old" : {"id":2,"a":"y"}, "new" : null}"#,
        ],
    );
}

/// Old and new rows are told apart by their place in the statement: also of a million, and
/// when the plan was made for one.
#[tokio::test]
async fn many_rows_are_paired_rightly() {
    let (_database, psql) = with_schema().await;
    run(
        &psql,
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX ON t (a)",
    )
    .await;
    run(
        &psql,
        "SELECT bellwether.attach('t', event => '{op}', old => true)",
    )
    .await;
    run(
        &psql,
        "INSERT INTO t SELECT i, (i * 7919) % 100003 FROM generate_series(1, 50000) AS i",
    )
    .await;
    for _ in 0..10 {
        run(&psql, "UPDATE t SET a = a WHERE id = 1").await;
    }
    let (before, _) = ids(&psql).await;
    psql.batch_execute("SET enable_seqscan = off; UPDATE t SET a = -a WHERE a >= 0")
        .await
        .unwrap();
    let query = "
        SELECT count(*), count(*) FILTER (WHERE data -> 'old' ->> 'id' = data -> 'new' ->> 'id'
            AND (data -> 'old' ->> 'a')::int = -(data -> 'new' ->> 'a')::int AND key = data -> 'new' ->> 'id')
        FROM bellwether.event WHERE id > $1";
    let row = psql.query_one(query, &[&before]).await.unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (50_000, 50_000)
    );
}

#[tokio::test]
async fn upsert_merge_and_copy() {
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    run(&psql, "SELECT bellwether.attach('t', event => '{op}')").await;
    same(
        &run(
            &psql,
            "INSERT INTO t VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET a = excluded.a",
        )
        .await,
        &[r#"t insert 1 {"id":1,"a":"a"}"#],
    );
    same(
        &run(
            &psql,
            "INSERT INTO t VALUES (1, 'b'), (2, 'c') ON CONFLICT (id) DO UPDATE SET a = excluded.a",
        )
        .await,
        &[
            r#"t update 1 {"id":1,"a":"b"}"#,
            r#"t insert 2 {"id":2,"a":"c"}"#,
        ],
    );
    same(
        &run(
            &psql,
            "INSERT INTO t VALUES (1, 'z') ON CONFLICT DO NOTHING",
        )
        .await,
        &[],
    );
    let merge =
        "MERGE INTO t USING (VALUES (1, 'm'), (2, NULL), (3, 'n')) AS s (id, a) ON t.id = s.id
        WHEN MATCHED AND s.a IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET a = s.a
        WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.a)";
    let mut found = run(&psql, merge).await;
    found.sort();
    same(
        &found,
        &[
            r#"t delete 2 {"id":2,"a":"c"}"#,
            r#"t insert 3 {"id":3,"a":"n"}"#,
            r#"t update 1 {"id":1,"a":"m"}"#,
        ],
    );
    let (before, _) = ids(&psql).await;
    let sink = psql.copy_in("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let rows: Vec<String> = (10..1010).map(|i| format!("{i}\tcopied\n")).collect();
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from(rows.concat()))
        .await
        .unwrap();
    sink.finish().await.unwrap();
    let query = "SELECT count(*), count(DISTINCT key) FROM bellwether.event WHERE id > $1 AND name = 'insert'";
    let row = psql.query_one(query, &[&before]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1000, 1000));
    // A CTE that writes, and a function that does.
    same(&run(&psql, "WITH gone AS (DELETE FROM t WHERE id = 3 RETURNING *) INSERT INTO t SELECT 4, a FROM gone").await, &[
        r#"t delete 3 {"id":3,"a":"n"}"#,
        r#"t insert 4 {"id":4,"a":"n"}"#,
    ]);
}

#[tokio::test]
async fn keys() {
    let (_database, psql) = with_schema().await;
    run(
        &psql,
        "CREATE TABLE none (a int); SELECT bellwether.attach('none')",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO none VALUES (1)").await,
        &[r#"none none.insert - {"a":1}"#],
    );
    run(
        &psql,
        "CREATE TABLE two (b text, a int, PRIMARY KEY (a, b)); SELECT bellwether.attach('two')",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO two VALUES ('x\"y', 1)").await,
        &[r#"two two.insert [1, "x\"y"] {"b":"x\"y","a":1}"#],
    );
    // A key of times is the same for writers in all time zones.
    run(&psql, "CREATE TABLE t (at timestamptz PRIMARY KEY); SELECT bellwether.attach('t', columns => '{at}')").await;
    let found = run(&psql, "SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; INSERT INTO t VALUES ('2026-01-01 00:00+00')").await;
    same(
        &found,
        &[r#"t t.insert 2026-01-01 00:00:00+00 {"at":"2026-01-01T00:00:00+00:00"}"#],
    );
}

#[tokio::test]
async fn partitions_and_heirs() {
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE TABLE p (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE p_eu (region text, id int, PRIMARY KEY (id, region)); ALTER TABLE p ATTACH PARTITION p_eu FOR VALUES IN ('eu');
        CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us') PARTITION BY RANGE (id);
        CREATE TABLE p_us_1 PARTITION OF p_us FOR VALUES FROM (0) TO (100)").await;
    run(
        &psql,
        "SELECT bellwether.attach('p', event => '{op}', topic => '{table}.{region}')",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO p VALUES (1, 'eu'), (2, 'us')").await,
        &[
            r#"p.eu insert [1, "eu"] {"id":1,"region":"eu"}"#,
            r#"p.us insert [2, "us"] {"id":2,"region":"us"}"#,
        ],
    );
    // Straight into a partition, whose columns are in another order.
    same(&run(&psql, "INSERT INTO p_eu VALUES ('eu', 3); INSERT INTO p_us VALUES (4, 'us'); INSERT INTO p_us_1 VALUES (5, 'us')").await, &[
        r#"p.eu insert [3, "eu"] {"region":"eu","id":3}"#,
        r#"p.us insert [4, "us"] {"id":4,"region":"us"}"#,
        r#"p.us insert [5, "us"] {"id":5,"region":"us"}"#,
    ]);
    // From one to another: a move, as the topic and the key have the region.
    same(
        &run(&psql, "UPDATE p SET region = 'us' WHERE id = 1").await,
        &[
            r#"p.eu delete [1, "eu"] {"id":1,"region":"eu"}"#,
            r#"p.us insert [1, "us"] {"id":1,"region":"us"}"#,
        ],
    );
    same(
        &run(&psql, "TRUNCATE p").await,
        &["p.%null truncate - null"],
    );
    same(&problems(&psql).await, &[]);
    // One that is made later is told about, and comes along when the table is attached again.
    run(
        &psql,
        "CREATE TABLE p_us_2 PARTITION OF p_us FOR VALUES FROM (100) TO (200)",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO p VALUES (150, 'us')").await,
        &[r#"p.us insert [150, "us"] {"id":150,"region":"us"}"#],
    );
    assert!(
        problems(&psql).await[0].contains("straight into public.p_us_2"),
        "{:?}",
        problems(&psql).await
    );
    run(
        &psql,
        "SELECT bellwether.attach('p', event => '{op}', topic => '{table}.{region}')",
    )
    .await;
    same(&problems(&psql).await, &[]);
    same(
        &run(&psql, "INSERT INTO p_us_2 VALUES (151, 'us')").await,
        &[r#"p.us insert [151, "us"] {"id":151,"region":"us"}"#],
    );
    assert!(
        refusal(&psql, "SELECT bellwether.attach('p_eu')")
            .await
            .contains("comes along with public.p")
    );

    run(&psql, "CREATE TABLE parent (id int PRIMARY KEY, a int); CREATE TABLE heir (more text) INHERITS (parent)").await;
    run(
        &psql,
        "SELECT bellwether.attach('parent', event => '{op}', columns => '{id,a}')",
    )
    .await;
    same(&run(&psql, "INSERT INTO heir VALUES (1, 2, 'x'); UPDATE parent SET a = 3; DELETE FROM ONLY parent; DELETE FROM heir").await, &[
        r#"parent insert 1 {"id":1,"a":2}"#,
        r#"parent update 1 {"id":1,"a":3}"#,
        r#"parent delete 1 {"id":1,"a":3}"#,
    ]);
}

#[tokio::test]
async fn odd_names_and_hostile_surroundings() {
    let (_database, psql) = with_schema().await;
    run(&psql, r#"CREATE SCHEMA "my App""#).await;
    run(&psql, r#"CREATE TABLE "my App"."Order's ""Table" (
        "Id" int PRIMARY KEY, "co""l'umn %s" text, "select" int, new text, old text, whole text, missing text,
        present text, n int, chosen int, captured int, event int, tg_op text, topic text, "bellwether table" text, "bellwether new" text)"#).await;
    run(&psql, r#"SELECT bellwether.attach('"my App"."Order''s ""Table"', topic => '{schema}.{co"l''umn %s}',
        event => '{table}/{op}/{select}/{tg_op}/{n}', columns => '{Id,select,new,old,tg_op,topic,whole,n,captured}')"#).await;
    // Names that a writer can make, and that would be found first on a search_path of his.
    run(&psql, "CREATE SCHEMA evil;
        CREATE FUNCTION evil.row_to_json(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT '\"evil\"'::json $$;
        CREATE FUNCTION evil.pg_column_size(json) RETURNS int LANGUAGE sql AS 'SELECT 1000000000';
        CREATE TABLE evil.event (id int); CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = int8ne);
        SET search_path = evil, pg_catalog, \"my App\"").await;
    same(&run(&psql, r#"INSERT INTO "Order's ""Table" VALUES (1, 'a.b>%', 2, 'n', 'o', 'w', 'm', 'p', 3, 4, 5, 6, 'op', 't', 'bt', 'bn')"#).await, &[
        r#"my%20App.a%2Eb%3E%25 Order's "Table/insert/2/op/3 1 {"Id":1,"select":2,"new":"n","old":"o","tg_op":"op","topic":"t","whole":"w","n":3,"captured":5}"#,
    ]);
    let found = run(&psql, r#"UPDATE "Order's ""Table" SET "select" = 7"#).await;
    assert!(
        found[0].contains(r#"Order's "Table/update/7/"#),
        "{found:?}"
    );
    run(&psql, "RESET search_path").await;
    same(&problems(&psql).await, &[]);
}

#[tokio::test]
async fn topics_are_made_of_any_value() {
    let (_database, psql) = with_schema().await;
    let long = "long.".repeat(100);
    for (value, token) in [
        (Some("plain-7_A"), "plain-7_A"),
        (Some("größe"), "größe"),
        (Some("a.b"), "a%2Eb"),
        (Some("*"), "%2A"),
        (Some(">"), "%3E"),
        (Some("100%"), "100%25"),
        (Some("a b\t\u{a0}\u{2028}"), "a%20b%09%C2%A0%E2%80%A8"),
        (Some(""), "%empty"),
        (None, "%null"),
        (Some("%null"), "%25null"),
    ] {
        let found = psql
            .query_one("SELECT bellwether.token($1)", &[&value])
            .await
            .unwrap();
        assert_eq!(found.get::<_, &str>(0), token);
        hub::Topic::new(&format!("a.{token}.b")).expect("it is one token");
    }
    let token = async |text: &str| -> String {
        psql.query_one("SELECT bellwether.token($1)", &[&text])
            .await
            .unwrap()
            .get(0)
    };
    let (one, other) = (token(&long).await, token(&format!("{long}x")).await);
    assert!(one.len() <= 100 && one != other, "{one} {other}");
}

/// A change to the table never fails its writers, and is told.
#[tokio::test]
async fn what_is_renamed_or_dropped_is_null_and_told() {
    let (_database, psql) = with_schema().await;
    run(
        &psql,
        "CREATE TABLE t (id int PRIMARY KEY, org int, a text)",
    )
    .await;
    run(&psql, "SELECT bellwether.attach('t', topic => 'org.{org}', event => '{table}.{op}', columns => '{id,a}')").await;
    run(&psql, "INSERT INTO t VALUES (1, 7, 'x')").await;
    run(
        &psql,
        "ALTER TABLE t RENAME org TO organisation; ALTER TABLE t DROP COLUMN a",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO t VALUES (2, 7)").await,
        &[r#"org.%null t.insert 2 {"id":2,"a":null}"#],
    );
    let told = problems(&psql).await.join("; ");
    assert!(
        told.contains("column org is gone or renamed") && told.contains("column a is gone"),
        "{told}"
    );
    // A renamed table is followed.
    run(
        &psql,
        "ALTER TABLE t RENAME TO u; ALTER TABLE u ADD COLUMN secret text DEFAULT 's'",
    )
    .await;
    run(
        &psql,
        "SELECT bellwether.attach('u', topic => 'org.{organisation}', columns => '{id}')",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO u VALUES (3, 7)").await,
        &[r#"org.7 u.insert 3 {"id":3}"#],
    );
    run(&psql, "ALTER TABLE u RENAME TO v").await;
    same(
        &run(&psql, "INSERT INTO v VALUES (4, 7)").await,
        &[r#"org.7 v.insert 4 {"id":4}"#],
    );
    same(&problems(&psql).await, &[]);
    run(
        &psql,
        "ALTER TABLE v DISABLE TRIGGER bellwether_insert; DROP TRIGGER bellwether_delete ON v",
    )
    .await;
    let told = problems(&psql).await.join("; ");
    assert!(
        told.contains("bellwether_insert on public.v is disabled")
            && told.contains("bellwether_delete is gone"),
        "{told}"
    );
    run(
        &psql,
        "SELECT bellwether.attach('v', topic => 'org.{organisation}', columns => '{id}')",
    )
    .await;
    same(&problems(&psql).await, &[]);
    // The primary key changes.
    run(
        &psql,
        "ALTER TABLE v DROP CONSTRAINT t_pkey; ALTER TABLE v ADD PRIMARY KEY (organisation, id)",
    )
    .await;
    run(&psql, "INSERT INTO v VALUES (5, 7)").await;
    assert_eq!(problems(&psql).await.len(), 1);
    run(&psql, "DROP TABLE v").await;
    assert!(problems(&psql).await[0].contains("the table is gone"));
    run(
        &psql,
        "CREATE TABLE w (id int); SELECT bellwether.attach('w')",
    )
    .await;
    let query = "SELECT count(*) FROM pg_proc WHERE proname ~ '^capture_[0-9]'";
    assert_eq!(
        psql.query_one(query, &[]).await.unwrap().get::<_, i64>(0),
        1
    );
}

#[tokio::test]
async fn generated_columns_and_large_rows() {
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE TABLE t (id int PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2) STORED, blob text)").await;
    run(
        &psql,
        "SELECT bellwether.attach('t', topic => 'g.{gross}', columns => '{id,gross,blob}')",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO t (id, net) VALUES (1, 5)").await,
        &[r#"g.10 t.insert 1 {"id":1,"gross":10,"blob":null}"#],
    );
    same(
        &run(
            &psql,
            "INSERT INTO t (id, net, blob) VALUES (2, 6, repeat('x', 300000))",
        )
        .await,
        &[r#"g.12 t.insert 2 {"id" : 2, "truncated" : true}"#],
    );
}

#[tokio::test]
async fn rows_that_replication_applies() {
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE TABLE t (id int PRIMARY KEY, a text); SELECT bellwether.attach('t', event => '{op}')").await;
    let as_replica = "SET session_replication_role = replica; INSERT INTO t VALUES (1, 'x'), (2, 'y');
        UPDATE t SET a = 'z' WHERE id = 1; UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t; RESET session_replication_role";
    same(&run(&psql, as_replica).await, &[]);
    run(
        &psql,
        "SELECT bellwether.attach('t', event => '{op}', replica => true)",
    )
    .await;
    same(
        &run(&psql, as_replica).await,
        &[
            r#"t insert 1 {"id":1,"a":"x"}"#,
            r#"t insert 2 {"id":2,"a":"y"}"#,
            r#"t update 1 {"id":1,"a":"z"}"#,
            r#"t delete 2 {"id":2,"a":"y"}"#,
            r#"t insert 3 {"id":3,"a":"y"}"#,
            r#"t delete 1 {"id":1,"a":"z"}"#,
            r#"t delete 3 {"id":3,"a":"y"}"#,
        ],
    );
    // Others' statements are captured once, as before.
    same(
        &run(&psql, "INSERT INTO t VALUES (5, 'once')").await,
        &[r#"t insert 5 {"id":5,"a":"once"}"#],
    );
    same(&problems(&psql).await, &[]);
}

#[tokio::test]
async fn two_phase_commit() {
    let (_database, psql) = with_schema().await;
    run(
        &psql,
        "CREATE TABLE t (id int PRIMARY KEY); SELECT bellwether.attach('t', doorbell => false)",
    )
    .await;
    run(
        &psql,
        "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'attach_two_phase'",
    )
    .await;
    same(
        &run(&psql, "COMMIT PREPARED 'attach_two_phase'").await,
        &[r#"t t.insert 1 {"id":1}"#],
    );
}

#[tokio::test]
async fn it_is_idempotent_and_transactional() {
    let (database, psql) = with_schema().await;
    let attach = async |sql: &str| -> String { psql.query_one(sql, &[]).await.unwrap().get(0) };
    run(&psql, "CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    assert_eq!(attach("SELECT bellwether.attach('t')").await, "attached");
    assert_eq!(attach("SELECT bellwether.attach('t')").await, "unchanged");
    assert_eq!(
        attach("SELECT bellwether.attach('t', ops => '{INSERT, delete }')").await,
        "changed"
    );
    same(
        &run(
            &psql,
            "INSERT INTO t VALUES (1); UPDATE t SET a = 'x'; DELETE FROM t",
        )
        .await,
        &[
            r#"t t.insert 1 {"id":1,"a":null}"#,
            r#"t t.delete 1 {"id":1,"a":"x"}"#,
        ],
    );
    run(&psql, "BEGIN; SELECT bellwether.detach('t'); ROLLBACK").await;
    same(
        &run(&psql, "INSERT INTO t VALUES (2)").await,
        &[r#"t t.insert 2 {"id":2,"a":null}"#],
    );
    run(
        &psql,
        "BEGIN; SELECT bellwether.attach('t', columns => '{id}'); ROLLBACK",
    )
    .await;
    same(
        &run(&psql, "INSERT INTO t VALUES (3)").await,
        &[r#"t t.insert 3 {"id":3,"a":null}"#],
    );
    run(&psql, "SELECT bellwether.detach('t')").await;
    same(&run(&psql, "INSERT INTO t VALUES (4)").await, &[]);
    let left = "SELECT (SELECT count(*) FROM bellwether.attachment) + (SELECT count(*) FROM pg_proc WHERE proname ~ '^capture_[0-9]')";
    assert_eq!(psql.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    let gone: bool = psql
        .query_one("SELECT bellwether.detach('t')", &[])
        .await
        .unwrap()
        .get(0);
    assert!(!gone);
    // To attach again what is as it should be needs no lock that others could be holding.
    attach("SELECT bellwether.attach('t')").await;
    let other = database.connect().await;
    other
        .batch_execute("BEGIN; INSERT INTO t VALUES (5)")
        .await
        .unwrap();
    run(&psql, "SET lock_timeout = '1ms'").await;
    assert_eq!(attach("SELECT bellwether.attach('t')").await, "unchanged");
}

#[tokio::test]
async fn refusals() {
    let (_database, psql) = with_schema().await;
    run(&psql, "CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT * FROM t; CREATE TEMP TABLE tmp (id int)").await;
    for (sql, part) in [
        ("attach('nothing')", "relation \"nothing\" does not exist"),
        ("attach(NULL)", "there is no table to attach"),
        ("attach('v')", "attach the tables that it reads"),
        ("attach('tmp')", "temporary"),
        ("attach('pg_class')", "belongs to the system"),
        ("attach('bellwether.event')", "belongs to the system"),
        (
            "attach('t', ops => '{insert,upsert}')",
            "no such operation: upsert",
        ),
        ("attach('t', ops => '{}')", "none is named"),
        ("attach('t', columns => '{}')", "no column is named"),
        (
            "attach('t', columns => '{id,nix}')",
            "public.t has no column nix",
        ),
        (
            "attach('t', topic => 'a.{nix}')",
            "public.t has no column nix",
        ),
        ("attach('t', topic => 'a..b')", "'a..b' is no topic"),
        ("attach('t', topic => 'a.*')", "is no topic"),
        ("attach('t', topic => 'a.{id')", "a brace without its pair"),
        ("attach('t', event => 'gap')", "is no name for an event"),
        ("attach('t', event => '')", "is no name for an event"),
    ] {
        let said = refusal(&psql, &format!("SELECT bellwether.{sql}")).await;
        assert!(said.contains(part), "{sql}: {said}");
    }
    assert_eq!(ids(&psql).await.1, 0);
}
