//! `docs/authentication.md`: who is let in, to what, and for how long.

use auth::{Draft, Signer};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

use crate::harness::{Hub, HubOptions, TestDatabase, request_whole};

/// Cookies, origins and what pages of others may do.
mod browsers;
/// What is granted, and attempts at what is not.
mod grants;
/// Keys of every kind, and how they change.
mod keys;
/// How a stream ends with its token.
mod lifetime;
/// Nothing of a token gets into a log.
mod logs;
/// Tokens as applications make them.
mod minting;
/// Tokens that are not what they pretend to be.
mod tokens;

const SECRET: &str = "a secret of the tests, 32 bytes long or more";

/// A hub with this secret, and what else its command line says.
pub(crate) async fn locked(database: &TestDatabase, args: &[&str]) -> Hub {
    let args = [&["--auth-secret", SECRET], args].concat();
    Hub::start_with(database, HubOptions::args(&args)).await
}

pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// A token that counts for ten minutes.
pub(crate) fn token(subscribe: &[&str], publish: &[&str]) -> String {
    let texts = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
    let draft = Draft {
        subject: Some("ada".to_owned()),
        subscribe: texts(subscribe),
        publish: texts(publish),
        metrics: true,
        life: Duration::from_mins(10),
        ..Draft::default()
    };
    Signer::secret(SECRET).unwrap().token(&draft).unwrap()
}

/// A token with just these claims.
pub(crate) fn sign(claims: &Value) -> String {
    Signer::secret(SECRET).unwrap().sign(claims).unwrap()
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// An answer: its status, headers and text.
pub(crate) async fn ask(
    hub: &Hub,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    send(hub, Request::get(path), headers, String::new()).await
}

/// The same with a token in the header.
pub(crate) async fn ask_with(hub: &Hub, path: &str, token: &str) -> (u16, HeaderMap, String) {
    ask(hub, path, &[("Authorization", &bearer(token))]).await
}

pub(crate) async fn post(
    hub: &Hub,
    body: &Value,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    let request = Request::post("/v1/events").header("Content-Type", "application/json");
    send(hub, request, headers, body.to_string()).await
}

async fn send(
    hub: &Hub,
    request: http::request::Builder,
    headers: &[(&str, &str)],
    body: String,
) -> (u16, HeaderMap, String) {
    let mut request = request.header("Host", hub.address.to_string());
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    request_whole(hub.address, request.body(body.into()).unwrap()).await
}

/// The `code` and `message` of a refusal.
#[track_caller]
fn error(text: &str) -> (String, String) {
    let answer: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("no error: {text}"));
    let part = |name: &str| answer["error"][name].as_str().unwrap().to_owned();
    (part("code"), part("message"))
}

/// An event to be published.
pub(crate) fn event(topic: &str, name: &str) -> Value {
    json!({"topic": topic, "event": name, "data": {}})
}
