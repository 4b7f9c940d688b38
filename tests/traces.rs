use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, task::JoinSet};

use crate::harness::{
    Hub, HubOptions, TestDatabase, bellwether, eventually, request_whole, within,
};

/// A collector: what it was sent, by OTLP over HTTP.
#[derive(Clone, Debug, Default)]
struct Collector {
    sent: Arc<Mutex<Vec<Bytes>>>,
}

impl Collector {
    async fn listen(&self, address: &str) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let collector = collector.clone();
                let service = service_fn(move |request| collector.clone().take(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        assert_eq!(request.uri().path(), "/v1/traces");
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let body = request.into_body().collect().await.unwrap();
        self.sent.lock().unwrap().push(body.to_bytes());
        Ok(Response::new(Full::default()))
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let sent = self.sent.lock().unwrap();
        let decode = |bytes: &Bytes| ExportTraceServiceRequest::decode(bytes.clone()).unwrap();
        sent.iter().map(decode).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests().into_iter();
        let resources = requests.flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

fn attributes(of: &[KeyValue]) -> BTreeMap<&str, Value> {
    let value = |attribute: &KeyValue| match &attribute.value.as_ref()?.value {
        Some(any_value::Value::StringValue(text)) => Some(json!(text)),
        Some(any_value::Value::IntValue(number)) => Some(json!(number)),
        other => panic!("{attribute:?} is {other:?}"),
    };
    of.iter()
        .map(|it| (it.key.as_str(), value(it).unwrap()))
        .collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn publication(text: &str) -> http::request::Builder {
    Request::post("/v1/events")
        .header("Host", "test")
        .header("Content-Type", "application/json")
        .header("Idempotency-Key", text)
}

/// All that is told of: requests, commits that several share, looks, history, snapshots. And
/// nothing that nobody but who is asked should know.
#[tokio::test]
async fn what_a_hub_does_is_told() {
    const CALLER: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const CALLERS_SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
    const PUBLISHERS: usize = 60;
    const MANY: i32 = 300;
    let collector = Collector::default();
    let endpoint = format!("http://{}/", collector.listen("127.0.0.1:0").await);
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hub.toml");
    let snapshot = r#"
        [[snapshot]]
        name = "figures"
        every = "1h"
        topic = "s"
        sql = "SELECT 'payload4711' AS text"
    "#;
    std::fs::write(&config, snapshot).unwrap();
    let args = [
        "--otlp-endpoint",
        &endpoint,
        "--config",
        config.to_str().unwrap(),
        "--ring-events",
        "10",
        "--auth-secret",
        "a secret of the tests, payload4711 in it",
    ];
    let token = {
        let mut token = bellwether();
        token
            .args(["token", "--subscribe", ">", "--publish", ">"])
            .args(["--expires", "5m"])
            .env("BELLWETHER_AUTH_SECRET", args[7]);
        let output = within("a token", token.output()).await.unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let bearer = format!("Bearer {token}");
    let mut hub = Hub::start_with(&database, HubOptions::args(&args)).await;

    // Many at once, so that some share a transaction.
    let mut publishing = JoinSet::new();
    for nth in 0..PUBLISHERS {
        let event = json!({"topic": "a", "event": "n", "data": "payload4711"}).to_string();
        let mut request = publication(&format!("key4711-{nth}")).header("Authorization", &bearer);
        if nth == 0 {
            let parent = format!("00-{CALLER:032x}-{CALLERS_SPAN:016x}-01");
            request = request.header("traceparent", parent);
        }
        let request = request.body(event.into()).unwrap();
        publishing.spawn(request_whole(hub.address, request));
    }
    for (status, _, text) in within("the publishers", publishing.join_all()).await {
        assert_eq!(status, 201, "{text}");
    }
    // More than comes with a look.
    let mut stream = hub.stream(&format!("topic=events&token={token}")).await;
    stream.opened().await;
    database.insert(MANY).await;
    stream.events(MANY as usize).await;
    drop(stream);
    // From before the ring.
    let path = format!("/v1/events?topic=a&last=50&token={token}");
    let ask = |path: &str| Request::get(path).header("Host", "test");
    let page = ask(&path).body(Full::default()).unwrap();
    assert_eq!(request_whole(hub.address, page).await.0, 200);
    let stream = format!("topic=a&last=1&token={token}");
    let mut stream = hub.stream(&stream).await;
    stream.events(1).await;
    let refused = ask("/v1/status").body(Full::default()).unwrap();
    assert_eq!(request_whole(hub.address, refused).await.0, 401);
    let nothing = ask("/payload4711").body(Full::default()).unwrap();
    assert_eq!(request_whole(hub.address, nothing).await.0, 404);
    let (status, text) = crate::harness::get(hub.address, "/readyz").await;
    assert_eq!(status, 200, "{text}");
    // What is left is sent at the end.
    hub.terminate();
    assert_eq!(hub.exit_code().await, Some(0));

    for bytes in collector.sent.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(bytes);
        for secret in ["4711", &token, "Bearer"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    let requests = collector.requests();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes(&resource.attributes);
    assert_eq!(resource["service.name"], "bellwether");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));

    let spans = collector.spans();
    let is_root = |span: &Span| span.parent_span_id.is_empty();
    let children = |of: &Span, name: &str| -> Vec<Span> {
        let named = named(&spans, name).into_iter();
        let own = named.filter(|span| span.parent_span_id == of.span_id);
        own.inspect(|span| assert_eq!(span.trace_id, of.trace_id))
            .cloned()
            .collect()
    };
    let posts = named(&spans, "POST /v1/events");
    assert_eq!(posts.len(), PUBLISHERS);
    let traces: BTreeSet<_> = posts.iter().map(|span| &span.trace_id).collect();
    assert_eq!(traces.len(), PUBLISHERS, "each is a trace of its own");
    for post in &posts {
        assert_eq!(post.kind(), SpanKind::Server);
        let expected = [
            ("http.request.method", json!("POST")),
            ("http.response.status_code", json!(201)),
            ("http.route", json!("/v1/events")),
        ];
        assert_eq!(attributes(&post.attributes), BTreeMap::from(expected));
        assert_eq!(children(post, "publish").len(), 1);
    }
    let continued: Vec<_> = posts.iter().filter(|span| !is_root(span)).collect();
    assert_eq!(continued.len(), 1, "one had a caller that told of itself");
    assert_eq!(continued[0].trace_id, CALLER.to_be_bytes());
    assert_eq!(continued[0].parent_span_id, CALLERS_SPAN.to_be_bytes());

    // Each publication is in one commit: that is a part of it, or linked to it.
    let mut committed = Vec::new();
    for commit in named(&spans, "commit") {
        let requests = attributes(&commit.attributes)["requests"].as_u64().unwrap();
        let mut own = vec![commit.parent_span_id.clone()];
        own.extend(commit.links.iter().map(|link| link.span_id.clone()));
        assert_eq!(own.len() as u64, requests);
        committed.extend(own);
    }
    committed.sort();
    let mut published: Vec<_> = named(&spans, "publish")
        .iter()
        .map(|span| span.span_id.clone())
        .collect();
    published.sort();
    assert_eq!(committed, published);

    // Looks that found something, and no others; what did not come with them is read.
    let looks = named(&spans, "look");
    let found: u64 = looks
        .iter()
        .map(|look| attributes(&look.attributes)["events"].as_u64().unwrap())
        .sum();
    let published = PUBLISHERS as u64 + MANY as u64;
    assert_eq!(found, published + 1, "and the snapshot");
    let mut read = 0;
    for look in &looks {
        assert!(is_root(look));
        for page in children(look, "read") {
            read += attributes(&page.attributes)["events"].as_u64().unwrap();
            assert!(look.end_time_unix_nano >= page.end_time_unix_nano);
        }
    }
    assert!(read <= found && read > 0, "{read} of {found}");

    let pages = named(&spans, "GET /v1/events");
    assert_eq!(pages.len(), 1);
    assert!(!children(pages[0], "history page").is_empty());
    let streams = named(&spans, "GET /v1/stream");
    assert_eq!(streams.len(), 2, "when it is open, not when it ends");
    let status = attributes(&streams[0].attributes)["http.response.status_code"].clone();
    assert_eq!(status, 200);
    let refused = named(&spans, "GET /v1/status");
    assert_eq!(
        attributes(&refused[0].attributes)["http.response.status_code"],
        401
    );
    assert_eq!(named(&spans, "GET").len(), 1, "a path nobody knows");
    let names: BTreeSet<_> = spans.iter().map(|span| &*span.name).collect();
    assert!(
        names.iter().all(|name| !name.contains("ready")),
        "{names:?}"
    );
    let snapshots = named(&spans, "snapshot");
    assert_eq!(snapshots.len(), 1);
    assert_eq!(attributes(&snapshots[0].attributes)["name"], "figures");
}

/// A collector that is away costs a warning, and no event; when it comes it is told.
#[tokio::test]
async fn a_collector_may_be_away() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let database = TestDatabase::create().await;
    // As OpenTelemetry's own variables have it.
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_SERVICE_NAME", "flock".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ];
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut hub = bellwether()
        .args(["serve", "--listen", "127.0.0.1:0", "--database-url"])
        .arg(&database.url)
        .envs(env)
        .stdout(std::process::Stdio::piped())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let at = crate::operations::address_of(&mut hub).await;
    let ask = async || crate::harness::get(at, "/v1/events?topic=a").await.0;
    let said = || std::fs::read_to_string(log.path()).unwrap();
    let warning = "traces are lost until the collector takes them";
    eventually("it says so", true, async || {
        assert_eq!(ask().await, 200);
        said().contains(warning)
    })
    .await;
    let collector = Collector::default();
    collector.listen(&address.to_string()).await;
    eventually("it says that it is back", true, async || {
        assert_eq!(ask().await, 200);
        said().contains("the collector takes traces again")
    })
    .await;
    assert_eq!(said().matches(warning).count(), 1, "{}", said());
    let requests = collector.requests();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "flock");
    crate::operations::terminate(&hub);
    let ended = within("its end", hub.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
}

/// One that takes connections and answers nobody does not keep a hub from its end.
#[tokio::test]
async fn a_collector_may_hang() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--otlp-endpoint", &endpoint]);
    let mut hub = Hub::start_with(&database, options).await;
    hub.stream("topic=a").await.opened().await;
    hub.terminate();
    assert_eq!(hub.exit_code().await, Some(0));
}

#[tokio::test]
async fn no_address_is_refused() {
    let database = TestDatabase::create().await;
    let options = HubOptions::args(&["--otlp-endpoint", "nowhere at all"]);
    let (status, said) = Hub::spawn(&database.url, options).await.unwrap_err();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("cannot send traces"), "{said}");
    assert!(said.contains("nowhere at all"), "{said}");
}
