//! Pages of other origins: which may read here (CORS), and what a cookie is worth from elsewhere.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
    },
};
use http_body_util::{Either, Full};
use std::fmt;

use crate::response::{Body, Refusal};

/// What a page of another origin may send, beside what all may.
const REQUEST_HEADERS: &str = "authorization, content-type, last-event-id, idempotency-key, \
    cache-control";

/// What it may read of an answer, beside what all may.
const ANSWER_HEADERS: &str = "retry-after, www-authenticate";

/// How long a browser may remember a preflight, in seconds: Chromium's limit.
const MAX_AGE: &str = "7200";

/// The origins whose pages may read here, with the tokens and cookies of their visitors.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<HeaderValue>);

/// Why a text is no origin.
#[derive(Debug)]
pub struct InvalidOrigin(String);

impl Origins {
    /// These and no others, each as a browser writes it: `https://app.example`.
    pub fn new(texts: &[impl AsRef<str>]) -> Result<Self, InvalidOrigin> {
        let origins = texts.iter().map(|text| parse(text.as_ref()));
        Ok(Self(origins.collect::<Result<_, _>>()?))
    }

    fn has(&self, origin: &HeaderValue) -> bool {
        self.0.contains(origin)
    }

    /// Lets the page that asked read the answer, if it is of one of these origins.
    pub(crate) fn dress(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        // Also where there is none: the answer would be another.
        answer.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin.filter(|origin| self.has(origin)) else {
            return;
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS),
        ] {
            answer.insert(name, HeaderValue::from_static(value));
        }
    }

    /// Answers a browser that asks beforehand what a page may do; `None` if that was not asked.
    pub(crate) fn preflight(
        &self,
        method: &Method,
        headers: &HeaderMap,
        methods: &'static str,
    ) -> Option<Result<Response<Body>, Refusal>> {
        let origin = headers.get(ORIGIN)?;
        if method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        if !self.has(origin) {
            return Some(Err(Refusal::Origin));
        }
        let mut answer = Response::new(Either::Right(Full::default()));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ] {
            answer
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        Some(Ok(answer))
    }

    /// Whether a request that came with a cookie was meant by whom the cookie is of: made by a page
    /// of our own origin or of one of these. A browser adds cookies whoever has it ask.
    pub(crate) fn is_meant(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        let origin = headers.get(ORIGIN);
        if origin.is_some_and(|origin| self.has(origin)) {
            return true;
        }
        let is_safe = method == Method::GET || method == Method::HEAD;
        // No page can forge it, and all browsers of today send it.
        if let Some(site) = headers.get(HeaderName::from_static("sec-fetch-site")) {
            return site == "same-origin" || (site == "none" && is_safe);
        }
        match origin {
            Some(origin) => {
                let host = uri.authority().map(|host| host.as_str().as_bytes());
                let host = host.or(headers.get(HOST).map(HeaderValue::as_bytes));
                let text = origin.as_bytes();
                let of_origin = text
                    .strip_prefix(b"https://")
                    .or(text.strip_prefix(b"http://"));
                of_origin.is_some() && of_origin == host
            }
            None => is_safe,
        }
    }
}

fn parse(text: &str) -> Result<HeaderValue, InvalidOrigin> {
    let invalid = || InvalidOrigin(text.to_owned());
    let (scheme, host) = text.split_once("://").ok_or_else(invalid)?;
    let uri: Uri = text.parse().map_err(|_| invalid())?;
    // As it stands, since it is compared byte by byte.
    let is_origin = ["http", "https"].contains(&scheme)
        && uri
            .authority()
            .is_some_and(|authority| authority.as_str() == host)
        && !host.contains(['@', '*'])
        && host == host.to_ascii_lowercase();
    is_origin.then_some(()).ok_or_else(invalid)?;
    HeaderValue::from_str(text).map_err(|_| invalid())
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no origin: it is written like https://app.example or http://localhost:3000, \
             without a path, and none stands for all",
            self.0
        )
    }
}

impl std::error::Error for InvalidOrigin {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_origin() {
        for text in [
            "https://app.example",
            "http://localhost:3000",
            "http://[::1]:80",
        ] {
            assert!(Origins::new(&[text]).is_ok(), "{text}");
        }
        for text in [
            "*",
            "null",
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://*.example",
            "https://user@app.example",
            "ftp://app.example",
            "https://App.example",
            "https://app.example?",
            "https://",
            "https://a b",
        ] {
            assert!(Origins::new(&[text]).is_err(), "{text}");
        }
    }

    #[track_caller]
    fn check(method: &Method, headers: &[(&'static str, &str)], expected: bool) {
        let origins = Origins::new(&["https://app.example"]).unwrap();
        let mut map = HeaderMap::new();
        map.insert("host", "hub.example".parse().unwrap());
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let uri = Uri::from_static("/v1/stream");
        assert_eq!(
            origins.is_meant(method, &uri, &map),
            expected,
            "{method} {headers:?}"
        );
    }

    #[test]
    fn whose_cookies_count() {
        let (get, post) = (&Method::GET, &Method::POST);
        for method in [get, post] {
            check(
                method,
                &[
                    ("origin", "https://app.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
                true,
            );
            check(
                method,
                &[
                    ("origin", "https://evil.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
                false,
            );
            check(
                method,
                &[
                    ("origin", "https://sub.hub.example"),
                    ("sec-fetch-site", "same-site"),
                ],
                false,
            );
            check(method, &[("sec-fetch-site", "cross-site")], false);
            check(
                method,
                &[
                    ("origin", "https://hub.example"),
                    ("sec-fetch-site", "same-origin"),
                ],
                true,
            );
            check(method, &[("sec-fetch-site", "same-origin")], true);
            check(method, &[("origin", "https://hub.example")], true);
            check(
                method,
                &[("origin", "http://hub.example.evil.example")],
                false,
            );
            check(method, &[("origin", "https://evil.example")], false);
            check(method, &[("origin", "null")], false);
        }
        check(get, &[], true);
        check(post, &[], false);
        check(get, &[("sec-fetch-site", "none")], true);
        check(post, &[("sec-fetch-site", "none")], false);
    }
}
