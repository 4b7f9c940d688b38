//! What attaching a busy table does to those who write to it.

use anyhow::Result;
use std::time::Duration;
use tokio::time::{self, Instant};

use crate::{
    report::Report,
    stage::Stage,
    tables::{self, Written},
    writer,
};

/// How long writers write around each command.
const WINDOW: Duration = Duration::from_secs(6);

/// How long they have written when it begins.
const LEAD: Duration = Duration::from_secs(1);

/// How long a long transaction goes on then.
const LONG: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Writers
    #[arg(long, default_value_t = 8)]
    writers: u32,
    /// Rows a second, of all of them
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// How much longer than this machine's a flush takes
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    flush: Duration,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let stage = Stage::build_slow(options.flush).await?;
    let mut report = Report::default();
    let hub = stage.start_hub("127.0.0.1:0", &[]).await?;
    tables::create(&stage.url()).await?;

    report.section("what is locked");
    for (call, table) in [
        ("attach", "plain"),
        ("attach", "attached"),
        ("detach", "attached"),
    ] {
        let changes = if (call, table) == ("attach", "attached") {
            ", topic => 'load'" // as it is
        } else {
            ""
        };
        let statement = format!("bellwether.{call}('{table}'{changes})");
        let locks = locks(&stage.url(), table, &statement).await?;
        report.add(&format!("{call}_{table}"), locks);
    }

    let traffic = || {
        let (writers, rate) = (options.writers, Some(options.rate));
        let url = stage.url();
        async move { tables::write(&url, "plain", writers, rate, WINDOW).await }
    };
    let attach = ["attach", "plain"];
    let detach = ["detach", "plain"];
    traffic().await?;
    report.section("no command");
    add(&mut report, &traffic().await?);
    for (what, long, command) in [
        ("attach", None, &attach),
        ("attach again: nothing changes", None, &attach),
        ("detach", None, &detach),
        (
            "attach beside a transaction that has read",
            Some(READ),
            &attach,
        ),
        (
            "attach again beside one that has written",
            Some(WRITE),
            &attach,
        ),
        ("detach beside one that has read", Some(READ), &detach),
        ("attach beside one that has written", Some(WRITE), &attach),
        ("detach beside one that has written", Some(WRITE), &detach),
    ] {
        let act = async {
            time::sleep(LEAD).await;
            let start = Instant::now();
            stage.command(command).await?;
            anyhow::Ok(start.elapsed())
        };
        let hold = async {
            if let Some(long) = long {
                let client = writer::connect(&stage.url()).await?;
                client.batch_execute(&format!("BEGIN; {long}")).await?;
                time::sleep(LEAD + LONG).await;
                client.batch_execute("COMMIT").await?;
            }
            anyhow::Ok(())
        };
        let (written, took, ()) = tokio::try_join!(traffic(), act, hold)?;
        report.section(what);
        report.add_ms("command", took);
        add(&mut report, &written);
    }
    hub.kill().await?;
    stage.tear_down().await?;
    Ok(report)
}

/// What a long transaction has done.
const READ: &str = "SELECT count(*) FROM plain";
const WRITE: &str = "INSERT INTO plain (t, note) VALUES (0, '')";

fn add(report: &mut Report, written: &Written) {
    report.add("rows", written.rows);
    report.add_quantiles("insert", &written.latencies);
}

/// The locks on a table that a call takes and keeps until its transaction ends. It is rolled back.
async fn locks(url: &str, table: &str, call: &str) -> Result<String> {
    let client = writer::connect(url).await?;
    client
        .batch_execute(&format!("BEGIN; SELECT {call}"))
        .await?;
    let query = "
        SELECT coalesce(string_agg(mode, ', ' ORDER BY mode), 'nothing') FROM pg_locks
        WHERE pid = pg_backend_pid() AND relation = $1::text::regclass";
    let locks = client.query_one(query, &[&table]).await?.get(0);
    client.batch_execute("ROLLBACK").await?;
    Ok(locks)
}
