use http::Request;
use std::time::Duration;
use tokio::task::JoinSet;

use crate::harness::{Hub, HubOptions, TestDatabase, eventually, get, request_whole};

/// The table is locked, as by a migration that takes its time.
#[tokio::test]
async fn what_cannot_be_answered_is_refused_and_streams_live_on() {
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--ring-events", "4", "--heartbeat", "200ms"]);
    let hub = Hub::start_with(&database, options).await;
    let mut stream = hub.stream("topic=%3E").await;
    stream.opened().await;
    database.insert(20).await;
    let events = stream.events(20).await;
    let (epoch, _) = events[0].id.split_once('-').unwrap();

    let locker = database.connect().await;
    let lock = "BEGIN; LOCK TABLE bellwether.event IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await.unwrap();
    let post = async |address| {
        let request = Request::post("/v1/events")
            .header("Host", "test")
            .header("Content-Type", "application/json")
            .body(r#"{"topic": "a", "event": "posted", "data": 1}"#.into())
            .unwrap();
        request_whole(address, request).await.0
    };
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        let (address, page) = (hub.address, format!("/v1/events?topic=%3E&after={epoch}-1"));
        requests.spawn(async move { post(address).await });
        requests.spawn(async move { get(address, &page).await.0 });
    }
    // They are waited for as long as it takes, by the hub as by this test: streams go on.
    let mut heartbeats = 0;
    while !requests.is_empty() {
        tokio::select! {
            done = requests.join_next() => assert_eq!(done.unwrap().unwrap(), 503),
            event = stream.event() => {
                assert_eq!(event.name, "heartbeat");
                heartbeats += 1;
            }
        }
    }
    assert!(heartbeats > 10, "{heartbeats}");
    // Nobody waits there for what nobody waits for here.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bellwether'
        AND datname = current_database() AND query ~ 'publish_requests' AND state = 'active'";
    eventually("nobody waits for the lock", 0, async || -> i64 {
        locker.query_one(waiting, &[]).await.unwrap().get(0)
    })
    .await;

    locker.batch_execute("COMMIT").await.unwrap();
    eventually("it publishes again", 201, async || post(hub.address).await).await;
    let page = format!("/v1/events?topic=events&after={epoch}-1");
    let (status, text) = get(hub.address, &page).await;
    assert_eq!(status, 200, "{text}");
    loop {
        let event = stream.event().await;
        if event.name == "posted" {
            break;
        }
        assert_eq!(event.name, "heartbeat");
    }
    // Of those that were refused, nothing was published after all.
    assert!(stream.is_quiet_for(Duration::from_secs(2)).await);
}
