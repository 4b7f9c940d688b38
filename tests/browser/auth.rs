//! Tokens in a browser: renewed, in pages of other origins, and in our own pages.

use auth::Signer;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{convert::Infallible, time::SystemTime};
use tokio::net::TcpListener;

use super::{Browser, Tab};
use crate::harness::{Hub, HubOptions, TestDatabase, eventually};

const SECRET: &str = "a secret of the browser's tests, long enough";

async fn locked(database: &TestDatabase, args: &[&str]) -> Hub {
    let args = [&["--auth-secret", SECRET], args].concat();
    Hub::start_with(database, HubOptions::args(&args)).await
}

fn token(subscribe: &[&str], life: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let granted = json!({"subscribe": subscribe, "publish": subscribe});
    let claims = json!({"iat": now, "exp": now + life, "bellwether": granted});
    Signer::secret(SECRET).unwrap().sign(&claims).unwrap()
}

/// An origin of its own, with a page that does nothing by itself.
async fn app() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |_: Request<Incoming>| {
                let page = Full::<bytes::Bytes>::from("<!doctype html><title>app</title>");
                let answer = Response::builder()
                    .header("Content-Type", "text/html")
                    .body(page);
                Ok::<_, Infallible>(answer.unwrap())
            });
            let io = TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    origin
}

/// Follows `events` of a hub. The names of what comes are in `names`.
async fn follow(tab: &Tab<'_>, hub: &str, options: &str) {
    let code = format!(
        r#"import("{hub}/bellwether.js").then(({{ connect }}) => {{
            Object.assign(window, {{ names: [], states: [] }});
            const times = {{ backoff: [50, 200] }};
            window.hub = connect("events", {{ hub: "{hub}", times, {options} }});
            hub.on("*", ({{ name }}) => names.push(name));
            hub.addEventListener("status", ({{ detail }}) => states.push(detail.reason || detail.state));
        }})"#
    );
    tab.eval(&code).await;
}

/// Inserts a row of this name.
async fn insert(database: &TestDatabase, name: usize) {
    let insert = "INSERT INTO events (name) VALUES ($1)";
    let psql = database.connect().await;
    psql.execute(insert, &[&name.to_string()]).await.unwrap();
}

#[tokio::test]
async fn a_stream_renews_its_token_and_keeps_its_place() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let browser = Browser::start().await;
    let tab = browser
        .open(&format!("http://{}/uptime", hub.address))
        .await;
    let tokens = json!([token(&["events"], 2), token(&["events"], 600)]);
    tab.eval(&format!("window.tokens = {tokens}; window.asked = []"))
        .await;
    let option =
        "token: ({ renew }) => { asked.push(renew); if (renew) tokens.shift(); return tokens[0]; }";
    follow(&tab, "", option).await;
    tab.eventually("hub.status.state", "live").await;
    // Events come all the time, also while it is away.
    let mut last = 0;
    eventually("a new token", json!([false, true]), async || {
        last += 1;
        insert(&database, last).await;
        tab.eval("asked").await
    })
    .await;
    insert(&database, last + 1).await;
    let names: Value = (1..=last + 1).map(|name| name.to_string()).collect();
    tab.eventually("names", names).await;
    tab.eventually("hub.status.state", "live").await;
    let states = tab.eval("states").await;
    assert_eq!(states, json!(["live", "the token has expired", "live"]));
}

#[tokio::test]
async fn pages_of_other_origins_that_are_listed() {
    let database = TestDatabase::create().await;
    let (listed, stranger) = (app().await, app().await);
    let hub = locked(
        &database,
        &["--allow-origin", &listed, "--auth-cookie", "session"],
    )
    .await;
    let address = format!("http://{}", hub.address);
    let browser = Browser::start().await;
    let token = token(&["events"], 600);
    let by_header = format!("token: () => '{token}'");
    let tab = browser.open(&listed).await;
    follow(&tab, &address, &by_header).await;
    tab.eventually("hub.status.state", "live").await;
    insert(&database, 1).await;
    tab.eventually("names", json!(["1"])).await;

    // The client loads everywhere; what is behind the hub's door does not.
    let other = browser.open(&stranger).await;
    follow(&other, &address, &by_header).await;
    other
        .eventually("hub.status.reason", "the hub cannot be reached")
        .await;

    // With a cookie, which a browser sends to all ports of a host: by our client and without it.
    for (tab, may) in [(&tab, true), (&other, false)] {
        tab.front().await;
        let code = format!(
            r#"document.cookie = "session={token}"; hub.close(); window.opened = [];
            window.source = new EventSource("{address}/v1/stream?topic=events&last=1", {{ withCredentials: true }});
            source.onerror = () => opened.push("error");
            source.addEventListener("1", () => opened.push("event"));"#
        );
        tab.eval(&code).await;
        let expected = if may { "event" } else { "error" };
        tab.eventually("opened[0]", expected).await;
        tab.eval("source.close()").await;
    }
    tab.front().await;
    follow(&tab, &address, "last: 1, credentials: 'include'").await;
    tab.eventually("names", json!(["1"])).await;
    // Nor does a page that may not read get anything published.
    let post = format!(
        r#"fetch("{address}/v1/events", {{ method: "POST", credentials: "include",
            headers: {{ "content-type": "application/json" }},
            body: '{{"topic": "events", "event": "forged", "data": 1}}' }}).then(({{ status }}) => status, () => "refused")"#
    );
    let form = post.replace("application/json", "text/plain");
    assert_eq!(other.eval(&post).await, "refused", "the preflight is");
    assert_eq!(
        other.eval(&form).await,
        "refused",
        "as its answer cannot be read"
    );
    assert_eq!(tab.eval(&post).await, 201);
    tab.eventually("names", json!(["1", "forged"])).await;
}

/// Each organisation sees its own, however it asks.
#[tokio::test]
async fn the_uptime_page_of_an_organisation() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let psql = database.connect().await;
    psql.batch_execute(include_str!("../../sql/demo/uptime.sql"))
        .await
        .unwrap();
    psql.batch_execute("SELECT demo.summarise()").await.unwrap();
    let browser = Browser::start().await;
    let token = token(&["org.1.>"], 600);
    let address = format!("http://{}", hub.address);
    let tab = browser
        .open(&format!("{address}/uptime?org=1#token={token}"))
        .await;
    let state = "document.querySelector('connection-badge').dataset.state";
    tab.eventually(state, "live").await;
    tab.eventually(
        "document.querySelector('#subtitle').textContent",
        "Northwind Freight",
    )
    .await;
    // Nobody can read it over his shoulder, and a copied address holds none.
    assert_eq!(
        tab.eval("location.href").await,
        format!("{address}/uptime?org=1")
    );
    // What it may not is not shown.
    let theirs = browser
        .open(&format!("{address}/uptime?org=2#token={token}"))
        .await;
    theirs.eventually(state, "closed").await;
    let badge = "document.querySelector('connection-badge').textContent.includes('403')";
    theirs.eventually(badge, true).await;
    let title = "document.querySelector('#subtitle').textContent";
    assert_eq!(theirs.eval(title).await, "");
    // Asked for all, it is its own.
    let all = "fetch('/v1/events?topic=org.*.summary&last=100', { headers: { authorization: `Bearer ${sessionStorage['bellwether.token']}` } })
        .then((answer) => answer.json()).then(({ events }) => events.map(({ topic }) => topic))";
    eventually("its own", json!(["org.1.summary"]), async || {
        tab.eval(all).await
    })
    .await;
}

/// Who has no token is asked for one, in the page.
#[tokio::test]
async fn the_inspector_asks_for_a_token() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let browser = Browser::start().await;
    let tab = browser.open(&format!("http://{}/", hub.address)).await;
    let field = "document.querySelector('dialog input')";
    tab.eventually(
        &format!("{field} !== null && document.activeElement === {field}"),
        true,
    )
    .await;
    let typed = token(&["test.>"], 3);
    tab.ask("type", json!({"text": typed})).await;
    tab.press("Enter").await;
    let state = "document.querySelector('connection-badge').dataset.state";
    tab.eventually(state, "live").await;
    tab.eval("document.querySelector('#send').elements.topic.value = 'test.it'")
        .await;
    tab.eval("document.querySelector('#send button').click()")
        .await;
    tab.eventually("document.querySelectorAll('#rows tr').length", 1)
        .await;
    // When that has expired it asks again, and goes on.
    tab.eventually(&format!("{field} !== null"), true).await;
    let psql = database.connect().await;
    psql.batch_execute("SELECT bellwether.publish('test.it', 'meanwhile', '{}')")
        .await
        .unwrap();
    psql.batch_execute("SELECT bellwether.publish('other', 'hidden', '{}')")
        .await
        .unwrap();
    tab.ask("type", json!({"text": token(&["test.>"], 600)}))
        .await;
    tab.press("Enter").await;
    tab.eventually("document.querySelectorAll('#rows tr').length", 2)
        .await;
    tab.eventually(state, "live").await;
    let shown = tab
        .eval("document.querySelector('#rows').textContent")
        .await;
    let shown = shown.as_str().unwrap();
    assert!(
        shown.contains("meanwhile") && !shown.contains("hidden"),
        "{shown}"
    );
}
