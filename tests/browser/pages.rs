use serde_json::{Value, json};
use tokio::process::Command;

use super::{Browser, Tab};
use crate::harness::{Hub, TestDatabase, eventually, within};

const SCRIPTS: [&str; 3] = [
    include_str!("../../sql/demo/analytics.sql"),
    include_str!("../../sql/demo/shop.sql"),
    include_str!("../../sql/demo/uptime.sql"),
];

pub(super) const PAGES: [&str; 5] = ["/", "/analytics", "/shop", "/uptime?org=1", "/uptime"];

/// A hub on a database with the tables of all demos, in which nothing happens by itself.
pub(super) async fn stage() -> (TestDatabase, Hub) {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    act(&database, &SCRIPTS.concat()).await;
    (database, hub)
}

/// By psql, as anybody could, in one transaction.
pub(super) async fn act(database: &TestDatabase, sql: &str) {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]);
    psql.args(["--command", sql, &database.url]);
    let done = within("psql", psql.output()).await.unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}

async fn open<'a>(browser: &'a Browser, hub: &Hub, path: &str) -> Tab<'a> {
    let tab = browser.open(&format!("http://{}{path}", hub.address)).await;
    is_live(&tab).await;
    tab
}

pub(super) async fn is_live(tab: &Tab<'_>) {
    let state = "document.querySelector('connection-badge').dataset.state";
    tab.eventually(state, "live").await;
}

/// The figure of a card, without what groups its digits.
pub(super) fn figure(id: &str) -> String {
    format!("Number(document.querySelector('#{id} .value').textContent.replace(/[^0-9.]/g, ''))")
}

pub(super) fn text(selector: &str) -> String {
    format!("document.querySelector({selector:?})?.textContent")
}

#[tokio::test]
async fn analytics_counts_what_psql_inserts() {
    let (database, hub) = stage().await;
    eventually("the past is numbered", true, async || {
        hub.metric("bellwether_stream_head").await >= 4000
    })
    .await;
    act(&database, "SELECT demo.take_snapshot()").await;
    // However much comes after it, a page begins with the last snapshot.
    let noise = "INSERT INTO events (name) SELECT 'noise' FROM generate_series(1, 3000)";
    act(&database, noise).await;
    let browser = Browser::start().await;
    let tab = open(&browser, &hub, "/analytics").await;
    tab.eventually(&figure("events"), 4000).await;
    let views = tab.eval(&figure("views")).await.as_u64().unwrap();

    act(
        &database,
        "INSERT INTO events (name, properties) SELECT 'page_view', '{\"page\": \"/here\", \"session\": \"me\"}'
            FROM generate_series(1, 30);
        INSERT INTO events (name, properties) VALUES ('purchase', '{\"plan\": \"pro\", \"session\": \"me\"}')",
    )
    .await;
    tab.eventually(&text("activity-feed li .what"), "Purchase pro")
        .await;
    // Numbered by now, as it was shown.
    act(&database, "SELECT demo.take_snapshot()").await;
    tab.eventually(&figure("events"), 7031).await;
    tab.eventually(&figure("views"), views + 30).await;
    assert_eq!(tab.troubles().await, [""; 0]);
}

#[tokio::test]
async fn the_shop_sells_and_raises_the_alarm() {
    let (database, hub) = stage().await;
    act(&database, "SELECT demo.take_inventory()").await;
    let browser = Browser::start().await;
    let tab = open(&browser, &hub, "/shop").await;
    tab.eventually(&figure("orders"), 2000).await;
    let kettle = text("[data-product='5'] .number");
    tab.eventually(&kettle, "12 of 30").await;
    tab.eventually(&figure("low"), 0).await;

    act(
        &database,
        "INSERT INTO orders (product_id, quantity, customer) VALUES (5, 3, 'Ottilie')",
    )
    .await;
    tab.eventually(&figure("orders"), 2001).await;
    tab.eventually(&kettle, "9 of 30").await;
    tab.eventually(&figure("low"), 1).await;
    tab.eventually(&text("#alert:not([hidden])"), "Steel kettle: only 9 left")
        .await;
    tab.eventually(
        &text("activity-feed li .what"),
        "3 × Steel kettle Ottilie · 186.00 €",
    )
    .await;
    tab.eventually(&text("#low .note"), "Steel kettle").await;
    act(&database, "UPDATE products SET stock = 30 WHERE id = 5").await;
    tab.eventually(
        &text("#alert:not([hidden])"),
        "Steel kettle: 30 in stock again",
    )
    .await;
    assert_eq!(tab.troubles().await, [""; 0]);
}

/// Who has allowed it is told of alerts while looking elsewhere, and only then.
#[tokio::test]
async fn the_shop_notifies_who_looks_elsewhere() {
    let (database, hub) = stage().await;
    act(&database, "SELECT demo.take_inventory()").await;
    let browser = Browser::start().await;
    let origin = format!("http://{}", hub.address);
    let grant = json!({"do": "grant", "origin": origin, "permissions": ["notifications"]});
    browser.ask(grant).await;
    let tab = open(&browser, &hub, "/shop").await;
    tab.eventually(&text("#notify"), "You are notified of alerts")
        .await;
    tab.eval(
        "window.told = []; window.Notification = new Proxy(Notification, {
            construct: (Notification, args) => {
                const notification = new Notification(...args);
                notification.onshow = () => told.push(notification.body);
                notification.onerror = () => told.push('not shown');
                return notification;
            },
        })",
    )
    .await;
    act(&database, "UPDATE products SET stock = 9 WHERE id = 1").await;
    tab.eventually(&text("#alert:not([hidden])"), "Enamel mug: only 9 left")
        .await;
    assert_eq!(tab.eval("told").await, json!([]));

    let _in_front = browser.open("about:blank").await;
    tab.eventually("document.hidden", true).await;
    act(&database, "UPDATE products SET stock = 4 WHERE id = 5").await;
    tab.eventually("told", json!(["Steel kettle: only 4 left"]))
        .await;
    assert_eq!(tab.troubles().await, [""; 0]);
}

#[tokio::test]
async fn uptime_shows_an_organisation_its_own() {
    let (database, hub) = stage().await;
    act(&database, "SELECT demo.summarise()").await;
    let browser = Browser::start().await;
    let ours = open(&browser, &hub, "/uptime?org=1").await;
    let theirs = open(&browser, &hub, "/uptime?org=2").await;
    for (tab, name, monitors) in [
        (&ours, "Northwind Freight", 6),
        (&theirs, "Halcyon Clinics", 4),
    ] {
        tab.front().await;
        tab.eventually(&text("#subtitle"), name).await;
        tab.eventually(&figure("up"), monitors).await;
    }

    act(
        &database,
        "INSERT INTO probes (monitor_id, is_ok, latency_ms) VALUES (1, false, 5000);
        INSERT INTO probes (monitor_id, is_ok, latency_ms) VALUES (1, false, 5000)",
    )
    .await;
    ours.front().await;
    ours.eventually(&text("[data-monitor='1'] .state"), "down")
        .await;
    ours.eventually(&figure("down"), 1).await;
    ours.eventually(&text("activity-feed li .what"), "Website is down")
        .await;
    act(
        &database,
        "INSERT INTO probes (monitor_id, is_ok, latency_ms) VALUES (1, true, 80), (7, true, 4321)",
    )
    .await;
    ours.eventually(&figure("down"), 0).await;
    let fact = text("[data-monitor='1'] .facts, [data-monitor='1'] .quiet");
    ours.eventually(&format!("{fact}.startsWith('80 ms')"), true)
        .await;
    // The probe of theirs came after all of ours, and is all that came.
    theirs.front().await;
    let fact = text("[data-monitor='7'] .quiet");
    theirs
        .eventually(&format!("{fact}.startsWith('4321 ms')"), true)
        .await;
    assert_eq!(
        theirs
            .eval("document.querySelectorAll('.monitors li').length")
            .await,
        4
    );
    assert_eq!(theirs.eval(&figure("down")).await, 0);
    for tab in [ours, theirs] {
        assert_eq!(tab.troubles().await, [""; 0]);
    }
}

#[tokio::test]
async fn the_inspector_shows_filters_and_pauses() {
    let (database, hub) = stage().await;
    let browser = Browser::start().await;
    let tab = open(&browser, &hub, "/?topic=shop.*").await;
    let insert = |topic: &str, name: &str, data: &str| {
        format!(
            "INSERT INTO bellwether.event (topic, name, key, data) VALUES ('{topic}', '{name}', 'k', '{data}'); "
        )
    };
    let first = "[...document.querySelectorAll('#rows tr')].filter((row) => !row.hidden)[0]?.children[2].textContent";
    act(
        &database,
        &(insert("other", "not-this", "1") + &insert("shop.x", "wanted", r#"{"a": [1, 2]}"#)),
    )
    .await;
    tab.eventually(first, "wanted").await;
    tab.eventually(&figure("clients"), 1).await;
    let rate = format!("{} > 0", figure("rate"));
    tab.eventually(&rate, true).await;
    assert_eq!(
        tab.eval("document.querySelector('#rows').textContent.includes('not-this')")
            .await,
        false
    );

    // What comes while it is paused is shown afterwards.
    tab.eval("document.querySelector('#pause').click()").await;
    act(&database, &insert("shop.y", "later", "2")).await;
    tab.eventually(
        "document.querySelector('#count').textContent.endsWith('1 waiting')",
        true,
    )
    .await;
    assert_eq!(tab.eval(first).await, "wanted");
    tab.eval("document.querySelector('#pause').click()").await;
    tab.eventually(first, "later").await;

    let filter = "document.querySelector('#filter')";
    tab.eval(&format!(
        "{filter}.value = 'WANTED'; {filter}.dispatchEvent(new Event('input'))"
    ))
    .await;
    assert_eq!(tab.eval(first).await, "wanted");
    tab.eval(
        "[...document.querySelectorAll('#rows summary')].find((it) => it.offsetParent).click()",
    )
    .await;
    tab.eventually(
        &text("#rows details[open] pre"),
        "{\n  \"a\": [\n    1,\n    2\n  ]\n}\n\nkey: k",
    )
    .await;
    assert_eq!(tab.troubles().await, [""; 0]);
}

#[tokio::test]
async fn the_inspector_sends() {
    let (_database, hub) = stage().await;
    let browser = Browser::start().await;
    let tab = open(&browser, &hub, "/?topic=test.*").await;
    let send = |data: &str| {
        format!(
            "(({{ elements }}) => {{ elements.topic.value = 'test.it'; elements.key.value = 'k-7'; elements.data.value = {data:?};
                elements.topic.form.querySelector('button').click(); }})(document.querySelector('#send'))"
        )
    };
    tab.eval(&send("{no")).await;
    let said = text("#sent");
    tab.eventually(&format!("{said}.startsWith('This is no JSON')"), true)
        .await;
    tab.eval(&send(r#"{"price": 1.50}"#)).await;
    tab.eventually("document.querySelectorAll('#rows tr').length", 1)
        .await;
    let id = tab.eval(&text("#rows tr code")).await;
    tab.eventually(&said, format!("Sent: {}", id.as_str().unwrap()))
        .await;
    assert_eq!(tab.eval(&text("#rows summary")).await, r#"{"price":1.5}"#);
    assert_eq!(tab.troubles().await, [""; 0]);
}

/// What stands in an event is text to every page, and the policy stops what is not.
#[tokio::test]
async fn events_cannot_script_a_page() {
    let (database, hub) = stage().await;
    let browser = Browser::start().await;
    let evil = "<img src=x onerror=\"window.bad=1\"><script>window.bad=1</script>";
    act(
        &database,
        &format!(
            "INSERT INTO events (name, properties) VALUES ('{evil}', jsonb_build_object('page', '{evil}'));
            INSERT INTO orders (product_id, quantity, customer) VALUES (1, 1, '{evil}');
            UPDATE products SET name = '{evil}' WHERE id = 1;
            UPDATE monitors SET name = '{evil}', state = 'down' WHERE id = 1"
        ),
    )
    .await;
    for (path, place) in [
        ("/", "#rows"),
        ("/analytics", "activity-feed"),
        ("/shop", "main"),
        ("/uptime?org=1", ".monitors"),
    ] {
        let tab = open(&browser, &hub, path).await;
        let shown = format!("document.querySelector('{place}').textContent.includes('onerror')");
        tab.eventually(&shown, true).await;
        assert_eq!(tab.eval("window.bad ?? null").await, Value::Null, "{path}");
        assert_eq!(tab.troubles().await, [""; 0], "{path}");

        // Were it markup, it would still do nothing.
        let inject = "new Promise((done) => {
            document.addEventListener('securitypolicyviolation', (event) => done(event.violatedDirective));
            document.body.insertAdjacentHTML('beforeend', '<img src=\"/none.svg\" onerror=\"window.bad=1\">');
        })";
        assert_eq!(tab.eval(inject).await, "script-src-attr", "{path}");
        assert_eq!(tab.eval("window.bad ?? null").await, Value::Null, "{path}");
        tab.close().await;
    }
}

#[tokio::test]
async fn every_page_fits_a_phone_and_a_wall() {
    let (database, hub) = stage().await;
    act(
        &database,
        "SELECT demo.take_snapshot(); SELECT demo.take_inventory(); SELECT demo.summarise();
        INSERT INTO events (name, properties) VALUES (repeat('long', 50), jsonb_build_object('page', repeat('/long', 50)));
        INSERT INTO bellwether.event (topic, name, data) VALUES (repeat('t', 100), repeat('n', 100), to_json(repeat('d', 5000)))",
    )
    .await;
    let browser = Browser::start().await;
    for path in PAGES {
        let tab = browser.open(&format!("http://{}{path}", hub.address)).await;
        if path != "/uptime" {
            is_live(&tab).await;
        }
        for (width, height) in [(320, 640), (390, 844), (1024, 768), (3840, 2160)] {
            tab.ask("size", json!({"width": width, "height": height}))
                .await;
            let too_wide = "[...document.querySelectorAll('body, main, header, .panel, metric-card, connection-badge')]
                .filter((it) => it.getBoundingClientRect().right > innerWidth + 0.5).map((it) => it.outerHTML.slice(0, 200))";
            tab.eventually(too_wide, json!([])).await;
            tab.eventually("document.documentElement.scrollWidth > innerWidth", false)
                .await;
        }
        assert_eq!(tab.troubles().await, [""; 0], "{path}");
    }
}
