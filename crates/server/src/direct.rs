//! The short way for streams over HTTP/1.1: from the request's head to the socket without hyper.
//!
//! hyper keeps two buffers of 8 KiB for each connection, and much else that a stream which only
//! ever goes one way has no use for. So a plain `GET /v1/stream` is recognised by its first
//! bytes, and from then on one small task polls the body and writes. Whatever is anything else, or
//! in any way unusual, goes to hyper with the bytes already read.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use http_body::Body as _;
use http_body_util::Either;
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::{
    EventBody, Limits,
    body::CaughtUp,
    outlet::{Connection, JOINED, Joined, Outlet},
    query::StreamQuery,
    response::Body,
};

/// How such a request begins.
const BEGINNING: &[u8] = b"GET /v1/stream?";

/// How HTTP/2 begins with prior knowledge (RFC 9113, §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most headers looked at. With more, the request is an unusual one.
const MAX_HEADERS: usize = 64;

/// What a connection begins with.
pub(crate) enum Beginning {
    /// A plain request for a stream, and nothing after it yet; and its bytes, for hyper.
    Stream(Box<Plain>, Bytes),
    /// HTTP/2. These bytes of it have been read.
    Http2(Bytes),
    /// Anything else, likewise.
    Http1(Bytes),
}

/// A plain request for a stream.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) query: StreamQuery,
}

/// Reads a connection's beginning, up to the end of the head if it is one for us.
pub(crate) async fn begin(
    stream: &mut (impl AsyncRead + Unpin),
    limits: &Limits,
) -> io::Result<Beginning> {
    let mut head = BytesMut::with_capacity(512);
    // Before this, the head was found not to be complete.
    let mut parsed = 0;
    loop {
        if head.starts_with(PREFACE) {
            return Ok(Beginning::Http2(head.freeze()));
        }
        // hyper would wait for the rest of it without a limit.
        let is_preface = PREFACE.starts_with(&head);
        if !is_preface && !is_ours(&head) || head.len() >= limits.head_bytes {
            return Ok(Beginning::Http1(head.freeze()));
        }
        // Only a line's end can complete it. Parsed after each byte, a head that comes in single
        // bytes would cost the square of its length.
        if !is_preface && head[parsed..].contains(&b'\n') {
            parsed = head.len();
            match parse(&head, limits.patterns) {
                Head::Plain(plain) => return Ok(Beginning::Stream(plain, escaped(&head))),
                Head::Unusual => return Ok(Beginning::Http1(head.freeze())),
                Head::Incomplete => {}
            }
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(Beginning::Http1(head.freeze()));
        }
    }
}

fn is_ours(head: &[u8]) -> bool {
    head.starts_with(BEGINNING) || BEGINNING.starts_with(head)
}

/// What has been read of a request's head.
#[derive(Debug)]
enum Head {
    Incomplete,
    Plain(Box<Plain>),
    /// Hyper's business.
    Unusual,
}

fn parse(head: &[u8], max_patterns: usize) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(head) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Head::Incomplete,
        Err(_) => return Head::Unusual,
    };
    let is_plain = request.version == Some(1) && len == head.len() && has_host(request.headers);
    let plain = is_plain.then(|| plain(&request, max_patterns)).flatten();
    plain.map_or(Head::Unusual, |plain| Head::Plain(Box::new(plain)))
}

/// HTTP/1.1 demands one.
fn has_host(headers: &[httparse::Header<'_>]) -> bool {
    headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("host"))
}

fn plain(request: &httparse::Request<'_, '_>, max_patterns: usize) -> Option<Plain> {
    const UNUSUAL: [&str; 5] = [
        "content-length",
        "transfer-encoding",
        "expect",
        "upgrade",
        "http2-settings",
    ];
    // A pattern's `>` belongs escaped, but people write it, and curl sends it as it is.
    let uri: Uri = request.path?.replace('>', "%3E").parse().ok()?;
    let mut headers = HeaderMap::new();
    for header in request.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        if UNUSUAL.contains(&name.as_str()) {
            return None;
        }
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    // A refusal is hyper's to write.
    let query = StreamQuery::parse(&uri, &headers).ok()?;
    Some(Plain {
        query: query.up_to(max_patterns).ok()?,
        uri,
        headers,
    })
}

/// A head with its first line as it was understood, so that hyper understands it likewise.
fn escaped(head: &[u8]) -> Bytes {
    let end = head
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(head.len());
    let mut escaped = BytesMut::with_capacity(head.len());
    for part in head[..end].split_inclusive(|&byte| byte == b'>') {
        match part.strip_suffix(b">") {
            Some(part) => escaped.extend_from_slice(&[part, b"%3E"].concat()),
            None => escaped.extend_from_slice(part),
        }
    }
    escaped.extend_from_slice(&head[end..]);
    escaped.freeze()
}

/// A stream on its way to its client, until that has all there is.
pub(crate) struct Direct {
    outlet: Outlet,
    body: EventBody,
    has_ended: bool,
}

impl Direct {
    /// The answer to a request for a stream; `None` if it is no stream.
    pub(crate) fn new(connection: Connection, response: Response<Body>) -> Option<Self> {
        let (head, body) = response.into_parts();
        let Either::Left(body) = body else {
            return None;
        };
        let mut first = BytesMut::with_capacity(256);
        first.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        for (name, value) in &head.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                first.extend_from_slice(part);
            }
        }
        // Without a length, the body ends with the connection.
        let date = httpdate::fmt_http_date(SystemTime::now());
        let end = format!("connection: close\r\ndate: {date}\r\n\r\n");
        first.extend_from_slice(end.as_bytes());
        Some(Self::go_on(Outlet::new(connection, first.freeze()), body))
    }

    /// A stream whose head is written.
    pub(crate) fn go_on(outlet: Outlet, body: EventBody) -> Self {
        Self {
            outlet,
            body,
            has_ended: false,
        }
    }

    /// Writes until the client has all there is; `None` if the stream ends before, or the client
    /// leaves, or the connection gives up.
    pub(crate) async fn run(mut self) -> Option<(Outlet, CaughtUp)> {
        let caught_up = poll_fn(|cx| self.poll(cx)).await?;
        Some((self.outlet, caught_up))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<CaughtUp>> {
        loop {
            if let Err(error) = ready!(self.outlet.poll_write(cx)) {
                if error.kind() == io::ErrorKind::TimedOut {
                    self.body.stalled();
                }
                return Poll::Ready(None);
            }
            if self.has_ended {
                // Whether it was told or not, it is over.
                let _: io::Result<()> = ready!(self.outlet.poll_shutdown(cx));
                return Poll::Ready(None);
            }
            if self.poll_body(cx).is_pending() {
                return match self.body.caught_up() {
                    Some(caught_up) => Poll::Ready(Some(caught_up)),
                    None => self.outlet.poll_left(cx).map(|()| None),
                };
            }
        }
    }

    /// All that is ready, up to a bound, so that it is written at once.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut joined = Joined::default();
        while joined.len() < JOINED {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        joined.push(bytes);
                    }
                }
                Poll::Ready(None) => {
                    self.has_ended = true;
                    break;
                }
                Poll::Pending if joined.len() == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        self.outlet.put(joined.finish());
        Poll::Ready(())
    }
}

/// A connection of which some has been read already.
#[derive(Debug)]
pub(crate) struct Reread {
    read: Bytes,
    connection: Connection,
}

impl Reread {
    pub(crate) fn new(read: Bytes, connection: Connection) -> Self {
        Self { read, connection }
    }
}

impl AsyncRead for Reread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.connection).poll_read(cx, out);
        }
        let len = self.read.len().min(out.remaining());
        out.put_slice(&self.read.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Reread {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, expected: Option<bool>) {
        let is_plain = match parse(head.as_bytes(), 2) {
            Head::Incomplete => None,
            Head::Plain(..) => Some(true),
            Head::Unusual => Some(false),
        };
        assert_eq!(is_plain, expected, "{head:?}");
    }

    #[test]
    fn only_what_is_plain_is_ours() {
        let plain = "GET /v1/stream?topic=a HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n";
        check(plain, Some(true));
        for end in 0..plain.len() {
            check(&plain[..end], None);
        }
        check(&format!("{plain}G"), Some(false));
        check(
            "GET /v1/stream?topic=a&topic=b&topic=c HTTP/1.1\r\nHost: h\r\n\r\n",
            Some(false),
        );
        check(
            "GET /v1/stream?topic=a.> HTTP/1.1\r\nHost: h\r\n\r\n",
            Some(true),
        );
        check(
            "GET /v1/stream?topic=a HTTP/1.0\r\nHost: h\r\n\r\n",
            Some(false),
        );
        check("GET /v1/stream?topic=a HTTP/1.1\r\n\r\n", Some(false));
        check("GET /v1/stream? HTTP/1.1\r\nHost: h\r\n\r\n", Some(false));
        check(
            "GET /v1/stream?topic=a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
            Some(false),
        );
        check(
            "GET /v1/stream?topic=a HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n",
            Some(false),
        );
        check(
            "GET /v1/stream?topic=a HTTP/1.1\r\nHost : h\r\n\r\n",
            Some(false),
        );
        check(
            &format!(
                "GET /v1/stream?topic=a HTTP/1.1\r\nHost: h\r\n{}\r\n",
                "a: b\r\n".repeat(65)
            ),
            Some(false),
        );
    }
}
