//! `bellwether demo`: a private database in which something happens all the time.

use anyhow::Result;
use pg::{Database, EventsTable};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time;

use crate::{cli::DemoOptions, instance::Ground};

/// What a visitor can do, and how often it is done among a hundred things.
const ACTIONS: [(&str, u32); 8] = [
    ("page_view", 55),
    ("button_click", 18),
    ("search", 9),
    ("form_submit", 6),
    ("share", 4),
    ("signup", 3),
    ("file_upload", 3),
    ("purchase", 2),
];
const PAGES: [&str; 7] = [
    "/",
    "/pricing",
    "/docs",
    "/docs/quickstart",
    "/blog/live-postgres",
    "/signup",
    "/account",
];
const REFERRERS: [&str; 5] = [
    "direct",
    "search",
    "newsletter",
    "news.example",
    "social.example",
];
const PLANS: [&str; 3] = ["free", "pro", "team"];

/// Mean time between two events.
const MEAN_PAUSE: Duration = Duration::from_millis(700);
const MAX_TIMES: f64 = 6.0;

/// Never on a database of the user's own, not even if the environment names one.
pub(crate) async fn run(options: DemoOptions) -> Result<()> {
    let ground = Ground::prepare(None, options.private, &options.hub, "bellwether demo").await?;
    let trickle = trickle(ground.database().clone());
    Box::pin(ground.run(&options.hub, trickle)).await
}

/// Inserts visitors' doings, at random times as visitors do, for as long as the demo runs.
async fn trickle(database: Database) -> Result<()> {
    let mut events: Option<EventsTable> = None;
    loop {
        time::sleep(pause(fastrand::f64())).await;
        let (name, properties) = action();
        let inserted = async {
            let table = match events.take() {
                Some(table) => table,
                None => EventsTable::connect(&database).await?,
            };
            table.insert(name, &properties.to_string()).await?;
            Ok::<_, pg::Error>(table)
        };
        match inserted.await {
            Ok(table) => events = Some(table),
            Err(error) => tracing::warn!(error = %pg::chain(&error), "a visitor was missed"),
        }
    }
}

/// Exponential, as between independent visitors, but never very long.
fn pause(random: f64) -> Duration {
    let times_the_mean = -(1.0 - random).ln();
    MEAN_PAUSE.mul_f64(times_the_mean.min(MAX_TIMES))
}

fn action() -> (&'static str, Value) {
    let page = choose(&PAGES);
    let name = weighted(fastrand::u32(0..100));
    let properties = match name {
        "page_view" => {
            json!({"page": page, "referrer": choose(&REFERRERS), "duration": fastrand::u32(2..240)})
        }
        "signup" => json!({"plan": choose(&PLANS), "referrer": choose(&REFERRERS)}),
        "purchase" => {
            json!({"plan": choose(&PLANS[1..]), "amount": f64::from(fastrand::u32(9..200)) - 0.01})
        }
        "search" => json!({"page": page, "results": fastrand::u32(0..60)}),
        "file_upload" => json!({"page": "/account", "bytes": fastrand::u32(1_000..9_000_000)}),
        _ => json!({"page": page}),
    };
    (name, properties)
}

fn weighted(mut at: u32) -> &'static str {
    for (name, weight) in ACTIONS {
        if at < weight {
            return name;
        }
        at -= weight;
    }
    ACTIONS[0].0
}

fn choose(from: &[&'static str]) -> &'static str {
    from[fastrand::usize(..from.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_make_a_hundred() {
        assert_eq!(ACTIONS.iter().map(|(_, weight)| weight).sum::<u32>(), 100);
        assert_eq!(weighted(0), "page_view");
        assert_eq!(weighted(99), "purchase");
    }

    #[test]
    fn pauses_are_bounded() {
        assert_eq!(pause(0.0), Duration::ZERO);
        assert_eq!(pause(1.0), MEAN_PAUSE * 6);
    }
}
