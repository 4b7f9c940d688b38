use serde_json::json;

use super::Browser;
use crate::harness::{Authority, Hub, HubOptions, TestDatabase};

/// Over HTTP/1.1 a browser has six connections to a server, and so six streams.
#[tokio::test]
async fn a_page_has_ten_streams_over_http2() {
    let database = TestDatabase::create().await;
    let authority = Authority::new();
    authority.write(&["127.0.0.1"]);
    let options = HubOptions {
        args: authority.flags().into(),
        ..HubOptions::default()
    };
    let hub = Hub::spawn(&database.url, options).await.unwrap();
    database.create_events_table().await;
    let browser = Browser::start_with(&["--ignore-certificate-errors"]).await;
    let tab = browser.open(&format!("https://{}/", hub.address)).await;
    let protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol";
    assert_eq!(tab.eval(protocol).await, "h2");
    tab.eval(
        "globalThis.streams = [];
        for (let i = 0; i < 10; i++) {
            const stream = new EventSource(`/v1/stream?topic=events&event=n&event=x${i}`);
            const of = { stream, opened: false, events: 0 };
            stream.addEventListener('open', () => (of.opened = true));
            stream.addEventListener('n', () => (of.events += 1));
            streams.push(of);
        }",
    )
    .await;
    let count = |what: &str| format!("streams.map((of) => of.{what})");
    tab.eventually(&count("opened"), json!(vec![true; 10]))
        .await;
    database.insert(3).await;
    tab.eventually(&count("events"), json!(vec![3; 10])).await;
    tab.eval("streams.forEach((of) => of.stream.close())").await;
    assert_eq!(tab.troubles().await, [""; 0]);
}
