//! `bellwether tail`: follows a stream in the terminal and resumes it.

use anyhow::{Context, Result, bail};
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Collected, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use pg::Backoff;
use sse::{Decoder, Item, Message};
use std::{io::ErrorKind, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};

use crate::{
    cli::{TailOptions, say},
    https::Https,
};

/// No sign of life for this long, and the connection is given up: three heartbeats.
const SILENCE: Duration = Duration::from_secs(45);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How a stream ended that is to be resumed.
struct Cut {
    why: String,
    /// Whether there was a stream at all.
    was_open: bool,
}

/// Prints events until it is interrupted, or nobody reads what it prints.
pub(crate) async fn run(options: TailOptions) -> Result<()> {
    let target = Target::new(&options)?;
    let mut decoder = Decoder::new();
    let mut cursor = options.after.unwrap_or_default();
    let mut retry = Duration::from_secs(2);
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let cut = match follow(&target, &mut decoder, &mut cursor, &mut retry).await {
            Err(error) if is_broken_pipe(&error) => return Ok(()),
            ended => ended?,
        };
        decoder.restart();
        let delay = if cut.was_open {
            backoff.reset();
            retry
        } else {
            backoff.next(fastrand::f64())
        };
        tracing::warn!(why = cut.why, retry_ms = delay.as_millis(), "reconnecting");
        time::sleep(delay).await;
    }
}

/// One connection's worth of events.
async fn follow(
    target: &Target,
    decoder: &mut Decoder,
    cursor: &mut String,
    retry: &mut Duration,
) -> Result<Cut> {
    let cut = |why: String, was_open| Ok(Cut { why, was_open });
    let mut body = match time::timeout(CONNECT_LIMIT, target.connect(cursor)).await {
        Ok(Ok(body)) => body,
        Ok(Err(Failure::Refused(answer))) => bail!("the hub refuses: {answer}"),
        Ok(Err(Failure::Unreachable(why))) => return cut(why, false),
        Err(_) => return cut(format!("no answer within {CONNECT_LIMIT:?}"), false),
    };
    tracing::info!(url = %target.uri, cursor, "following");
    loop {
        let bytes = match time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(error))) => return cut(error.to_string(), true),
            Ok(None) => return cut("the hub ended the stream".to_owned(), true),
            Err(_) => return cut(format!("nothing heard for {SILENCE:?}"), true),
        };
        decoder.feed(&bytes);
        for item in &mut *decoder {
            match item {
                Ok(Item::Event(message)) => show(&message)?,
                Ok(Item::Retry(time)) => *retry = time,
                Ok(Item::Comment(_)) => {}
                Err(error) => tracing::warn!(%error, "left out"),
            }
        }
        decoder.last_event_id().clone_into(cursor);
    }
}

fn show(message: &Message) -> std::io::Result<()> {
    match message.name.as_str() {
        "heartbeat" => Ok(()),
        "expired" => {
            tracing::warn!("the token has expired");
            Ok(())
        }
        "gap" => {
            tracing::warn!(gap = message.data, "some events do not exist any more");
            Ok(())
        }
        name => say(format_args!("{} {name} {}", message.id, message.data)),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A stream of a hub.
struct Target {
    /// `host:port`.
    authority: String,
    uri: Uri,
    https: Option<Https>,
    /// The header `Authorization`.
    bearer: Option<HeaderValue>,
}

/// Why there is no stream.
enum Failure {
    /// For good, with the hub's answer.
    Refused(String),
    /// For now.
    Unreachable(String),
}

impl Target {
    fn new(options: &TailOptions) -> Result<Self> {
        let url = options.url.trim_end_matches('/');
        let base: Uri = url
            .parse()
            .with_context(|| format!("{url:?} is no address of a hub"))?;
        let host = base
            .authority()
            .with_context(|| format!("{url:?} names no host"))?;
        let (https, port) = match base.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(Https::new(host.host(), options.ca.as_deref())?), 443),
            _ => bail!("{url:?} is no address of a hub: it must begin with http:// or https://"),
        };
        let authority = match host.port_u16() {
            Some(_) => host.to_string(),
            None => format!("{host}:{port}"),
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        for pattern in &options.patterns {
            query.append_pair("topic", pattern);
        }
        if let Some(last) = options.last {
            query.append_pair("last", &last.to_string());
        }
        let uri = format!("{url}/v1/stream?{}", query.finish());
        let uri = uri
            .parse()
            .with_context(|| format!("{uri:?} is no address"))?;
        let bearer = options.token.as_ref().map(|token| {
            let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
                .context("a token has no such characters")?;
            bearer.set_sensitive(true);
            anyhow::Ok(bearer)
        });
        Ok(Self {
            authority,
            uri,
            https,
            bearer: bearer.transpose()?,
        })
    }

    async fn connect(&self, cursor: &str) -> Result<Incoming, Failure> {
        let unreachable = |error: &dyn std::error::Error| Failure::Unreachable(pg::chain(error));
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|error| unreachable(&error))?;
        let mut sender = match &self.https {
            None => begin(stream).await?,
            Some(https) => {
                let stream = https.connect(stream).await;
                begin(stream.map_err(|error| unreachable(&error))?).await?
            }
        };
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(bearer) = &self.bearer {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        if !cursor.is_empty() {
            request = request.header("Last-Event-ID", cursor);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = response.into_body();
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = body
            .collect()
            .await
            .map(Collected::to_bytes)
            .unwrap_or_default();
        let answer = format!("{status}: {}", String::from_utf8_lossy(&text).trim());
        Err(if status.is_client_error() {
            Failure::Refused(answer)
        } else {
            Failure::Unreachable(answer)
        })
    }
}

/// Begins to speak HTTP.
async fn begin(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Empty<Bytes>>, Failure> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) =
        handshake.map_err(|error| Failure::Unreachable(pg::chain(&error)))?;
    tokio::spawn(connection);
    Ok(sender)
}
