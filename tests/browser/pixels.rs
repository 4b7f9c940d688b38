//! From INSERT to pixels: `cargo xtask pixels`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time;

use super::{
    Browser,
    pages::{act, is_live, stage},
};

/// Rows that are measured, on each page.
const ROWS: usize = 300;
/// Between two of them, about: so that each finds a hub that is asleep, or awake.
const PAUSE: Duration = Duration::from_millis(60);

/// When each row got into the page, and when the next picture was drawn, in ms since 1970.
const WATCH: &str = r#"
    window.seen = {};
    const now = () => performance.timeOrigin + performance.now();
    new MutationObserver((changes) => {
        const changed = now();
        for (const added of changes.flatMap(({ addedNodes }) => [...addedNodes])) {
            const mark = added.textContent.match(/mark\d+!/)?.[0];
            if (!mark || seen[mark]) continue;
            seen[mark] = [changed];
            // A message is handled after the frame that is being made.
            const { port1, port2 } = new MessageChannel();
            port1.onmessage = () => seen[mark].push(now());
            requestAnimationFrame(() => port2.postMessage(0));
        }
    }).observe(document.querySelector("PLACE"), { childList: true, subtree: true });
    Date.now() - now();
"#;

/// What a row's way took, in ms: from before the INSERT was sent, and from when it had committed.
#[derive(Debug, Default)]
struct Times {
    whole: Vec<f64>,
    committed: Vec<f64>,
    drawn: Vec<f64>,
}

#[tokio::test]
#[ignore = "measures: cargo xtask pixels"]
async fn from_insert_to_pixels() {
    for (path, place, insert) in [
        (
            "/shop",
            "activity-feed",
            "INSERT INTO orders (product_id, quantity, customer) VALUES (1, 1, $1)",
        ),
        (
            "/?topic=events",
            "#rows",
            "INSERT INTO events (name) VALUES ($1)",
        ),
    ] {
        let (database, hub) = stage().await;
        act(&database, "UPDATE products SET stock = 60000 WHERE id = 1").await;
        let browser = Browser::start().await;
        let tab = browser.open(&format!("http://{}{path}", hub.address)).await;
        is_live(&tab).await;
        let drift = tab.eval(&WATCH.replace("PLACE", place)).await;
        let drift = drift.as_f64().unwrap();
        assert!(drift.abs() < 2.0, "the page's clock is off by {drift} ms");

        let psql = database.connect().await;
        let insert = psql.prepare(insert).await.unwrap();
        let mut sent = Vec::new();
        for n in 0..ROWS {
            let before = since_1970();
            psql.execute(&insert, &[&format!("mark{n}!")])
                .await
                .unwrap();
            sent.push((before, since_1970()));
            time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
        let done = "Object.values(seen).filter((times) => times.length === 2).length";
        tab.eventually(done, ROWS).await;
        let seen = tab.eval("seen").await;
        let mut times = Times::default();
        for (n, (before, committed)) in sent.into_iter().enumerate() {
            let at = |i: usize| seen[format!("mark{n}!")][i].as_f64().unwrap();
            times.whole.push(at(0) - before);
            times.committed.push(at(0) - committed);
            times.drawn.push(at(1) - committed);
        }
        println!("{path}: {ROWS} rows, ms (p50, p90, p99, most)");
        show("INSERT sent to DOM changed", times.whole);
        show("committed to DOM changed", times.committed);
        show("committed to next frame drawn", times.drawn);
    }
}

fn show(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "  {what:<32} {:>6.1} {:>6.1} {:>6.1} {:>6.1}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

fn since_1970() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs_f64() * 1000.0
}
