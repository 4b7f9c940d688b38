//! Pages that are left running: `cargo xtask soak [SECONDS]` does it for half an hour.

use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{self, Instant};

use super::{
    Browser, Tab,
    pages::{act, is_live, stage},
};

/// Rows a second in `events`, and in `orders`, each of which makes two events: analytics and the
/// shop have more than 200 a second, the inspector more than 400.
const EVENTS: u32 = 200;
const ORDERS: u32 = 100;
/// Batches a second that bring them.
const BATCHES: u32 = 10;
/// Until a page has filled what it keeps.
const WARM: Duration = Duration::from_secs(20);
/// Between two weighings.
const WEIGHINGS: u32 = 5;

/// What a page holds after the rubbish was collected.
#[derive(Clone, Copy, Debug)]
struct Weight {
    heap: i64,
    nodes: i64,
    listeners: i64,
}

#[tokio::test]
async fn a_page_left_running_does_not_grow() {
    let seconds = std::env::var("BELLWETHER_SOAK_SECONDS");
    let seconds = seconds.map_or(60, |seconds| seconds.parse().expect("a number"));
    let (database, hub) = stage().await;
    act(
        &database,
        "UPDATE products SET stock = 1000000000, capacity = 1000000000;
        SELECT demo.take_snapshot(); SELECT demo.take_inventory()",
    )
    .await;
    let browser = Browser::start().await;
    let mut tabs = Vec::new();
    for path in ["/", "/analytics", "/shop"] {
        let url = format!("http://{}{path}", hub.address);
        let tab = browser.open_window(&url).await;
        is_live(&tab).await;
        tabs.push((path, tab));
    }

    let rows = |rate: u32| format!("FROM generate_series(1, {})", rate / BATCHES);
    let happens = format!(
        "INSERT INTO events (name, properties) SELECT 'page_view', json_build_object('page', '/', 'session', random()) {};
        INSERT INTO orders (product_id, quantity, customer) SELECT 1 + floor(10 * random()), 1, 'Amara' {};
        SELECT demo.take_inventory()",
        rows(EVENTS),
        rows(ORDERS)
    );
    let over = Instant::now() + Duration::from_secs(seconds);
    let happening = async {
        let psql = database.connect().await;
        let mut beat = time::interval(Duration::from_secs(1) / BATCHES);
        let mut batches = 0;
        while Instant::now() < over {
            beat.tick().await;
            psql.batch_execute(&happens).await.unwrap();
            batches += 1;
            if batches % 20 == 0 {
                psql.batch_execute("SELECT demo.take_snapshot()")
                    .await
                    .unwrap();
            }
        }
        batches
    };
    let weighing = async {
        let mut weights = vec![Vec::new(); tabs.len()];
        let begins = Instant::now() + WARM;
        for round in 0..=WEIGHINGS {
            time::sleep_until(begins + (over - begins) * round / WEIGHINGS).await;
            for ((path, tab), weights) in tabs.iter().zip(&mut weights) {
                let weight = Weight::of(tab).await;
                println!(
                    "{:>5} s {path:<11} {weight:?}",
                    (Instant::now() + WARM - begins).as_secs()
                );
                weights.push(weight);
            }
        }
        weights
    };
    let (batches, weights) = tokio::join!(happening, weighing);

    for ((path, tab), weights) in tabs.iter().zip(weights) {
        assert_eq!(tab.eval("document.hidden").await, false, "{path}");
        assert_eq!(tab.troubles().await, [""; 0], "{path}");
        // The least at first against the least at last, as each may hold what is on its way: rows
        // that were pushed out while they slid in, some 24 nodes each. There come 400 a second.
        let (early, late) = weights.split_at(weights.len() / 2);
        let least = |of: &[Weight], what: fn(&Weight) -> i64| of.iter().map(what).min().unwrap();
        for (what, most, value) in [
            (
                "bytes of heap",
                1_000_000,
                (|it| it.heap) as fn(&Weight) -> i64,
            ),
            ("nodes", 5_000, |it| it.nodes),
            ("listeners", 300, |it| it.listeners),
        ] {
            let (before, after) = (least(early, value), least(late, value));
            println!("{path}: {what} {before} → {after}");
            assert!(after < before + most, "{path}: {what} grew: {weights:?}");
        }
    }
    // They saw all of it, or there was nothing to grow from.
    let (path, tab) = &tabs[0];
    let seen = "Number(document.querySelector('#count').textContent.replace(/[^0-9]/g, ''))";
    let all = batches * (EVENTS + 2 * ORDERS) / BATCHES;
    tab.eventually(&format!("{seen} >= {all}"), true).await;
    println!("{path}: more than {all} events");
}

impl Weight {
    async fn of(tab: &Tab<'_>) -> Self {
        let weight: Value = tab.ask("weigh", json!({})).await;
        let value = |name: &str| weight[name].as_i64().unwrap();
        Self {
            heap: value("heap"),
            nodes: value("nodes"),
            listeners: value("listeners"),
        }
    }
}
