use super::{ids, problems, run, same, with_schema};
use crate::harness::{bellwether, within};
use tokio_postgres::Client;

/// Owners of tables attach them without any other right, and writers need none at all.
#[tokio::test]
async fn rights() {
    let (database, psql) = with_schema().await;
    // Roles are the server's, so each test has its own.
    psql.batch_execute("CREATE ROLE attach_owner; CREATE ROLE attach_writer; CREATE ROLE attach_publisher;
        CREATE TABLE others (id int PRIMARY KEY); GRANT CREATE ON SCHEMA public TO attach_owner;
        SELECT bellwether.allow('attach_owner', 'attach'), bellwether.allow('attach_publisher', 'publish')").await.unwrap();
    psql.batch_execute("SET ROLE attach_owner; CREATE TABLE mine (id int PRIMARY KEY); GRANT INSERT ON mine TO attach_writer").await.unwrap();
    run_as(&psql, "SELECT bellwether.attach('mine')")
        .await
        .unwrap();
    let said = run_as(&psql, "SELECT bellwether.attach('others')")
        .await
        .unwrap_err();
    assert!(
        said.contains("attach_owner may not create triggers on public.others")
            && said.contains("GRANT TRIGGER ON public.others"),
        "{said}"
    );
    for sql in [
        "INSERT INTO bellwether.event (topic, name, data) VALUES ('a', 'b', '1')",
        "UPDATE bellwether.attachment SET topic = 'x'",
        "SELECT bellwether.publish('a', 'b', '1')",
        "SELECT bellwether.advance(1, 0, NULL, NULL)",
        "SELECT * FROM bellwether.event",
    ] {
        assert!(
            run_as(&psql, sql)
                .await
                .unwrap_err()
                .contains("permission denied"),
            "{sql}"
        );
    }
    psql.batch_execute("RESET ROLE; SET ROLE attach_writer")
        .await
        .unwrap();
    run_as(&psql, "INSERT INTO mine VALUES (1)").await.unwrap();
    for sql in [
        "SELECT bellwether.publish('a', 'b', '1')",
        "SELECT bellwether.ring()",
        "SELECT bellwether.capture_1()",
    ] {
        assert!(
            run_as(&psql, sql)
                .await
                .unwrap_err()
                .contains("permission denied"),
            "{sql}"
        );
    }
    psql.batch_execute("RESET ROLE; SET ROLE attach_publisher")
        .await
        .unwrap();
    run_as(&psql, "SELECT bellwether.publish('a', 'b', '1')")
        .await
        .unwrap();
    let said = run_as(&psql, "SELECT bellwether.attach('others')")
        .await
        .unwrap_err();
    assert!(said.contains("permission denied"), "{said}");
    psql.batch_execute("RESET ROLE").await.unwrap();
    assert_eq!(ids(&psql).await.1, 2);
    // Nobody may call anything that he was not let.
    let open = "SELECT coalesce(string_agg(oid::regprocedure::text, ', '), '') FROM pg_proc
        WHERE pronamespace = 'bellwether'::regnamespace AND proname <> 'rights_to'
            AND has_function_privilege('attach_writer', oid, 'EXECUTE')";
    assert_eq!(
        psql.query_one(open, &[]).await.unwrap().get::<_, &str>(0),
        ""
    );
    drop(database);
}

async fn run_as(psql: &Client, sql: &str) -> Result<(), String> {
    psql.batch_execute(sql)
        .await
        .map_err(|error| pg::chain(&error))
}

/// Who lacks rights is told by the program which.
#[tokio::test]
async fn the_program_says_what_to_grant() {
    let (database, psql) = with_schema().await;
    run(&psql, "CREATE ROLE grantee LOGIN PASSWORD 'secret'; CREATE TABLE t (id int PRIMARY KEY); GRANT TRIGGER ON t TO grantee").await;
    let (_, rest) = database.url.split_once('@').unwrap();
    let url = format!("postgres://grantee:secret@{rest}");
    for (args, what) in [
        (&["attach", "t"][..], "attach"),
        (&["attachments"], "attach"),
        (&["publish", "a", "b", "1"], "publish"),
    ] {
        for what in [Some(what), None] {
            let output = bellwether()
                .args(args)
                .args(["--database-url", &url])
                .output();
            let output = within("its end", output).await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let Some(what) = what else {
                assert!(output.status.success(), "{args:?}: {said}");
                break;
            };
            assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
            let (_, grant) = said
                .split_once("have the schema's owner or a superuser run ")
                .expect(&said);
            assert_eq!(
                grant.trim(),
                format!("SELECT bellwether.allow('grantee', '{what}')")
            );
            run(&psql, grant).await;
        }
        run(&psql, "REVOKE ALL ON SCHEMA bellwether FROM grantee").await;
    }
}

/// Its functions run with the rights of the schema's owner. Nobody makes them work on another
/// table than was attached, or changes what somebody else has attached.
#[tokio::test]
async fn an_attachment_is_its_owners() {
    let (_database, psql) = with_schema().await;
    psql.batch_execute("CREATE ROLE its_owner; CREATE ROLE its_trigger; CREATE ROLE its_heir; GRANT its_owner TO its_heir;
        GRANT CREATE ON SCHEMA public TO its_owner, its_trigger;
        SELECT bellwether.allow(role, 'attach') FROM unnest('{its_owner,its_trigger}'::name[]) AS role;
        SET ROLE its_owner;
        CREATE TABLE mine (id int PRIMARY KEY, card text); CREATE TABLE second (id int PRIMARY KEY); CREATE TABLE third (id int PRIMARY KEY);
        GRANT TRIGGER ON mine, third TO its_trigger;
        SELECT bellwether.attach('mine', topic => 'secret', columns => '{id}');
        SET ROLE its_trigger; CREATE TABLE theirs (id int PRIMARY KEY)").await.unwrap();
    for sql in [
        "SELECT bellwether.attach('mine')",
        "SELECT bellwether.record_attachment('mine', 'secret', 'x', '{insert}', NULL, false, false, true, false)",
        "SELECT bellwether.detach('mine')",
    ] {
        let said = run_as(&psql, sql).await.unwrap_err();
        assert!(
            said.contains("its_trigger may not change that") || said.contains("must be owner"),
            "{said}"
        );
    }
    let forged =
        "CREATE TRIGGER forged AFTER INSERT ON {} REFERENCING NEW TABLE AS \"bellwether new\"
        FOR EACH STATEMENT EXECUTE FUNCTION bellwether.capture_1('public', 'mine')";
    let said = run_as(&psql, &forged.replace("{}", "theirs"))
        .await
        .unwrap_err();
    assert!(said.contains("permission denied for function"), "{said}");
    // Who attached it may execute it, but that brings him nothing.
    run_as(&psql, "RESET ROLE; SET ROLE its_owner")
        .await
        .unwrap();
    run_as(&psql, &forged.replace("{}", "second"))
        .await
        .unwrap();
    run_as(&psql, "RESET ROLE").await.unwrap();
    let found = run(
        &psql,
        "INSERT INTO second VALUES (1); INSERT INTO mine VALUES (1, 'x')",
    )
    .await;
    same(&found, &[r#"secret mine.insert 1 {"id":1}"#]);
    // Others who are the owner, too, and a role that has no more than TRIGGER on a table that
    // nobody has attached.
    run_as(
        &psql,
        "SET ROLE its_heir; SELECT bellwether.attach('mine', topic => 'open', columns => '{id}');
        RESET ROLE; SET ROLE its_trigger; SELECT bellwether.attach('third');
        RESET ROLE",
    )
    .await
    .unwrap();
    let found = run(
        &psql,
        "INSERT INTO mine VALUES (2, 'x'); INSERT INTO third VALUES (3)",
    )
    .await;
    same(
        &found,
        &[
            r#"open mine.insert 2 {"id":2}"#,
            r#"third third.insert 3 {"id":3}"#,
        ],
    );
    same(&problems(&psql).await, &[]);
    // What was forged goes with the attachment.
    run(&psql, "SELECT bellwether.detach('mine')").await;
    same(&run(&psql, "INSERT INTO second VALUES (2)").await, &[]);
}

/// A cast is a function of whoever made the type. It must not run as the schema's owner.
#[tokio::test]
async fn nobody_has_his_own_code_run() {
    let (database, psql) = with_schema().await;
    let evil = "CREATE TYPE mood AS ENUM ('good');
        CREATE FUNCTION evil(mood) RETURNS json LANGUAGE sql AS $$ SELECT to_json(current_user) $$;
        CREATE FUNCTION evil_text(mood) RETURNS text LANGUAGE sql AS $$ SELECT current_user $$;
        CREATE CAST (mood AS json) WITH FUNCTION evil(mood); CREATE CAST (mood AS text) WITH FUNCTION evil_text(mood)";
    psql.batch_execute("CREATE ROLE casts; GRANT CREATE ON SCHEMA public TO casts; SELECT bellwether.allow('casts', 'attach');
        CREATE TABLE innocent (id int PRIMARY KEY); SELECT bellwether.attach('innocent'); SET ROLE casts;
        CREATE TABLE t (id int PRIMARY KEY); SELECT bellwether.attach('t'); RESET ROLE").await.unwrap();
    // By now this session plans no more; the next one has a snapshot of before.
    for id in 100..110 {
        let sql = format!("INSERT INTO t VALUES ({id})");
        assert_eq!(run(&psql, &sql).await.len(), 1);
    }
    let earlier = database.connect().await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class";
    earlier.batch_execute(begin).await.unwrap();

    psql.batch_execute("SET ROLE casts").await.unwrap();
    psql.batch_execute(evil).await.unwrap();
    // What the columns are made of counts, too.
    let other = "CREATE TYPE pair AS (a int, m mood); CREATE TABLE other (id int, m mood, p pair, all_of_them mood[], PRIMARY KEY (m));
        SELECT bellwether.attach('other', topic => 'is.{m}', event => '{op} {p}')";
    psql.batch_execute(other).await.unwrap();
    psql.batch_execute("ALTER TABLE t ADD m mood DEFAULT 'good'; RESET ROLE")
        .await
        .unwrap();
    same(
        &run(&psql, "INSERT INTO other VALUES (1, 'good', '(1,good)', '{good}'); INSERT INTO other VALUES (2, 'good', NULL, NULL) ON CONFLICT (m) DO UPDATE SET p = NULL").await,
        &[
            r#"is.good insert (1,good) good {"id":1,"m":"good","p":"(1,good)","all_of_them":"{good}"}"#,
            r#"is.good update  good {"id":1,"m":"good","p":null,"all_of_them":"{good}"}"#,
        ],
    );
    // Added when it is attached: writers are not failed, and nothing is run.
    same(&run(&psql, "INSERT INTO t VALUES (1, 'good')").await, &[]);
    let told = problems(&psql).await.join("; ");
    assert!(told.contains("may capture nothing: attach"), "{told}");
    // Who cannot see that it was altered is to begin again.
    let said = run_as(&earlier, "INSERT INTO t VALUES (2)")
        .await
        .unwrap_err();
    assert!(said.contains("public.t was altered after this"), "{said}");
    earlier.batch_execute("ROLLBACK").await.unwrap();
    // Nor does an alteration that was given up stand in the way.
    psql.batch_execute("BEGIN; ALTER TABLE innocent ADD m mood; ROLLBACK")
        .await
        .unwrap();
    earlier.batch_execute(begin).await.unwrap();
    same(
        &run(&earlier, "INSERT INTO innocent VALUES (1)").await,
        &[r#"innocent innocent.insert 1 {"id":1}"#],
    );
    earlier.batch_execute("COMMIT").await.unwrap();

    same(
        &run(
            &psql,
            "SELECT bellwether.attach('t'); INSERT INTO t VALUES (3, 'good')",
        )
        .await,
        &[r#"t t.insert 3 {"id":3,"m":"good"}"#],
    );
    same(&problems(&psql).await, &[]);
    // A type of the schema's owner is taken as it is.
    let found = run(&psql, "ALTER TYPE mood OWNER TO current_user; SELECT bellwether.attach('t'); INSERT INTO t VALUES (4, 'good')").await;
    same(&found, &[r#"t t.insert 4 {"id":4,"m":"bellwether"}"#]);
}

/// Subscribers are no roles: what a policy hides from roles, it does not hide from them.
#[tokio::test]
async fn policies_bind_writers_only() {
    let (_database, psql) = with_schema().await;
    let found = run(&psql, "CREATE ROLE has_policy; CREATE TABLE t (id int PRIMARY KEY, who text);
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
        CREATE POLICY own ON t USING (who = current_user) WITH CHECK (true); GRANT ALL ON t TO has_policy;
        SELECT bellwether.attach('t', event => '{op}'); SET ROLE has_policy;
        INSERT INTO t VALUES (1, 'has_policy'), (2, 'another'); UPDATE t SET who = 'another'; DELETE FROM t; RESET ROLE").await;
    same(
        &found,
        &[
            r#"t insert 1 {"id":1,"who":"has_policy"}"#,
            r#"t insert 2 {"id":2,"who":"another"}"#,
            r#"t update 1 {"id":1,"who":"another"}"#,
        ],
    );
}
