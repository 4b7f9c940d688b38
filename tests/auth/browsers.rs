use super::{ask, bearer, error, event, locked, post, send, token};
use crate::harness::{Client, Hub, TestDatabase};
use http::{HeaderMap, Request};

const APP: &str = "https://app.example";
const EVIL: &str = "https://app.example.evil.example";

async fn preflight(hub: &Hub, path: &str, origin: &str, method: &str) -> (u16, HeaderMap, String) {
    let request = Request::options(path)
        .header("Access-Control-Request-Method", method)
        .header(
            "Access-Control-Request-Headers",
            "authorization,content-type",
        );
    send(hub, request, &[("Origin", origin)], String::new()).await
}

fn allowed(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("access-control-allow-origin")
        .map(|origin| origin.to_str().unwrap())
}

#[tokio::test]
async fn pages_of_listed_origins_may_read() {
    let database = TestDatabase::create().await;
    let hub = locked(
        &database,
        &[
            "--allow-origin",
            APP,
            "--allow-origin",
            "http://localhost:3000",
        ],
    )
    .await;
    let header = bearer(&token(&["a"], &["a"]));
    for path in ["/v1/stream", "/v1/events", "/v1/status"] {
        let (status, headers, _) = preflight(&hub, path, APP, "GET").await;
        assert_eq!((status, allowed(&headers)), (204, Some(APP)), "{path}");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["vary"], "origin");
        let list = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert!(list("access-control-allow-headers").contains("authorization"));
        assert!(list("access-control-allow-methods").contains("GET"));
        for origin in [
            EVIL,
            "null",
            "https://APP.example",
            "http://app.example",
            "https://app.example:444",
            "*",
        ] {
            let (status, headers, text) = preflight(&hub, path, origin, "GET").await;
            assert_eq!((status, allowed(&headers)), (403, None), "{origin}");
            assert!(
                !text.contains(origin) && error(&text).0 == "origin",
                "{text}"
            );
            assert_eq!(headers["vary"], "origin");
        }
    }
    let (_, headers, _) = preflight(&hub, "/v1/events", APP, "POST").await;
    assert_eq!(headers["access-control-allow-methods"], "GET, POST");
    // What is no preflight is no method of ours.
    let options = Request::options("/v1/events");
    assert_eq!(
        send(&hub, options, &[("Origin", APP)], String::new())
            .await
            .0,
        405
    );

    // Answers of every kind, refusals too; both ways to the socket.
    for (path, authorization, expected) in [
        ("/v1/events?topic=a", header.as_str(), 200),
        ("/v1/events?topic=b", &header, 403),
        ("/v1/events?topic=a", "Bearer x", 401),
        ("/v1/nowhere", &header, 404),
    ] {
        for (origin, may) in [(APP, Some(APP)), (EVIL, None)] {
            let headers = [("Authorization", authorization), ("Origin", origin)];
            let (status, headers, _) = ask(&hub, path, &headers).await;
            assert_eq!((status, allowed(&headers)), (expected, may), "{path}");
            assert_eq!(headers["vary"], "origin");
        }
    }
    for unusual in [None, Some(("Content-Length", "0"))] {
        for (origin, may) in [
            (Some(APP), Some(APP)),
            (Some("http://localhost:3000"), Some("http://localhost:3000")),
            (Some(EVIL), None),
            (None, None),
        ] {
            let mut headers = vec![("Host", "h"), ("Authorization", header.as_str())];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            headers.extend(unusual);
            let client = Client::with_headers(hub.address, "topic=a", &headers)
                .await
                .unwrap();
            assert_eq!((client.status, allowed(&client.headers)), (200, may));
            assert_eq!(client.headers["vary"], "origin");
        }
    }
}

#[tokio::test]
async fn without_a_list_no_other_origin_may() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    for origin in [APP, "null", "http://localhost"] {
        assert_eq!(preflight(&hub, "/v1/events", origin, "POST").await.0, 403);
        let (status, headers, _) = ask(&hub, "/v1/events?topic=a", &[("Origin", origin)]).await;
        assert_eq!(
            (status, allowed(&headers)),
            (200, None),
            "the browser keeps it from the page"
        );
        assert!(!headers.contains_key("vary"));
    }
    // The client is for everybody's pages, and so say its headers.
    let (_, headers, _) = ask(&hub, "/bellwether.js", &[("Origin", APP)]).await;
    assert_eq!(allowed(&headers), Some("*"));
    assert_eq!(headers["cross-origin-resource-policy"], "cross-origin");
    assert!(!headers.contains_key("access-control-allow-credentials"));
    let (_, headers, _) = ask(&hub, "/inspector.js", &[("Origin", APP)]).await;
    assert_eq!(allowed(&headers), None);
}

/// A browser sends cookies along whoever has it ask. So where it says who, that counts; and what
/// changes something must say.
#[tokio::test]
async fn a_cookie_counts_only_for_pages_that_may() {
    let database = TestDatabase::create().await;
    let hub = locked(
        &database,
        &["--auth-cookie", "session", "--allow-origin", APP],
    )
    .await;
    let own = format!("http://{}", hub.address);
    let cookie = format!("theme=dark; session={}", token(&["a"], &["a"]));
    for (headers, reads, publishes) in [
        (vec![], 200, 403),
        (vec![("Origin", own.as_str())], 200, 201),
        (
            vec![("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")],
            200,
            201,
        ),
        (vec![("Sec-Fetch-Site", "none")], 200, 403),
        (
            vec![("Origin", APP), ("Sec-Fetch-Site", "cross-site")],
            200,
            201,
        ),
        (
            vec![("Origin", EVIL), ("Sec-Fetch-Site", "cross-site")],
            403,
            403,
        ),
        (vec![("Origin", "null")], 403, 403),
        (vec![("Sec-Fetch-Site", "cross-site")], 403, 403),
        (vec![("Sec-Fetch-Site", "same-site")], 403, 403),
        (
            vec![("Origin", own.as_str()), ("Sec-Fetch-Site", "cross-site")],
            403,
            403,
        ),
    ] {
        let mut headers = headers;
        headers.push(("Cookie", &cookie));
        let expected = (reads, publishes);
        let read = ask(&hub, "/v1/events?topic=a", &headers).await.0;
        let published = post(&hub, &event("a", "n"), &headers).await.0;
        assert_eq!((read, published), expected, "{headers:?}");
        headers.push(("Host", "test"));
        if headers
            .iter()
            .any(|(name, value)| *name == "Origin" && *value == own)
        {
            continue; // `Host` is another one here
        }
        let stream = Client::with_headers(hub.address, "topic=a", &headers)
            .await
            .unwrap();
        assert_eq!(stream.status, reads, "{headers:?}");
    }
    // A form of another page is not JSON, whatever it sends along.
    let request = Request::post("/v1/events").header("Content-Type", "text/plain");
    let headers = [("Cookie", cookie.as_str()), ("Origin", own.as_str())];
    assert_eq!(
        send(&hub, request, &headers, event("a", "n").to_string())
            .await
            .0,
        415
    );
    // What a page says itself is no matter of cookies, wherever the page is from.
    let header = bearer(&token(&["a"], &["a"]));
    let headers = [
        ("Authorization", header.as_str()),
        ("Origin", EVIL),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    assert_eq!(post(&hub, &event("a", "n"), &headers).await.0, 201);
    // And without the flag no cookie is looked at.
    let hub = locked(&database, &[]).await;
    assert_eq!(
        ask(&hub, "/v1/events?topic=a", &[("Cookie", &cookie)])
            .await
            .0,
        401
    );
}
