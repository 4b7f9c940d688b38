//! Files of the pages: what is in `static/`, embedded in the program.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use rust_embed::{EmbeddedFile, RustEmbed};
use std::{borrow::Cow, fmt::Write, path::Path};

use crate::response::Body;

/// Debug builds read the folder instead, so that a page is edited without a rebuild.
#[derive(RustEmbed)]
#[folder = "../../static"]
struct Files;

/// A page may load what is served here and nothing else, and nobody may frame it. No script
/// or style stands in a page's markup, so an event that gets there could do nothing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Kept, but asked for each time: after an update of the program the parts of a page fit
    // each other.
    (header::CACHE_CONTROL, "no-cache"),
    (header::VARY, "accept"),
];

/// What pages of any origin may use: the client, which says nothing of the hub.
const FOR_ALL: &str = "bellwether.js";

const HEADERS_FOR_ALL: [(HeaderName, &str); 2] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "cross-origin",
    ),
];

/// A file that is served.
pub(crate) struct File {
    content: EmbeddedFile,
    content_type: &'static str,
    is_for_all: bool,
}

/// What is at a path: `/` is `index.html`, and `/shop` is `shop.html`.
pub(crate) fn find(path: &str) -> Option<File> {
    let name = match path.strip_prefix('/')? {
        "" => Cow::Borrowed("index.html"),
        name if Path::new(name).extension().is_some() => Cow::Borrowed(name),
        name => Cow::Owned(format!("{name}.html")),
    };
    Some(File {
        content_type: content_type(&name)?,
        is_for_all: name == FOR_ALL,
        content: Files::get(&name)?,
    })
}

fn content_type(name: &str) -> Option<&'static str> {
    Some(match Path::new(name).extension()?.to_str()? {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "ts" | "md" | "LICENSE" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

impl File {
    /// The file, or that the client has it already.
    pub(crate) fn answer(self, request: &HeaderMap) -> Response<Body> {
        let tag = self.tag();
        let is_known = request
            .get(header::IF_NONE_MATCH)
            .is_some_and(|known| known.to_str().is_ok_and(|known| known.contains(&tag)));
        let (status, bytes) = match self.content.data {
            _ if is_known => (StatusCode::NOT_MODIFIED, Bytes::new()),
            Cow::Borrowed(bytes) => (StatusCode::OK, Bytes::from_static(bytes)),
            Cow::Owned(bytes) => (StatusCode::OK, Bytes::from(bytes)),
        };
        let mut response = Response::new(Either::Right(Full::from(bytes)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let for_all = self.is_for_all.then_some(HEADERS_FOR_ALL);
        for (name, value) in for_all.into_iter().flatten() {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let content_type = HeaderValue::from_static(self.content_type);
        headers.insert(header::CONTENT_TYPE, content_type);
        let tag = HeaderValue::from_str(&tag).expect("quoted hexadecimal digits");
        headers.insert(header::ETAG, tag);
        response
    }

    /// Quoted, as it stands in `ETag`.
    fn tag(&self) -> String {
        let mut tag = String::from("\"");
        for byte in self.content.metadata.sha256_hash() {
            write!(tag, "{byte:02x}").expect("a string takes all");
        }
        tag + "\""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose type is not known would silently not be there.
    #[test]
    fn every_file_is_served() {
        for name in Files::iter() {
            assert!(find(&format!("/{name}")).is_some(), "{name}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for path in [
            "",
            "*",
            "//",
            "/nothing",
            "/../README.md",
            "/vendor/../../README.md",
            "//etc/passwd",
            "/vendor",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn others_code_is_as_it_came() {
        let list = Files::get("vendor/README.md").unwrap();
        let list = String::from_utf8(list.data.into_owned()).unwrap();
        for name in Files::iter().filter(|name| name.starts_with("vendor/uPlot")) {
            let tag = find(&format!("/{name}")).unwrap().tag();
            let sum = format!("`{}`", tag.trim_matches('"'));
            assert!(list.contains(&sum), "{name} is {sum}");
        }
    }

    #[test]
    fn a_page_needs_no_extension() {
        assert!(find("/").is_some());
        assert_eq!(find("/index").unwrap().tag(), find("/").unwrap().tag());
    }
}
