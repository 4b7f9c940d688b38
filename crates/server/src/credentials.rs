//! Where in a request a token stands.

use auth::Place;
use http::{HeaderMap, Uri, header};
use std::borrow::Cow;

/// A token that came with a request. Not verified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) place: Place,
    /// Whether the browser sent it by itself, whoever had it make the request.
    pub(crate) is_cookie: bool,
}

/// Why no token is taken from a request that has something like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// Several that differ. To choose would be to guess who asks.
    Several,
    /// A header `Authorization` of another kind than `Bearer`.
    NotBearer,
}

/// The token of a request: in the header `Authorization: Bearer`, in a cookie of this name, or in
/// the query as `token=`.
pub(crate) fn find<'a>(
    uri: &'a Uri,
    headers: &'a HeaderMap,
    cookie: Option<&str>,
) -> Result<Option<Token<'a>>, Unclear> {
    let mut found: Option<Token<'a>> = None;
    for token in bearers(headers) {
        keep(&mut found, token?)?;
    }
    for (name, text) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name == "token" {
            let (place, is_cookie) = (Place::Query, false);
            keep(
                &mut found,
                Token {
                    text,
                    place,
                    is_cookie,
                },
            )?;
        }
    }
    for text in cookie.into_iter().flat_map(|name| cookies(headers, name)) {
        let (text, place, is_cookie) = (text.into(), Place::Header, true);
        keep(
            &mut found,
            Token {
                text,
                place,
                is_cookie,
            },
        )?;
    }
    Ok(found)
}

/// The first one stays: it is the one that says most clearly what is wanted.
fn keep<'a>(found: &mut Option<Token<'a>>, token: Token<'a>) -> Result<(), Unclear> {
    match found {
        Some(first) if first.text != token.text => return Err(Unclear::Several),
        Some(_) => {}
        None => *found = Some(token),
    }
    Ok(())
}

fn bearers(headers: &HeaderMap) -> impl Iterator<Item = Result<Token<'_>, Unclear>> {
    headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let (scheme, text) = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .ok_or(Unclear::NotBearer)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Unclear::NotBearer);
        }
        Ok(Token {
            text: text.trim().into(),
            place: Place::Header,
            is_cookie: false,
        })
    })
}

fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    // Over HTTP/2 each may have a header of its own.
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    pairs.filter_map(move |pair| {
        let (key, value) = pair.trim().split_once('=')?;
        // Taken back by setting it to nothing.
        (key == name && !value.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        query: &str,
        headers: &[(&'static str, &str)],
        expected: Result<Option<(&str, Place)>, Unclear>,
    ) {
        let uri: Uri = format!("/v1/stream?{query}").parse().unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let found = find(&uri, &map, Some("c"));
        let found = found
            .as_ref()
            .map(|token| token.as_ref().map(|it| (&*it.text, it.place)));
        assert_eq!(found.map_err(|why| *why), expected);
    }

    #[test]
    fn wherever_it_stands() {
        let (header, query) = (Place::Header, Place::Query);
        check("topic=a", &[], Ok(None));
        check(
            "topic=a",
            &[("authorization", "Bearer x")],
            Ok(Some(("x", header))),
        );
        check(
            "topic=a",
            &[("authorization", "bEARER  x ")],
            Ok(Some(("x", header))),
        );
        check("token=x", &[], Ok(Some(("x", query))));
        check("t%6Fken=%78", &[], Ok(Some(("x", query))));
        check("token=", &[], Ok(Some(("", query))));
        check(
            "topic=a",
            &[("cookie", "b=y; c=x; d=z")],
            Ok(Some(("x", header))),
        );
        check(
            "topic=a",
            &[("cookie", "b=y"), ("cookie", "c=x")],
            Ok(Some(("x", header))),
        );
        check("topic=a", &[("cookie", "C=x; c=; cc=y")], Ok(None));
        check(
            "token=x",
            &[("cookie", "c=x"), ("authorization", "Bearer x")],
            Ok(Some(("x", header))),
        );
    }

    #[test]
    fn never_one_of_several() {
        let (several, other) = (Err(Unclear::Several), Err(Unclear::NotBearer));
        check("token=x&token=y", &[], several);
        check("token=x", &[("authorization", "Bearer y")], several);
        check("token=x", &[("cookie", "c=y")], several);
        check("a=b", &[("cookie", "c=x; c=y")], several);
        check(
            "a=b",
            &[("authorization", "Bearer x"), ("authorization", "Bearer y")],
            several,
        );
        check("a=b", &[("authorization", "Basic eDp5")], other);
        check("a=b", &[("authorization", "Bearer")], other);
        check("token=x", &[("authorization", "Negotiate x")], other);
    }
}
