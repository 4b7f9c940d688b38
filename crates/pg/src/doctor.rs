//! Looks at everything a hub needs of a database, and says what to do about the rest.

use serde::Serialize;
use std::{
    future::poll_fn,
    time::{Duration, SystemTime},
};
use tokio::time;
use tokio_postgres::{AsyncMessage, Client, Row, error::SqlState};

use crate::{Attachments, Database, Error, Purpose, error::chain, rights, schema};

/// How long a notification may take to come round.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// Clocks that differ by more than this make `at` and the age of events misleading.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// Events that wait longer than this for their numbers wait for a hub that is not there.
const UNNUMBERED: Duration = Duration::from_secs(5);

/// What was looked at, and what was found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Good,
    /// It works, but somebody should know.
    Warning,
    /// A hub cannot do its work.
    Bad,
}

/// Looks at all of it, and changes nothing. What cannot be looked at is a finding, too.
/// Transactions that have been open for longer than `long` are named.
pub async fn examine(database: &Database, long: Duration) -> Vec<Finding> {
    let client = match database.connect().await {
        Ok(client) => client,
        Err(error) => return vec![bad("connection", chain(&error), how_to_connect(&error))],
    };
    let mut findings = Findings(vec![good("connection", database.to_string())]);
    // Through a pooler that shares sessions, what else is found means nothing.
    if findings.add("notify", notify(database).await) == State::Bad {
        return findings.0;
    }
    findings.add("server", server(&client).await);
    findings.add("settings", settings(&client).await);
    findings.add("clock", clock(&client).await);
    findings.add("notification queue", queue(&client).await);
    findings.add("transactions", transactions(&client, long).await);
    // Each of these needs the one before.
    if findings.add("rights", rights(&client).await) != State::Bad
        && findings.add("schema", schema(&client).await) != State::Bad
    {
        findings.add("stream", stream(&client).await);
        findings.add("attachments", attachments(database).await);
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    /// Returns how bad it is.
    fn add(&mut self, check: &'static str, result: Result<Vec<Finding>, Error>) -> State {
        let found = result.unwrap_or_else(|error| {
            let advice = "see the server's log; if it goes on, tell us what both say";
            vec![bad(check, chain(&error), advice)]
        });
        let worst = found.iter().map(|finding| finding.state).max();
        self.0.extend(found);
        worst.unwrap_or(State::Good)
    }
}

fn how_to_connect(error: &Error) -> &'static str {
    let code = match error {
        Error::InRecovery(_) => {
            return "connect to the primary; a hub that waits here serves once it is promoted";
        }
        Error::Connect { source, .. } => source.code(),
        _ => None,
    };
    match code {
        Some(&SqlState::INVALID_PASSWORD) => {
            "check the role and its password; `\\password` in psql sets another"
        }
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            "check that the role exists and may log in, and that pg_hba.conf lets it in from this host"
        }
        Some(&SqlState::INVALID_CATALOG_NAME) => "check the database's name, or create it",
        Some(&SqlState::TOO_MANY_CONNECTIONS) => {
            "raise max_connections, or close some: a hub needs about ten"
        }
        _ => {
            "check host and port, that the server runs and listens there (listen_addresses), and firewalls between"
        }
    }
}

async fn server(client: &Client) -> Result<Vec<Finding>, Error> {
    let row = ask(
        client,
        "look at the server",
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int",
    )
    .await?;
    let version = format!("PostgreSQL {}", row.get::<_, String>(0));
    Ok(vec![if row.get::<_, i32>(1) < 150_000 {
        bad("server", version, "upgrade to PostgreSQL 15 or newer")
    } else {
        good("server", version)
    }])
}

async fn settings(client: &Client) -> Result<Vec<Finding>, Error> {
    let query = "
        SELECT name, setting FROM pg_settings
        WHERE (name, setting) IN (('fsync', 'off'), ('full_page_writes', 'off'), ('synchronous_commit', 'off'))
            OR name = 'idle_session_timeout' AND setting <> '0'
        ORDER BY name";
    let rows = client.query(query, &[]).await;
    let rows = rows.map_err(|error| Error::Query("look at the settings", error))?;
    let finding = |row: &Row| {
        let (name, setting): (String, String) = (row.get(0), row.get(1));
        let advice = match name.as_str() {
            "idle_session_timeout" => {
                "a hub sets it to 0 for its own sessions; your writers may be cut off while idle"
            }
            "synchronous_commit" => {
                "events are shown only once they are durable, but writers may be told of a commit that a crash undoes"
            }
            _ => {
                "a crash of the machine can damage the database: turn it on unless all of it may be lost"
            }
        };
        warning("settings", format!("{name} = {setting}"), advice)
    };
    Ok(match rows.as_slice() {
        [] => vec![good("settings", "nothing that would surprise")],
        rows => rows.iter().map(finding).collect(),
    })
}

async fn clock(client: &Client) -> Result<Vec<Finding>, Error> {
    let before = SystemTime::now();
    let row = ask(client, "read the clock", "SELECT clock_timestamp()").await?;
    let after = SystemTime::now();
    Ok(vec![compare_clocks(before, row.get(0), after)])
}

/// The server's clock was read between two looks at ours.
fn compare_clocks(before: SystemTime, there: SystemTime, after: SystemTime) -> Finding {
    const CHECK: &str = "clock";
    let ahead = there.duration_since(after).unwrap_or_default();
    let behind = before.duration_since(there).unwrap_or_default();
    let found = match (ahead, behind) {
        (Duration::ZERO, Duration::ZERO) => return good(CHECK, "the server's agrees with ours"),
        (Duration::ZERO, behind) => format!("the server's is {behind:.1?} behind ours"),
        (ahead, _) => format!("the server's is {ahead:.1?} ahead of ours"),
    };
    if ahead.max(behind) <= CLOCK_DIFFERENCE {
        return good(CHECK, found);
    }
    let advice = "set both by NTP: the times of events, and with them when they are deleted, are the server's";
    warning(CHECK, found, advice)
}

/// Whether what a session listens to comes through: a pooler in transaction mode gives each
/// statement to whichever server connection is free.
async fn notify(database: &Database) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "notify";
    const ADVICE: &str = "connect to Postgres directly, or through a pooler in session mode: LISTEN needs a session of its own";
    let (client, mut connection) = database.connect_raw().await?;
    let (heard_sender, mut heard) = tokio::sync::mpsc::channel(1);
    let drive = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(note) = message
                && heard_sender.send(note.payload().to_owned()).await.is_err()
            {
                return; // whoever waited has given up
            }
        }
    });
    let failed = |error| Error::Query("listen", error);
    client
        .batch_execute("LISTEN bellwether_doctor")
        .await
        .map_err(failed)?;
    let pid = "SELECT pg_backend_pid()";
    let first: i32 = client.query_one(pid, &[]).await.map_err(failed)?.get(0);
    let token = format!("{:016x}", fastrand::u64(..));
    let other = database.connect().await?;
    let began = time::Instant::now();
    other
        .execute("SELECT pg_notify('bellwether_doctor', $1)", &[&token])
        .await
        .map_err(failed)?;
    let came = async {
        while let Some(payload) = heard.recv().await {
            if payload == token {
                return true;
            }
        }
        false
    };
    let came = time::timeout(ROUND_TRIP, came).await.unwrap_or(false);
    let took = began.elapsed();
    let last: i32 = client.query_one(pid, &[]).await.map_err(failed)?.get(0);
    drive.abort();
    Ok(vec![if !came {
        bad(
            CHECK,
            format!(
                "no notification came within {ROUND_TRIP:?}: is there a pooler in transaction mode between?"
            ),
            ADVICE,
        )
    } else if first != last {
        bad(
            CHECK,
            "two statements of one session ran on two servers: there is a pooler between",
            ADVICE,
        )
    } else {
        good(CHECK, format!("a notification came round in {took:.1?}"))
    }])
}

async fn queue(client: &Client) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "notification queue";
    let row = ask(
        client,
        "look at the notification queue",
        "SELECT pg_notification_queue_usage()",
    )
    .await?;
    let usage: f64 = row.get(0);
    let found = format!("{:.0} % full", usage * 100.0);
    Ok(vec![if usage > 0.1 {
        let advice = "a session that listens is in a long transaction: find it in pg_stat_activity and end it; \
                      when the queue is full, whoever notifies cannot commit";
        warning(CHECK, found, advice)
    } else {
        good(CHECK, found)
    }])
}

async fn transactions(client: &Client, long: Duration) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "transactions";
    let query = "
        SELECT 'process ' || pid || ' of ' || coalesce(usename, '?') || ' (' || coalesce(application_name, '') || ')',
            extract(epoch FROM now() - xact_start)::float8 AS age, format('SELECT pg_terminate_backend(%s)', pid)
        FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < now() - make_interval(secs => $1)
        UNION ALL
        SELECT 'the prepared transaction ' || gid, extract(epoch FROM now() - prepared)::float8,
            format('ROLLBACK PREPARED %L, in database %I', gid, database)
        FROM pg_prepared_xacts WHERE prepared < now() - make_interval(secs => $1)
        ORDER BY age DESC LIMIT 5";
    let rows = client.query(query, &[&long.as_secs_f64()]).await;
    let rows = rows.map_err(|error| Error::Query("look at the transactions", error))?;
    let finding = |row: &Row| {
        let (who, age, end): (String, f64, String) = (row.get(0), row.get(1), row.get(2));
        let found = format!("{who} has been open for {:.0} minutes", age / 60.0);
        let advice = format!(
            "only its own events wait for it, but nothing that was deleted since can be vacuumed; if it is forgotten: {end}"
        );
        warning(CHECK, found, advice)
    };
    Ok(match rows.as_slice() {
        [] => vec![good(CHECK, "none is long")],
        rows => rows.iter().map(finding).collect(),
    })
}

/// What a hub calls and reads.
async fn rights(client: &Client) -> Result<Vec<Finding>, Error> {
    Ok(vec![match rights::check(client, Purpose::Hub).await {
        Ok(()) => good("rights", "all that a hub needs"),
        Err(Error::Rights { grants }) => {
            let advice = format!("have the schema's owner or a superuser run {grants}");
            bad("rights", "the role may not do what a hub does", advice)
        }
        Err(error) => return Err(error),
    }])
}

async fn schema(client: &Client) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "schema";
    let newest = schema::newest();
    Ok(vec![match schema::version(client).await? {
        Some(version) if version == newest => good(CHECK, format!("version {version}")),
        Some(version) if version > newest => bad(
            CHECK,
            format!("version {version}; this program knows versions up to {newest}"),
            "run the newer program that made it",
        ),
        Some(version) => bad(
            CHECK,
            format!("version {version}; this program's is {newest}"),
            "start a hub of this version as the schema's owner: it upgrades it",
        ),
        None => bad(
            CHECK,
            "there is none",
            "start a hub, which makes it: bellwether serve",
        ),
    }])
}

async fn stream(client: &Client) -> Result<Vec<Finding>, Error> {
    let query = "
        SELECT head.last_seq, extract(epoch FROM clock_timestamp() - head.at)::float8, bellwether.count_hubs(),
            (SELECT first_seq FROM bellwether.stream ORDER BY last_seq LIMIT 1),
            pg_size_pretty(pg_total_relation_size('bellwether.event') + pg_total_relation_size('bellwether.stream')),
            (SELECT extract(epoch FROM clock_timestamp() - event.at)::float8
             FROM bellwether.event WHERE event.xid < pg_snapshot_xmin(pg_current_snapshot())
             ORDER BY event.xid DESC LIMIT 1),
            (SELECT extract(epoch FROM clock_timestamp() - min(event.at))::float8
             FROM bellwether.unseen(head.seen) JOIN bellwether.event USING (id))
        FROM (SELECT * FROM bellwether.batch ORDER BY last_seq DESC LIMIT 1) AS head";
    let row = ask(client, "look at the stream", query).await?;
    let (head, hubs): (i64, i64) = (row.get(0), row.get(2));
    let oldest: Option<i64> = row.get(3);
    let size: String = row.get(4);
    let waiting: Option<f64> = row.get(6);
    let mut findings = vec![match hubs {
        0 => warning("hubs", "none is connected", "start one: bellwether serve"),
        hubs => good("hubs", format!("{hubs} connected")),
    }];
    findings.push(match waiting {
        Some(age) if age > UNNUMBERED.as_secs_f64() => bad(
            "lag",
            format!("an event has been waiting for its number for {age:.0} s"),
            "no hub is looking: start one, or look at the log and /readyz of those that run",
        ),
        _ => good("lag", "every committed event has its number"),
    });
    findings.push(match oldest {
        Some(oldest) => good(
            "retention",
            format!(
                "{} events are kept, {oldest} to {head}, {size}",
                head - oldest + 1
            ),
        ),
        None => good(
            "retention",
            format!("no event is kept; the last was {head}; {size}"),
        ),
    });
    Ok(findings)
}

async fn attachments(database: &Database) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "attachments";
    let attached = Attachments::connect(database).await?.list().await?;
    let mut findings = Vec::new();
    for attached in &attached {
        let relation = &attached.attachment.relation;
        match attached.problems.as_slice() {
            [] => findings.push(good(
                CHECK,
                format!("{relation} on {}", attached.attachment.topic),
            )),
            problems => findings.extend(problems.iter().map(|problem| {
                let (found, advice) = problem
                    .split_once(": ")
                    .unwrap_or((problem, "attach it again"));
                warning(CHECK, format!("{relation}: {found}"), advice)
            })),
        }
    }
    if findings.is_empty() {
        findings.push(good(
            CHECK,
            "none: only what is published by hand or over HTTP is in the stream",
        ));
    }
    Ok(findings)
}

async fn ask(client: &Client, what: &'static str, query: &str) -> Result<Row, Error> {
    let row = client.query_one(query, &[]).await;
    row.map_err(|error| Error::Query(what, error))
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        check,
        state: State::Good,
        found: found.into(),
        advice: None,
    }
}

fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        check,
        state: State::Warning,
        found: found.into(),
        advice: Some(advice.into()),
    }
}

fn bad(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        check,
        state: State::Bad,
        found: found.into(),
        advice: Some(advice.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        let before = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        let after = before + Duration::from_millis(10);
        let differs = |there| {
            let finding = compare_clocks(before, there, after);
            (finding.state, finding.found)
        };
        let second = Duration::from_secs(1);
        for (there, state, found) in [
            (before, State::Good, "agrees with ours"),
            (after, State::Good, "agrees with ours"),
            (after + second, State::Good, "1.0s ahead of ours"),
            (before - second, State::Good, "1.0s behind ours"),
            (after + 3 * second, State::Warning, "3.0s ahead of ours"),
            (before - 3 * second, State::Warning, "3.0s behind ours"),
        ] {
            let (is, says) = differs(there);
            assert!(is == state && says.ends_with(found), "{is:?} {says}");
        }
    }
}
