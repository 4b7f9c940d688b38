use http::Request;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time};

use crate::harness::{
    Client, Delivery, Hub, HubOptions, Proxy, ProxyKind, TestDatabase, eventually, try_request,
    within,
};
use crate::proxies::HASTY;

const CLIENTS: usize = 12;
const PUBLISHERS: usize = 3;

/// What all of them can see.
#[derive(Debug, Default)]
struct Orders {
    /// Publishers stop.
    is_over: AtomicBool,
    /// Nothing may fail now, as nothing dies.
    is_calm: AtomicBool,
}

/// Publishes one event after the other through the proxy, each until it is answered: with its
/// idempotency key, so that it is published once however often that takes.
async fn publish(proxy: SocketAddr, name: usize, orders: Arc<Orders>) -> usize {
    let mut count = 0;
    while !orders.is_over.load(Ordering::Relaxed) {
        count += 1;
        let event = json!({"topic": "t", "event": "n", "data": [name, count]}).to_string();
        loop {
            let was_calm = orders.is_calm.load(Ordering::Relaxed);
            let request = Request::post("/v1/events")
                .header("Host", "test")
                .header("Content-Type", "application/json")
                .header("Idempotency-Key", format!("{name}-{count}"))
                .body(event.clone().into());
            let answer = try_request(proxy, request.unwrap()).await;
            let status = answer.map_or(0, |(status, ..)| status);
            if status == 201 {
                break;
            }
            let is_calm = was_calm && orders.is_calm.load(Ordering::Relaxed);
            assert!(!is_calm, "a request failed ({status}) though nothing died");
            time::sleep(Duration::from_millis(20)).await;
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    count
}

/// Follows through the proxy, from hub to hub, up to the event with this data.
async fn follow(proxy: SocketAddr, epoch: String, last: Value) -> Vec<Value> {
    let mut cursor = format!("{epoch}-0");
    let mut seen = Vec::new();
    loop {
        let stream = Client::try_connect(proxy, "topic=t", Some(&cursor)).await;
        if let Ok(mut stream) = stream
            && stream.status == 200
        {
            loop {
                match stream.next().await {
                    Delivery::Retry(_) => {}
                    Delivery::End => break,
                    Delivery::Event(event) if event.name == "heartbeat" => {}
                    Delivery::Event(event) => {
                        assert_eq!(event.name, "n", "no gap: {}", event.data);
                        seen.push(serde_json::from_str(&event.data).unwrap());
                        assert_eq!(
                            event.id,
                            format!("{epoch}-{}", seen.len()),
                            "neither hole nor double"
                        );
                        if seen.last() == Some(&last) {
                            return seen;
                        }
                    }
                }
            }
            stream.cursor().clone_into(&mut cursor);
        }
        time::sleep(Duration::from_millis(50)).await;
    }
}

async fn clients(hub: &Hub) -> u64 {
    hub.metric("bellwether_clients").await
}

/// Three hubs behind one proxy, of which one is killed, one freezes, one is drained and then all
/// are restarted, one after the other, while events are published and followed.
async fn survive(kind: ProxyKind) {
    let database = TestDatabase::create().await;
    // Notice for as long as a health check needs.
    let options = HubOptions::args(&["--heartbeat", "500ms", "--drain-delay", "3s"]);
    let mut hubs = Vec::new();
    for _ in 0..3 {
        hubs.push(Hub::start_with(&database, options.clone()).await);
    }
    let addresses: Vec<SocketAddr> = hubs.iter().map(|hub| hub.own).collect();
    // HAProxy's health check finds out sooner than any of its timeouts.
    let hasty: &[_] = match kind {
        ProxyKind::Haproxy => &[],
        ProxyKind::Nginx | ProxyKind::Caddy => &[HASTY],
    };
    let front = Proxy::start_with(kind, &addresses, hasty).await;
    let proxy = front.address;
    let again = async |nth: usize| {
        let listen = addresses[nth].to_string();
        let options = HubOptions {
            listen,
            ..options.clone()
        };
        Hub::spawn(&database.url, options)
            .await
            .expect("it gets ready again")
    };
    let cursor = hubs[0]
        .stream("topic=t")
        .await
        .opened()
        .await
        .cursor()
        .to_owned();
    let epoch = cursor.split_once('-').unwrap().0.to_owned();

    let orders = Arc::new(Orders::default());
    let mut publishing = JoinSet::new();
    for name in 0..PUBLISHERS {
        publishing.spawn(publish(proxy, name, Arc::clone(&orders)));
    }
    let mut following = JoinSet::new();
    let last = json!("last");
    for _ in 0..CLIENTS {
        following.spawn(follow(proxy, epoch.clone(), last.clone()));
    }
    let all = CLIENTS as u64;
    let spread = async |hubs: &[Hub]| {
        let mut sum = 0;
        for hub in hubs {
            sum += clients(hub).await;
        }
        sum
    };
    eventually("all follow", all, async || spread(&hubs).await).await;
    assert!(clients(&hubs[2]).await > 0, "each hub has some");

    hubs.pop().unwrap().kill().await;
    eventually("they have gone to the others", all, async || {
        spread(&hubs).await
    })
    .await;
    hubs.push(again(2).await);

    let frozen = hubs[0].pid();
    kill(frozen, Signal::SIGSTOP).unwrap();
    let others = async || spread(&hubs[1..]).await;
    eventually("they have left the one that is silent", all, others).await;
    kill(frozen, Signal::SIGCONT).unwrap();
    eventually("it knows that they left", all, async || spread(&hubs).await).await;

    // From here on nothing dies, so nothing may fail.
    let gets_streams = async |hub: &Hub| {
        eventually("new streams come to it", true, async || {
            let visitor = Client::try_connect(proxy, "topic=visit", None).await;
            drop(visitor);
            hub.metric("bellwether_streams_opened_total{transport=\"direct\"}")
                .await
                > 0
        })
        .await;
    };
    gets_streams(&hubs[2]).await;
    orders.is_calm.store(true, Ordering::Relaxed);
    for nth in 0..3 {
        let mut hub = hubs.remove(0);
        hub.terminate();
        assert_eq!(hub.exit_code().await, Some(0));
        eventually("they have gone to the others", all, async || {
            spread(&hubs).await
        })
        .await;
        hubs.push(again(nth).await);
        gets_streams(&hubs[2]).await;
    }

    orders.is_over.store(true, Ordering::Relaxed);
    let published: usize = within("the publishers", publishing.join_all())
        .await
        .into_iter()
        .sum();
    let psql = database.connect().await;
    psql.batch_execute("SELECT bellwether.publish('t', 'n', '\"last\"')")
        .await
        .unwrap();
    let mut stories = within("the clients", following.join_all()).await;
    let story = stories.pop().unwrap();
    assert!(
        stories.iter().all(|other| *other == story),
        "the same for all"
    );
    assert_eq!(story.len(), published + 1);
    let distinct: BTreeSet<String> = story.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), published + 1, "each once");
}

#[tokio::test]
async fn three_behind_haproxy() {
    survive(ProxyKind::Haproxy).await;
}

#[tokio::test]
async fn three_behind_caddy() {
    survive(ProxyKind::Caddy).await;
}

#[tokio::test]
async fn three_behind_nginx() {
    survive(ProxyKind::Nginx).await;
}
