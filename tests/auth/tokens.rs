use super::{SECRET, ask, ask_with, bearer, error, event, locked, now, post, sign, token};
use crate::harness::{Hub, TestDatabase, within};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::hmac;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// All that is asked of a hub with events in it, or about it.
const GUARDED: [&str; 4] = [
    "/v1/stream?topic=a",
    "/v1/events?topic=a",
    "/v1/status",
    "/metrics",
];

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of any header and claims, signed with any secret.
fn forge(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", encode(signature))
}

fn good() -> Value {
    json!({"sub": "ada", "iat": now(), "exp": now() + 60, "bellwether": {"subscribe": [">"], "publish": [">"]}})
}

#[tokio::test]
async fn nobody_gets_in_without_one() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    for path in GUARDED {
        let (status, headers, text) = ask(&hub, path, &[]).await;
        assert_eq!(
            (status, error(&text).0.as_str()),
            (401, "no_token"),
            "{path}"
        );
        assert_eq!(headers["www-authenticate"], r#"Bearer realm="bellwether""#);
        assert_eq!(headers["cache-control"], "no-store");
    }
    let (status, _, text) = post(&hub, &event("a", "n"), &[]).await;
    assert_eq!((status, error(&text).0.as_str()), (401, "no_token"));
    // What shows nothing of the events.
    for path in ["/healthz", "/readyz", "/", "/bellwether.js", "/style.css"] {
        assert_eq!(ask(&hub, path, &[]).await.0, 200, "{path}");
    }
    let token = token(&["a"], &[]);
    for path in ["/v1/events?topic=a", "/v1/status", "/metrics"] {
        assert_eq!(ask_with(&hub, path, &token).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn over_http2_either() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let stream = TcpStream::connect(hub.address).await.unwrap();
    let io = TokioIo::new(stream);
    let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (sender, connection) = connected.unwrap();
    tokio::spawn(connection);
    let status = async |token: Option<&str>| {
        let mut request = http::Request::get(format!("http://{}/v1/stream?topic=a", hub.address));
        if let Some(token) = token {
            request = request.header("authorization", bearer(token));
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = within("an answer", sender.clone().send_request(request)).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(status(None).await, 401);
    assert_eq!(status(Some("x")).await, 401);
    assert_eq!(status(Some(&token(&["b"], &[]))).await, 403);
    assert_eq!(status(Some(&token(&["a"], &[]))).await, 200);
}

#[track_caller]
fn check(answer: &(u16, http::HeaderMap, String), what: &str) {
    let (status, headers, text) = answer;
    assert_eq!(
        (*status, error(text).0.as_str()),
        (401, "invalid_token"),
        "{what}: {text}"
    );
    let challenge = r#"Bearer realm="bellwether", error="invalid_token""#;
    assert_eq!(headers["www-authenticate"], challenge, "{what}");
}

/// Refused on every way in, and no part of it is said back.
async fn is_refused(hub: &Hub, what: &str, token: &str) -> String {
    let bearer = bearer(token);
    let mut said = String::new();
    for path in GUARDED {
        let answer = ask(hub, path, &[("Authorization", &bearer)]).await;
        check(&answer, what);
        said = error(&answer.2).1;
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!answer.2.contains(part), "{what}: {}", answer.2);
        }
    }
    check(
        &post(hub, &event("a", "n"), &[("Authorization", &bearer)]).await,
        what,
    );
    let query: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
    check(
        &ask(hub, &format!("/v1/stream?topic=a&token={query}"), &[]).await,
        what,
    );
    check(
        &ask(hub, &format!("/v1/events?token={query}&topic=a"), &[]).await,
        what,
    );
    said
}

#[tokio::test]
async fn forged_ones_are_refused() {
    let database = TestDatabase::create().await;
    let rules = [
        "--auth-issuer",
        "app",
        "--auth-audience",
        "hub",
        "--anonymous-subscribe",
        ">",
    ];
    let hub = locked(&database, &rules).await;
    let mut claims = good();
    claims["iss"] = "app".into();
    claims["aud"] = "hub".into();
    let secret = SECRET.as_bytes();
    let header = r#"{"typ":"JWT","alg":"HS256"}"#;
    let real = forge(header, &claims.to_string(), secret);
    assert_eq!(
        ask_with(&hub, "/v1/events?topic=a", &real).await.0,
        200,
        "as it should be"
    );
    let [head, body, signature]: [&str; 3] =
        real.split('.').collect::<Vec<_>>().try_into().unwrap();

    let with = |changes: Value| {
        let mut claims = claims.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        sign(&claims)
    };
    let unsigned = |header: &str| format!("{}.{body}.", encode(header));
    let mut wider = claims.clone();
    wider["bellwether"]["subscribe"] = json!([">", "admin.>"]);
    let twice = claims.to_string().replace(r#""exp":"#, r#""exp":1,"exp":"#);
    let bits = |text: &str| text.replace(['A', 'a'], "b");
    for (what, token) in [
        ("nothing", String::new()),
        ("no token", "x".to_owned()),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{real}.{signature}")),
        ("no signature", format!("{head}.{body}.")),
        (
            "half of a signature",
            format!("{head}.{body}.{}", &signature[..20]),
        ),
        (
            "another signature",
            format!("{head}.{body}.{}", encode([0; 32])),
        ),
        (
            "claims changed",
            format!("{head}.{}.{signature}", encode(wider.to_string())),
        ),
        (
            "header changed",
            format!("{}.{body}.{signature}", encode(r#"{"alg":"HS256"}"#)),
        ),
        ("letters changed", bits(&real)),
        (
            "another secret",
            forge(
                header,
                &claims.to_string(),
                b"another secret, also of 32 bytes!",
            ),
        ),
        ("an empty secret", forge(header, &claims.to_string(), b"")),
        ("alg none", unsigned(r#"{"alg":"none"}"#)),
        ("alg None", unsigned(r#"{"alg":"None"}"#)),
        ("alg NONE", unsigned(r#"{"typ":"JWT","alg":"NONE"}"#)),
        ("alg empty", unsigned(r#"{"alg":""}"#)),
        ("no alg", unsigned("{}")),
        ("alg null", unsigned(r#"{"alg":null}"#)),
        (
            "alg none, signed",
            forge(r#"{"alg":"none"}"#, &claims.to_string(), secret),
        ),
        (
            "alg of another family",
            forge(r#"{"alg":"RS256"}"#, &claims.to_string(), secret),
        ),
        (
            "alg of another size",
            forge(r#"{"alg":"HS512"}"#, &claims.to_string(), secret),
        ),
        (
            "something critical",
            forge(
                r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
                &claims.to_string(),
                secret,
            ),
        ),
        ("expired", with(json!({"exp": now() - 10}))),
        ("never expires", with(json!({"exp": null}))),
        ("expires in words", with(json!({"exp": "2099-01-01"}))),
        ("not yet", with(json!({"nbf": now() + 60}))),
        ("another audience", with(json!({"aud": "other"}))),
        (
            "another of the audiences",
            with(json!({"aud": ["other", "hub2"]})),
        ),
        ("no audience", with(json!({"aud": null}))),
        ("another issuer", with(json!({"iss": "app2"}))),
        ("no issuer", with(json!({"iss": null}))),
        ("a claim twice", forge(header, &twice, secret)),
        (
            "a grant nobody knows",
            with(json!({"bellwether": {"subscribe": [">"], "admin": true}})),
        ),
        (
            "a grant that is no pattern",
            with(json!({"bellwether": {"subscribe": ["a.>.b"]}})),
        ),
        ("grants as a text", with(json!({"bellwether": ">"}))),
        ("claims that are no object", forge(header, "[]", secret)),
        ("claims that are no JSON", forge(header, "\u{0}", secret)),
        ("a deep hole", forge(header, &"[".repeat(4000), secret)),
    ] {
        // Those without one are let in here, and these are not taken for such.
        is_refused(&hub, what, &token).await;
    }
    assert_eq!(
        ask(&hub, "/v1/events?topic=a", &[]).await.0,
        200,
        "anonymous"
    );
}

/// The reasons help, and are no help to who has no key: what claims say is looked at last.
#[tokio::test]
async fn reasons() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let mut claims = good();
    claims["exp"] = (now() - 60).into();
    let other = forge(r#"{"alg":"HS256"}"#, &claims.to_string(), &[b'x'; 32]);
    let said = is_refused(&hub, "another secret", &other).await;
    assert!(
        said.contains("signature is not by a key of this hub"),
        "{said}"
    );
    let said = is_refused(&hub, "expired", &sign(&claims)).await;
    assert!(said.contains("it has expired"), "{said}");
    let said = is_refused(&hub, "no exp", &sign(&json!({}))).await;
    assert!(said.contains("`exp`"), "{said}");
}

#[tokio::test]
async fn what_else_stands_in_authorization() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &["--anonymous-subscribe", "a"]).await;
    for value in [
        "Basic YWRhOnB3",
        "Bearer",
        "bearer ",
        "Bearer x y",
        "Token x",
        "x",
    ] {
        let answer = ask(&hub, "/v1/stream?topic=a", &[("Authorization", value)]).await;
        check(&answer, value);
    }
    // What would end a header is refused before anybody looks at it.
    let raw = format!("Bearer {}\u{b}x", token(&["a"], &[]));
    let head =
        format!("GET /v1/stream?topic=a HTTP/1.1\r\nHost: h\r\nAuthorization: {raw}\r\n\r\n");
    let answer = raw_answer(&hub, &head).await;
    assert!(
        answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 401"),
        "{answer}"
    );
    // A pattern as people write it.
    let head = "GET /v1/stream?topic=> HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n";
    assert!(raw_answer(&hub, head).await.starts_with("HTTP/1.1 401"));
    // A line of its own in the token becomes no header of the answer.
    let evil = "/v1/stream?topic=a&token=x%0d%0aSet-Cookie:%20a=b";
    let (status, headers, text) = ask(&hub, evil, &[]).await;
    assert_eq!(status, 401);
    assert!(
        !headers.contains_key("set-cookie") && !text.contains("Set-Cookie"),
        "{text}"
    );
}

async fn raw_answer(hub: &Hub, head: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 15];
    within("an answer", stream.read_exact(&mut line))
        .await
        .unwrap();
    String::from_utf8_lossy(&line).into_owned()
}

#[tokio::test]
async fn several_that_differ() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &["--auth-cookie", "session"]).await;
    let (one, other) = (token(&["a"], &[]), token(&["a", "b"], &[]));
    let header = bearer(&one);
    let path = "/v1/events?topic=a";
    let same = format!("{path}&token={one}");
    assert_eq!(ask(&hub, &same, &[("Authorization", &header)]).await.0, 200);
    let cookie = format!("session={other}");
    for (path, headers) in [
        (
            format!("{path}&token={other}"),
            vec![("Authorization", header.as_str())],
        ),
        (format!("{path}&token={one}&token={other}"), vec![]),
        (
            path.to_owned(),
            vec![
                ("Authorization", header.as_str()),
                ("Cookie", cookie.as_str()),
            ],
        ),
    ] {
        let (status, _, text) = ask(&hub, &path, &headers).await;
        assert_eq!((status, error(&text).0.as_str()), (400, "several_tokens"));
        assert!(!text.contains(&one[..20]), "{text}");
    }
}

#[tokio::test]
async fn in_the_address_only_short_lived_ones() {
    let database = TestDatabase::create().await;
    let hub = locked(&database, &[]).await;
    let query = async |claims: Value| {
        let path = format!("/v1/events?topic=a&token={}", sign(&claims));
        let (status, _, text) = ask(&hub, &path, &[]).await;
        (status, text)
    };
    let mut claims = good();
    claims["exp"] = (now() + 600).into();
    assert_eq!(query(claims.clone()).await.0, 200);
    claims["iat"] = (now() - 60).into();
    let (status, text) = query(claims.clone()).await;
    assert_eq!(status, 401);
    assert!(text.contains("10 minutes"), "{text}");
    claims.as_object_mut().unwrap().remove("iat");
    assert_eq!(query(claims.clone()).await.0, 401);
    assert_eq!(
        ask_with(&hub, "/v1/events?topic=a", &sign(&claims)).await.0,
        200
    );
    // And the pages send no address along to others.
    let (_, headers, _) = ask(&hub, "/", &[("Accept", "text/html")]).await;
    assert_eq!(headers["referrer-policy"], "no-referrer");
}
