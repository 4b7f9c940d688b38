//! Visitors of a site.

use pg::Database;
use serde_json::{Value, json};
use std::time::Duration;

use super::{again, at_random, choose};

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

/// Mean time between two doings.
const MEAN_PAUSE: Duration = Duration::from_millis(700);
/// Between two counts.
const COUNTS: Duration = Duration::from_secs(2);

/// How many there are at a time. Now and then one leaves and another comes.
const VISITORS: usize = 25;
const STAYS: u32 = 12;

/// Inserts visitors' doings, at random times as visitors do.
pub(super) async fn come(database: &Database) {
    let mut sessions: Vec<String> = (0..VISITORS).map(former).collect();
    again(
        database,
        || at_random(MEAN_PAUSE, fastrand::f64()),
        async |tables| {
            let session = fastrand::choice(&mut sessions).expect("there are some");
            if fastrand::u32(..STAYS) == 0 {
                *session = format!("{:08x}", fastrand::u32(..));
            }
            let (name, mut properties) = action();
            properties["session"] = session.as_str().into();
            tables.visit(name, &properties.to_string()).await
        },
    )
    .await;
}

/// The session of a visitor who was there at the end of the made-up past (`analytics.sql`), and
/// stays: else all would seem to have gone, and as many to have come at once.
fn former(visitor: usize) -> String {
    format!("past-{visitor}-{}", (4000 / VISITORS + visitor) / 12)
}

/// Records figures of what they do.
pub(super) async fn are_counted(database: &Database) {
    again(
        database,
        || COUNTS,
        async |tables| tables.take_snapshot().await,
    )
    .await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_make_a_hundred() {
        assert_eq!(ACTIONS.iter().map(|(_, weight)| weight).sum::<u32>(), 100);
        assert_eq!(weighted(0), "page_view");
        assert_eq!(weighted(99), "purchase");
    }
}
