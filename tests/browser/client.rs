use serde_json::{Value, json};

use super::{Browser, Tab};
use crate::harness::{Hub, HubOptions, TestDatabase, eventually};
use nix::sys::signal::{Signal, kill};
use tokio::sync::watch;

/// Times as short as a test wants them; what is not tested never happens.
const TIMES: &str = "stale: 600000, silence: 600000, blocked: 600000, poll: 600000, hidden: 600000,
    backoff: [50, 200], stable: 100, alive: 100, hung: 600000";

/// Follows `events` in a tab. What comes is in `ids`, `states` and `gaps`.
async fn follow(tab: &Tab<'_>, times: &str, options: &str) {
    let code = format!(
        r#"import("/bellwether.js").then(({{ connect }}) => {{
            Object.assign(window, {{ ids: [], names: [], states: [], gaps: [] }});
            window.hub = connect("events", {{ times: {{ {TIMES}, {times} }}, {options} }});
            hub.on("*", ({{ id, name, data }}) => {{
                ids.push(id);
                names.push(name === "state" ? data : name);
            }});
            hub.addEventListener("status", ({{ detail }}) => states.at(-1) === detail.state || states.push(detail.state));
            hub.addEventListener("gap", ({{ detail }}) => gaps.push(detail));
        }})"#
    );
    tab.eval(&code).await;
}

/// A tab of the hub's origin that does nothing by itself.
async fn blank<'a>(browser: &'a Browser, hub: &Hub) -> Tab<'a> {
    browser
        .open(&format!("http://{}/uptime", hub.address))
        .await
}

/// Inserts rows named `from` up to `to`.
async fn insert(database: &TestDatabase, from: i32, to: i32) {
    let insert = "INSERT INTO events (name) SELECT n::text FROM generate_series($1::int, $2) AS n";
    let psql = database.connect().await;
    psql.execute(insert, &[&from, &to]).await.unwrap();
}

/// The names from `from` up to `to`, each once and in order.
fn names(from: i32, to: i32) -> Value {
    (from..=to).map(|n| n.to_string()).collect()
}

async fn is_live(tab: &Tab<'_>) {
    tab.eventually("window.hub?.status.state", "live").await;
}

async fn clients(hub: &Hub, expected: u64) {
    eventually("streams", expected, async || {
        hub.metric("bellwether_clients").await
    })
    .await;
}

/// The same hub again, where it was.
fn again(hub: &Hub) -> HubOptions {
    HubOptions::default().in_place_of(hub)
}

#[tokio::test]
async fn nothing_is_lost_or_repeated_when_the_hub_is_killed() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    insert(&database, 1, 10).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    follow(&tab, "", "last: 4").await;
    tab.eventually("names", names(7, 10)).await;
    let mut options = again(&hub);
    let mut hub = hub;
    for round in 1..=3 {
        insert(&database, round * 100, round * 100 + 49).await;
        hub.kill().await;
        insert(&database, round * 100 + 50, round * 100 + 99).await;
        tab.eventually("hub.status.state", "reconnecting").await;
        hub = Hub::start_with(&database, options.clone()).await;
        tab.eventually("names.length", 4 + round * 100).await;
        options = again(&hub);
    }
    let mut expected: Vec<String> = (7..=10).map(|n| n.to_string()).collect();
    expected.extend((100..400).map(|n| n.to_string()));
    assert_eq!(tab.eval("names").await, json!(expected));
    tab.eventually(
        "states.join(' ')",
        "live reconnecting live reconnecting live reconnecting live",
    )
    .await;
    assert_eq!(tab.eval("gaps").await, json!([]));
    assert_eq!(tab.troubles().await, [""; 0]);
}

#[tokio::test]
async fn tabs_share_one_stream_and_hand_it_over() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let first = blank(&browser, &hub).await;
    follow(&first, "", "last: 5").await;
    is_live(&first).await;
    insert(&database, 1, 20).await;
    first.eventually("names", names(1, 20)).await;

    // Who joins gets the last five without a stream of its own.
    let second = blank(&browser, &hub).await;
    follow(&second, "", "last: 5").await;
    second.eventually("names", names(16, 20)).await;
    let third = blank(&browser, &hub).await;
    follow(&third, "", "last: 5").await;
    third.eventually("names", names(16, 20)).await;
    is_live(&third).await;
    assert_eq!(hub.metric("bellwether_clients").await, 1);

    // The tab with the stream goes while events come.
    let inserting = async {
        for n in 21..=120 {
            insert(&database, n, n).await;
        }
    };
    let closing = async {
        second.eventually("names.length > 20", true).await;
        first.ask("close", json!({})).await;
    };
    tokio::join!(inserting, closing);
    for tab in [&second, &third] {
        tab.eventually("names.length", 105).await;
        assert_eq!(tab.eval("names").await, names(16, 120));
        is_live(tab).await;
        assert_eq!(tab.eval("gaps").await, json!([]));
        assert_eq!(tab.troubles().await, [""; 0]);
    }
    clients(&hub, 1).await;
}

/// As when a page comes back by the browser's back button: it was away for longer than the
/// tab that holds the stream remembers.
#[tokio::test]
async fn a_tab_that_was_away_for_long_takes_the_others_back() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let first = blank(&browser, &hub).await;
    follow(&first, "", "").await;
    is_live(&first).await;
    let second = blank(&browser, &hub).await;
    follow(&second, "", "").await;
    is_live(&second).await;
    insert(&database, 1, 3).await;
    second.eventually("names", names(1, 3)).await;

    let goes = "window.dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))";
    second.eval(goes).await;
    insert(&database, 4, 2000).await;
    first.eventually("names.length", 2000).await;
    assert_eq!(second.eval("names").await, names(1, 3));
    let comes = "window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))";
    second.eval(comes).await;
    insert(&database, 2001, 2010).await;
    for tab in [&first, &second] {
        tab.eventually("names", names(1, 2010)).await;
        assert_eq!(tab.eval("gaps").await, json!([]));
    }
    clients(&hub, 1).await;
}

#[tokio::test]
async fn a_tab_that_joins_while_events_come_misses_none() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let first = blank(&browser, &hub).await;
    follow(&first, "", "last: 1000").await;
    insert(&database, 1, 1000).await;
    first.eventually("names.length", 1000).await;
    let (told, mut done) = watch::channel(1000);
    let inserting = async {
        let psql = database.connect().await;
        while !told.is_closed() {
            let n = *told.borrow() + 1;
            let insert = "INSERT INTO events (name) VALUES ($1)";
            psql.execute(insert, &[&n.to_string()]).await.unwrap();
            told.send_replace(n);
        }
        *told.borrow()
    };
    let joining = async {
        let mut joined = Vec::new();
        for _ in 0..4 {
            let tab = blank(&browser, &hub).await;
            let before: i32 = *done.borrow_and_update();
            follow(&tab, "", "last: 1000").await;
            tab.eventually("names.length > 0", true).await;
            joined.push((tab, before));
        }
        drop(done);
        joined
    };
    let (last, joined) = tokio::join!(inserting, joining);
    for (tab, before) in joined {
        tab.eventually("names.at(-1)", last.to_string()).await;
        let first = tab.eval("Number(names[0])").await.as_i64().unwrap();
        let first = i32::try_from(first).unwrap();
        assert!(first <= before, "{first} is after {before}");
        assert_eq!(tab.eval("names").await, names(first, last));
    }
    clients(&hub, 1).await;
}

#[tokio::test]
async fn a_tab_that_hangs_loses_the_stream_to_another() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let first = blank(&browser, &hub).await;
    follow(&first, "hung: 1000", "pause: false").await;
    is_live(&first).await;
    let second = blank(&browser, &hub).await;
    follow(&second, "hung: 1000", "pause: false").await;
    is_live(&second).await;
    // Until there is a thirty-first event, nothing else happens in it.
    let hang = "for (let head = 0; head <= 30; ) {
        const request = new XMLHttpRequest();
        request.open('GET', '/v1/status', false);
        request.send();
        head = Number(JSON.parse(request.responseText).head.split('-')[1]);
    }";
    first.ask("begin", json!({"code": hang})).await;
    insert(&database, 1, 30).await;
    second.eventually("names", names(1, 30)).await;
    second.eventually("hub.status.state", "live").await;
    // When it comes to itself it has missed nothing, and has nothing twice.
    insert(&database, 31, 40).await;
    for tab in [&first, &second] {
        tab.eventually("names", names(1, 40)).await;
    }
    clients(&hub, 1).await;
}

#[tokio::test]
async fn a_hidden_tab_lets_go_and_goes_on() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    follow(&tab, "hidden: 200", "").await;
    is_live(&tab).await;
    clients(&hub, 1).await;
    insert(&database, 1, 5).await;
    tab.eventually("names", names(1, 5)).await;

    let other = browser.open("about:blank").await;
    other.front().await;
    tab.eventually("document.hidden", true).await;
    tab.eventually("hub.status.reason", "paused while this tab is hidden")
        .await;
    clients(&hub, 0).await;
    insert(&database, 6, 300).await;
    assert_eq!(tab.eval("names").await, names(1, 5));

    tab.front().await;
    tab.eventually("names", names(1, 300)).await;
    is_live(&tab).await;
    clients(&hub, 1).await;
    assert_eq!(tab.troubles().await, [""; 0]);
}

#[tokio::test]
async fn a_gap_is_told() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    follow(&tab, "", "").await;
    is_live(&tab).await;
    insert(&database, 1, 3).await;
    tab.eventually("names", names(1, 3)).await;
    let cursor = tab.eval("hub.cursor").await;

    // At the same address, a hub on a database that knows nothing of it.
    let another = TestDatabase::create().await;
    let options = again(&hub);
    hub.kill().await;
    let hub = Hub::start_with(&another, options).await;
    tab.eventually("gaps.length", 1).await;
    let gap = tab.eval("gaps[0]").await;
    assert_eq!(
        (&gap["reason"], &gap["from"]),
        (&json!("epoch"), &cursor),
        "{gap}"
    );
    insert(&another, 4, 6).await;
    tab.eventually("names", names(1, 6)).await;
    drop(hub);
}

/// A hub that is there but says nothing, as behind a line that was cut without a word.
#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    follow(&tab, "stale: 300, silence: 1500, blocked: 1500", "").await;
    is_live(&tab).await;
    insert(&database, 1, 3).await;
    tab.eventually("names", names(1, 3)).await;
    kill(hub.pid(), Signal::SIGSTOP).unwrap();
    tab.eventually(
        "states.includes('stale') && hub.status.state",
        "reconnecting",
    )
    .await;
    insert(&database, 4, 6).await;
    kill(hub.pid(), Signal::SIGCONT).unwrap();
    tab.eventually("names", names(1, 6)).await;
}

/// The state of a topic is given to every tab first, also by the tab that holds the stream.
#[tokio::test]
async fn states_come_first() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let psql = database.connect().await;
    let publish = async |state: &str| {
        let publish =
            "SELECT bellwether.publish('events', 'state', to_json($1::text), retain => true)";
        psql.execute(publish, &[&state]).await.unwrap();
    };
    publish("old").await;
    insert(&database, 1, 3).await;
    eventually("they are published", 4, async || {
        hub.metric("bellwether_stream_head").await
    })
    .await;
    let browser = Browser::start().await;
    let first = blank(&browser, &hub).await;
    follow(&first, "", "").await;
    first.eventually("states.join()", "live").await;
    first.eventually("names", json!(["old"])).await;
    insert(&database, 4, 4).await;
    first.eventually("names", json!(["old", "4"])).await;
    let second = blank(&browser, &hub).await;
    follow(&second, "", "").await;
    second.eventually("names", json!(["old"])).await;
    publish("new").await;
    for tab in [&first, &second] {
        tab.eventually("names.at(-1)", "new").await;
    }
    let third = blank(&browser, &hub).await;
    follow(&third, "", "").await;
    third.eventually("names", json!(["new"])).await;
    clients(&hub, 1).await;
}

/// As behind a proxy that holds back what does not end: plain requests are answered.
#[tokio::test]
async fn where_streams_are_blocked_it_asks_now_and_then() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    insert(&database, 1, 1000).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    tab.ask("block", json!({"path": "/v1/stream"})).await;
    follow(&tab, "blocked: 300, poll: 600", "last: 5").await;
    tab.eventually("names", names(996, 1000)).await;
    let reason = "streams are blocked on the way; asking every 1 s";
    tab.eventually("hub.status.reason", reason).await;
    assert_eq!(tab.eval("hub.status.state").await, "stale");
    // More than one page.
    insert(&database, 1001, 2300).await;
    tab.eventually("names", names(996, 2300)).await;
    assert_eq!(hub.metric("bellwether_clients").await, 0);

    // Somebody has mended it.
    tab.ask("allow", json!({})).await;
    is_live(&tab).await;
    insert(&database, 2301, 2310).await;
    tab.eventually("names", names(996, 2310)).await;
    clients(&hub, 1).await;
}

/// Though there is more in what it has read already.
#[tokio::test]
async fn closed_it_tells_nothing_more() {
    let browser = Browser::start().await;
    for path in ["/none", "/v1/stream"] {
        let database = TestDatabase::create().await;
        let hub = Hub::start(&database).await;
        let tab = blank(&browser, &hub).await;
        tab.ask("block", json!({"path": path})).await;
        follow(&tab, "blocked: 300, poll: 600", "").await;
        // Live, or asking.
        tab.eventually("['live', 'stale'].includes(hub.status.state)", true)
            .await;
        tab.eval("hub.on('3', () => hub.close())").await;
        insert(&database, 1, 20).await;
        tab.eventually("hub.status.reason", "closed by the page")
            .await;
        assert_eq!(tab.eval("names").await, names(1, 3), "{path} blocked");
    }
}

#[tokio::test]
async fn a_new_token_keeps_the_place() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    tab.eval("window.token = 'one'; window.asked = []").await;
    let token =
        "token: ({ renew }) => { asked.push(renew); return renew ? (token = 'two') : token }";
    follow(&tab, "", token).await;
    is_live(&tab).await;
    insert(&database, 1, 3).await;
    tab.eventually("names", names(1, 3)).await;
    assert_eq!(tab.eval("asked").await, json!([false]));

    // The token has run out when it comes back.
    let refuse = json!({"path": "/v1/stream", "token": "one"});
    tab.ask("refuse", refuse).await;
    let options = again(&hub);
    hub.kill().await;
    insert(&database, 4, 6).await;
    let hub = Hub::start_with(&database, options).await;
    tab.eventually("names", names(1, 6)).await;
    is_live(&tab).await;
    assert_eq!(tab.eval("asked.filter(Boolean).length").await, 1);
    assert_eq!(tab.eval("token").await, "two");
    drop(hub);
}

#[tokio::test]
async fn what_the_hub_refuses_is_not_tried_again() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    let connect =
        r#"import("/bellwether.js").then(({ connect }) => { window.hub = connect("a..b") })"#;
    tab.eval(connect).await;
    tab.eventually("hub.status.state", "closed").await;
    let reason = tab.eval("hub.status.reason").await;
    let reason = reason.as_str().unwrap();
    assert!(
        reason.starts_with("400: \"a..b\" is no topic pattern"),
        "{reason}"
    );
}

/// A page of somebody on the way, where a stream was asked for.
#[tokio::test]
async fn what_is_no_stream_is_as_good_as_blocked() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    insert(&database, 1, 3).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    let portal = json!({"path": "/v1/stream", "type": "text/html", "body": "Please log in"});
    tab.ask("answer", portal).await;
    follow(&tab, "blocked: 300, poll: 600", "last: 5").await;
    tab.eventually("names", names(1, 3)).await;
    insert(&database, 4, 6).await;
    tab.eventually("names", names(1, 6)).await;
    let reason = "streams are blocked on the way; asking every 1 s";
    tab.eventually("hub.status.reason", reason).await;
    tab.ask("allow", json!({})).await;
    is_live(&tab).await;
    insert(&database, 7, 9).await;
    tab.eventually("names", names(1, 9)).await;
}

/// Pauses are random below a limit that doubles from 1 s to 30 s, and begins anew after a
/// connection that lasted. Here nothing is waited for, and what would have been is in `pauses`.
#[tokio::test]
async fn it_backs_off_with_full_jitter() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    tab.eval(
        "window.pauses = []; window.chance = 1; Math.random = () => chance;
        const wait = setTimeout;
        window.setTimeout = (then, pause) => wait(then, pauses.push(pause) < 14 ? 0 : 3_600_000)",
    )
    .await;
    follow(&tab, "backoff: [1000, 30000]", "").await;
    is_live(&tab).await;
    let lasted = "performance.now() - hub.status.since + performance.timeOrigin > 200";
    tab.eventually(lasted, true).await;
    assert_eq!(tab.eval("pauses").await, json!([]));
    let options = again(&hub);
    hub.kill().await;
    tab.eventually("pauses.length", 14).await;
    let limits = [1, 2, 4, 8, 16, 30, 30].map(|seconds| seconds * 1000);
    assert_eq!(
        tab.eval("pauses.slice(0, 7)").await,
        json!(limits),
        "the limits"
    );

    let hub = Hub::start_with(&database, options).await;
    tab.eval("chance = 0.25; pauses.length = 0; window.dispatchEvent(new Event('online'))")
        .await;
    is_live(&tab).await;
    tab.eventually(lasted, true).await;
    tab.eval("pauses.length = 0").await;
    hub.kill().await;
    tab.eventually("pauses.length", 14).await;
    let quarters = limits.map(|limit| limit / 4);
    assert_eq!(
        tab.eval("pauses.slice(0, 7)").await,
        json!(quarters),
        "a quarter of each"
    );
}

/// What is said in bellwether.d.ts, by a clock that is put forward.
#[tokio::test]
async fn silence_is_told_after_20_s_and_ended_after_45() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let tab = blank(&browser, &hub).await;
    tab.eval("window.later = 0; window.looks = 0; const now = Date.now; Date.now = () => (looks++, now() + later)")
        .await;
    let connect = r#"import("/bellwether.js").then(({ connect }) => {
        window.states = [];
        window.hub = connect("events");
        hub.addEventListener("status", ({ detail }) => states.push(`${detail.state} ${detail.reason}`));
    })"#;
    tab.eval(connect).await;
    is_live(&tab).await;
    kill(hub.pid(), Signal::SIGSTOP).unwrap();
    tab.eval("later += 15_000; looks = 0").await;
    tab.eventually("looks > 1", true).await;
    assert_eq!(tab.eval("hub.status.state").await, "live");
    tab.eval("later += 6_000").await;
    tab.eventually("hub.status.reason", "nothing heard for 20 s")
        .await;
    tab.eval("later += 25_000").await;
    tab.eventually("states.at(-1)", "reconnecting nothing heard for 45 s")
        .await;
    kill(hub.pid(), Signal::SIGCONT).unwrap();
    is_live(&tab).await;
}

/// A gap is told in all tabs, by the one that holds the stream.
#[tokio::test]
async fn a_gap_is_told_in_every_tab() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let browser = Browser::start().await;
    let mut tabs = Vec::new();
    for _ in 0..2 {
        let tab = blank(&browser, &hub).await;
        follow(&tab, "", "").await;
        is_live(&tab).await;
        tabs.push(tab);
    }
    insert(&database, 1, 3).await;
    for tab in &tabs {
        tab.eventually("names", names(1, 3)).await;
    }
    let another = TestDatabase::create().await;
    let options = again(&hub);
    hub.kill().await;
    let hub = Hub::start_with(&another, options).await;
    insert(&another, 4, 6).await;
    for tab in &tabs {
        tab.eventually("gaps.map(({ reason }) => reason)", json!(["epoch"]))
            .await;
        tab.eventually("names", names(1, 6)).await;
    }
    clients(&hub, 1).await;
}
