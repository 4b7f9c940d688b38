use serde_json::{Value, json};

use super::{
    Browser, Tab,
    pages::{PAGES, act, is_live, stage, text},
};
use crate::harness::{Hub, HubOptions, ProxyKind, TestDatabase, eventually};

/// A page, how a row gets on it, and where it is to be seen.
struct Page {
    path: &'static str,
    /// `{n}` is the row's mark.
    insert: &'static str,
    place: &'static str,
}

const ALL: [Page; 4] = [
    Page {
        path: "/?topic=marks",
        insert: "INSERT INTO bellwether.event (topic, name, data) SELECT 'marks', {n}, '1'",
        place: "#rows td:nth-child(3)",
    },
    Page {
        path: "/analytics",
        insert: "INSERT INTO events (name) SELECT {n}",
        place: "activity-feed li .what",
    },
    Page {
        path: "/shop",
        insert: "INSERT INTO orders (product_id, quantity, customer) SELECT 1, 1, {n}",
        place: "activity-feed li .what",
    },
    Page {
        path: "/uptime?org=1",
        insert: "INSERT INTO incidents (org, monitor_id, monitor, closed_at) SELECT 1, 1, {n}, now()",
        place: "activity-feed li .what",
    },
];

impl Page {
    /// The marks that are shown, the newest first.
    fn shown(&self) -> String {
        format!(
            "[...document.querySelectorAll({:?})].flatMap((it) => it.textContent.match(/mark\\d+/) ?? [])",
            self.place
        )
    }
}

/// Rows on all pages, marked with the numbers from `from` up to `to`.
async fn insert(database: &TestDatabase, from: u32, to: u32) {
    let all = ALL.map(|page| {
        let insert = page.insert.replace("{n}", "'mark' || n");
        format!("{insert} FROM generate_series({from}, {to}) AS n")
    });
    act(database, &all.join("; ")).await;
}

/// The marks from `from` up to `to`, the newest first, each once.
fn marks(from: u32, to: u32) -> Value {
    (from..=to).rev().map(|n| format!("mark{n}")).collect()
}

/// As [`stage`], with so many mugs that they do not run out.
async fn full_stage() -> (TestDatabase, Hub) {
    let (database, hub) = stage().await;
    act(&database, "UPDATE products SET stock = 60000 WHERE id = 1").await;
    (database, hub)
}

fn url(hub: &Hub, page: &Page) -> String {
    format!("http://{}{}", hub.address, page.path)
}

/// Each page in a window of its own, live.
async fn windows<'a>(browser: &'a Browser, hub: &Hub) -> Vec<(Page, Tab<'a>)> {
    let mut windows = Vec::new();
    for page in ALL {
        let tab = browser.open_window(&url(hub, &page)).await;
        is_live(&tab).await;
        windows.push((page, tab));
    }
    windows
}

async fn clients(hub: &Hub, expected: u64) {
    eventually("streams", expected, async || {
        hub.metric("bellwether_clients").await
    })
    .await;
}

/// The feed of each page holds every event once, and the badge says how it is.
#[tokio::test]
async fn the_hub_is_killed_and_comes_back() {
    let (database, hub) = full_stage().await;
    let browser = Browser::start().await;
    let windows = windows(&browser, &hub).await;
    let lamp = "getComputedStyle(document.querySelector('connection-badge .lamp')).backgroundColor";
    let tone = "document.querySelector('connection-badge').dataset.tone";
    let mut greens = Vec::new();
    insert(&database, 1, 12).await;
    for (page, tab) in &windows {
        tab.eventually(&page.shown(), marks(1, 12)).await;
        assert_eq!(tab.eval(tone).await, "good", "{}", page.path);
        greens.push(tab.eval(lamp).await);
    }
    let options = HubOptions::default().in_place_of(&hub);
    insert(&database, 13, 24).await;
    hub.kill().await;
    insert(&database, 25, 36).await;
    for ((page, tab), green) in windows.iter().zip(&greens) {
        tab.eventually(tone, "bad").await;
        assert_ne!(&tab.eval(lamp).await, green, "{}", page.path);
        let reason = tab.eval(&text("connection-badge .rest")).await;
        if ProxyKind::of_all_hubs().is_none() {
            assert_eq!(reason, "the hub cannot be reached", "{}", page.path);
        }
    }
    let hub = Hub::start_with(&database, options).await;
    insert(&database, 37, 45).await;
    for ((page, tab), green) in windows.iter().zip(&greens) {
        tab.eventually(tone, "good").await;
        assert_eq!(&tab.eval(lamp).await, green, "{}", page.path);
        // A feed has forty rows, the inspector more.
        let first = if page.path.starts_with("/?") { 1 } else { 6 };
        tab.eventually(&page.shown(), marks(first, 45)).await;
        assert_eq!(tab.troubles().await, [""; 0], "{}", page.path);
    }
    drop(hub);
}

#[tokio::test]
async fn two_windows_share_one_stream() {
    let (database, hub) = full_stage().await;
    let browser = Browser::start().await;
    let first = windows(&browser, &hub).await;
    let second = windows(&browser, &hub).await;
    clients(&hub, 4).await;
    insert(&database, 1, 5).await;
    for (page, tab) in first.iter().chain(&second) {
        tab.eventually(&page.shown(), marks(1, 5)).await;
    }
    // Those with the streams go.
    for (_, tab) in first {
        tab.close().await;
    }
    insert(&database, 6, 10).await;
    for (page, tab) in &second {
        tab.eventually(&page.shown(), marks(1, 10)).await;
        is_live(tab).await;
        assert_eq!(tab.troubles().await, [""; 0], "{}", page.path);
    }
    clients(&hub, 4).await;
}

/// All but the shop, which is there to alert those who look elsewhere.
#[tokio::test]
async fn hidden_it_lets_go_and_shown_again_it_has_everything() {
    let (database, hub) = full_stage().await;
    let browser = Browser::start().await;
    let mut tabs = Vec::new();
    for page in ALL {
        let tab = browser.open(&url(&hub, &page)).await;
        is_live(&tab).await;
        tabs.push((page, tab));
    }
    let _in_front = browser.open("about:blank").await;
    clients(&hub, 1).await;
    for (page, tab) in &tabs {
        assert_eq!(tab.eval("document.hidden").await, true, "{}", page.path);
    }
    insert(&database, 1, 30).await;
    for (page, tab) in &tabs {
        tab.front().await;
        tab.eventually(&page.shown(), marks(1, 30)).await;
        is_live(tab).await;
        assert_eq!(tab.troubles().await, [""; 0], "{}", page.path);
    }
}

/// At the same address, a hub on another database: what a page knew is of no use any more.
#[tokio::test]
async fn a_gap_is_shown() {
    let (database, hub) = full_stage().await;
    let (another, its_hub) = full_stage().await;
    let browser = Browser::start().await;
    let windows = windows(&browser, &hub).await;
    insert(&database, 1, 5).await;
    for (page, tab) in &windows {
        tab.eventually(&page.shown(), marks(1, 5)).await;
        let hidden = "document.querySelector('#gap').hidden";
        assert_eq!(tab.eval(hidden).await, true, "{}", page.path);
    }
    let options = HubOptions::default().in_place_of(&hub);
    hub.kill().await;
    its_hub.kill().await;
    let hub = Hub::start_with(&another, options).await;
    let height = "document.querySelector('#gap').offsetHeight > 0";
    for (page, tab) in &windows {
        tab.eventually(height, true).await;
        is_live(tab).await;
        assert_eq!(
            tab.ask("judge", json!({})).await,
            json!([]),
            "{}",
            page.path
        );
    }
    // It goes on as a page that was just opened.
    insert(&another, 6, 10).await;
    for (page, tab) in &windows {
        tab.eventually(&page.shown(), marks(6, 10)).await;
        tab.eval("document.querySelector('#gap button').focus()")
            .await;
        tab.press("Enter").await;
        tab.eventually(height, false).await;
        assert_eq!(tab.troubles().await, [""; 0], "{}", page.path);
    }
    drop(hub);
}

/// A computer that has slept for an hour, whose network comes a moment later.
#[tokio::test]
async fn after_a_long_time_away_it_begins_anew() {
    let (database, hub) = full_stage().await;
    let browser = Browser::start().await;
    insert(&database, 1, 5).await;
    for (page, tab) in windows(&browser, &hub).await.into_iter().skip(1) {
        tab.eventually(&page.shown(), marks(1, 5)).await;
        tab.eval(
            "document.querySelector('activity-feed ol').append(document.createElement('hr'));
            const { now } = Date, get = fetch;
            let failing = 1;
            window.fetch = (...args) => {
                const fails = String(args[0]).startsWith('/v1/events') && failing-- > 0;
                return fails ? Promise.reject(new TypeError('Failed to fetch')) : get(...args);
            };
            Date.now = () => now() + 3_600_000;
            document.dispatchEvent(new Event('visibilitychange'))",
        )
        .await;
        tab.eventually("document.querySelector('activity-feed hr')", Value::Null)
            .await;
        tab.eventually(&page.shown(), marks(1, 5)).await;
        is_live(&tab).await;
        let hidden = "document.querySelector('#gap').hidden";
        assert_eq!(tab.eval(hidden).await, true, "{}", page.path);
        assert_eq!(tab.troubles().await, [""; 0], "{}", page.path);
    }
}

/// As behind a proxy that holds back what does not end.
#[tokio::test]
async fn where_streams_are_blocked_it_asks() {
    let (database, hub) = full_stage().await;
    let browser = Browser::start().await;
    let mut windows = Vec::new();
    for page in ALL {
        let tab = browser.open_window("about:blank").await;
        tab.ask("block", json!({"path": "/v1/stream"})).await;
        tab.go(&url(&hub, &page)).await;
        // It has read what there was.
        let after =
            "performance.getEntriesByType('resource').some(({ name }) => name.includes('/v1/'))";
        tab.eventually(after, true).await;
        windows.push((page, tab));
    }
    insert(&database, 1, 20).await;
    for (page, tab) in &windows {
        tab.eventually(&page.shown(), marks(1, 20)).await;
        let reason = "streams are blocked on the way; asking every 60 s";
        tab.eventually(&text("connection-badge .rest"), reason)
            .await;
        let tone = tab
            .eval("document.querySelector('connection-badge').dataset.tone")
            .await;
        assert_eq!(tone, "warn", "{}", page.path);
        assert_eq!(tab.troubles().await, [""; 0], "{}", page.path);
    }
    assert_eq!(hub.metric("bellwether_clients").await, 0);
}

/// axe-core finds nothing, whatever is shown, light and dark; and who wants no motion sees none.
#[tokio::test]
async fn everybody_can_use_it() {
    let (database, hub) = full_stage().await;
    act(
        &database,
        "SELECT demo.take_snapshot(); SELECT demo.take_inventory(); SELECT demo.summarise();
        UPDATE products SET stock = 3 WHERE id = 2;
        UPDATE monitors SET state = 'down' WHERE id = 1",
    )
    .await;
    insert(&database, 1, 5).await;
    let browser = Browser::start().await;
    for path in PAGES {
        let tab = browser.open("about:blank").await;
        for scheme in ["light", "dark"] {
            let media = json!({"colorScheme": scheme, "reducedMotion": "reduce"});
            tab.ask("media", media).await;
            tab.go(&format!("http://{}{path}", hub.address)).await;
            if path != "/uptime" {
                is_live(&tab).await;
                tab.eventually(
                    "document.querySelectorAll('main li, main tr').length > 3",
                    true,
                )
                .await;
            }
            let judgement = tab.ask("judge", json!({})).await;
            assert_eq!(judgement, json!([]), "{path}, {scheme}");
        }
        insert(&database, 6, 9).await;
        let moving = "document.getAnimations().length";
        tab.eventually(moving, 0).await;
        assert_eq!(tab.troubles().await, [""; 0], "{path}");
        tab.close().await;
    }
}

/// Every control can be reached with the keyboard, and one sees where one is.
#[tokio::test]
async fn the_keyboard_reaches_everything() {
    let (database, hub) = full_stage().await;
    act(
        &database,
        "SELECT demo.take_inventory(); SELECT demo.summarise()",
    )
    .await;
    insert(&database, 1, 2).await;
    let browser = Browser::start().await;
    for path in ALL.map(|page| page.path).into_iter().chain(["/uptime"]) {
        let tab = browser.open(&format!("http://{}{path}", hub.address)).await;
        if path != "/uptime" {
            is_live(&tab).await;
            tab.eventually(
                "document.querySelectorAll('main li, main tr').length > 1",
                true,
            )
            .await;
        }
        let controls = "[...document.querySelectorAll('a, button, input, textarea, select, summary, [tabindex=\"0\"]')]
            .filter((it) => it.offsetParent || it.matches('.skip'))
            .filter((it) => !it.disabled)";
        tab.eval(&format!("window.missing = new Set({controls})"))
            .await;
        let all = tab.eval("missing.size").await.as_u64().unwrap();
        assert!(all > 1, "{path} has no controls");
        for _ in 0..=all {
            tab.press("Tab").await;
            let here = "(document.activeElement.id || document.activeElement.textContent.trim() || document.activeElement.localName)";
            let here = tab.eval(here).await;
            let outline = "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle";
            let outline = tab.eval(outline).await;
            assert!(outline == true || outline == "solid", "{path} at {here}");
            tab.eval("missing.delete(document.activeElement)").await;
        }
        let missing = "[...missing].map((it) => it.outerHTML.slice(0, 200))";
        assert_eq!(tab.eval(missing).await, json!([]), "{path}");
        tab.close().await;
    }
}

/// What can be done on a page can be done without a mouse.
#[tokio::test]
async fn the_keyboard_does_everything() {
    let (database, hub) = full_stage().await;
    insert(&database, 1, 1).await;
    let browser = Browser::start().await;
    let tab = browser.open(&url(&hub, &ALL[0])).await;
    tab.eventually(&ALL[0].shown(), marks(1, 1)).await;
    let focus = async |selector: &str| {
        tab.eval(&format!("document.querySelector({selector:?}).focus()"))
            .await;
    };
    let pressed = "document.querySelector('#pause').ariaPressed";
    focus("#pause").await;
    tab.press("Enter").await;
    assert_eq!(tab.eval(pressed).await, "true");
    tab.press("Space").await;
    assert_eq!(tab.eval(pressed).await, "false");
    focus("#rows summary").await;
    tab.press("Enter").await;
    tab.eventually("document.querySelector('#rows details').open", true)
        .await;
    // Follows another topic, and sends an event there.
    focus("#topic").await;
    tab.press("Control+a").await;
    tab.ask("type", json!({"text": "typed"})).await;
    tab.press("Enter").await;
    tab.eventually("location.search", "?topic=typed").await;
    is_live(&tab).await;
    focus("#send [name=topic]").await;
    tab.press("Control+a").await;
    tab.ask("type", json!({"text": "typed"})).await;
    tab.press("Enter").await;
    tab.eventually(&text("#rows td:nth-child(3)"), "hello")
        .await;
    tab.close().await;

    let tab = browser.open(&url(&hub, &ALL[2])).await;
    let notify = "document.querySelector('#notify')";
    tab.eval(&format!("{notify}.focus()")).await;
    tab.press("Enter").await;
    tab.eventually(&format!("{notify}.disabled"), true).await;
    tab.close().await;

    let tab = browser
        .open(&format!("http://{}/uptime", hub.address))
        .await;
    tab.eval("document.querySelector('#choose a').focus()")
        .await;
    tab.press("Enter").await;
    tab.eventually("location.search", "?org=1").await;
    is_live(&tab).await;
}

/// A page that comes late sees what went through the hub before.
#[tokio::test]
async fn the_inspectors_chart_begins_with_the_past() {
    let (database, hub) = full_stage().await;
    insert(&database, 1, 200).await;
    let count = async || {
        let (_, status) = crate::harness::get(hub.address, "/v1/status").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        let counts = status["recent"]["counts"].as_array().unwrap().clone();
        counts
            .iter()
            .map(|count| count.as_u64().unwrap())
            .sum::<u64>()
    };
    // 4,000 visits, 2,000 orders and more are the demos' past.
    eventually("they are counted", true, async || count().await > 6_000).await;
    let browser = Browser::start().await;
    let tab = browser.open(&url(&hub, &ALL[0])).await;
    let label = "document.querySelector('live-chart .plot').ariaLabel";
    tab.eventually(
        &format!("{label}?.startsWith('Chart of the last minutes')"),
        true,
    )
    .await;
    let since = tab.eval(&text("#since")).await;
    assert_eq!(since, "since this hub started");
}
