//! From a request to a stream: where the client is to start, and what it is told first.

use bytes::BytesMut;
use http::{HeaderValue, Method, Response, header};
use http_body_util::Either;
use hub::{Cursor, Filter, Form, NotOpen, Place, Rewind, Subscription};
use std::{fmt, net::IpAddr, time::Duration};
use tokio::time::{self, Instant};
use tracing::Instrument;

use crate::{
    App, EventBody,
    control::{self, Gap},
    direct::Plain,
    frame::{self, LINES},
    limits::{Client, Seat},
    query::{Start, StreamQuery},
    response::{Body, Refusal},
    streams::Transport,
    trace,
};

/// How far back `last=` looks for events of its topics before the ring.
const MAX_LOOK_BACK: u64 = 100_000;
const LOOK_BACK_PAGE: u32 = 10_000;

/// How long a client that is ahead of this instance, as it comes from another, waits for it.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Why there is no stream to be had right now. The client is told when to come back.
#[derive(Debug)]
pub(crate) enum NotNow {
    NotOpen,
    /// There are as many streams as there may be, or this client has as many as it may.
    Full,
    Behind(Cursor),
    Database(pg::Error),
}

/// Opens a stream that goes the short way, if who asks may have it.
pub(crate) async fn open_plain(
    app: &App,
    plain: Plain,
    peer: IpAddr,
) -> Result<Response<Body>, Refusal> {
    let Plain {
        uri,
        headers,
        query,
    } = plain;
    let identity = app.gate.admit(&Method::GET, &uri, &headers).await?;
    let client = Client::new(&identity, app.edge.proxies.client(peer, &headers));
    let query = query.for_(&identity)?;
    // From here on: what is refused hyper is asked for again.
    let span = trace::request(&Method::GET, uri.path(), &headers);
    let opening = open(app, query, client, Transport::Direct);
    let mut response = opening.instrument(span.clone()).await;
    trace::answered(&span, response.status());
    let origin = headers.get(header::ORIGIN);
    app.gate.origins().dress(origin, response.headers_mut());
    Ok(response)
}

/// Opens a stream. Always status 200: a browser's `EventSource` gives up for ever on any
/// other, so who is to come back later is told so in the stream.
pub(crate) async fn open(
    app: &App,
    query: StreamQuery,
    client: Client,
    transport: Transport,
) -> Response<Body> {
    let (form, expires) = (query.filter.form(), query.expires);
    let is_new = !matches!(query.start, Start::After(_));
    let body = match subscribe(app, query.filter, query.start, client).await {
        Ok((subscription, gap, seat)) => {
            let mut opening = BytesMut::new();
            opening.extend_from_slice(&control::retry(app.settings.retry(), form));
            if let Some(gap) = gap {
                gap.encode(form, &mut opening);
            }
            if is_new {
                // Before the cursor: who is cut off here is new again.
                let states = app.hub.states(subscription.filter(), subscription.cursor());
                for state in states {
                    state.wire.append(frame::without_id(form), &mut opening);
                }
            }
            // So that a client that is cut off before its first event knows where it was. As an
            // event, because many clients take no id from a block without data; and also after
            // a gap, of which this client then knows.
            opening.extend_from_slice(&control::heartbeat(subscription.cursor(), form));
            EventBody::new(
                app,
                subscription,
                opening.freeze(),
                seat,
                transport,
                expires,
            )
        }
        Err(why) => {
            tracing::debug!(%why, "no stream for now");
            app.metrics.turned_away(&why);
            let retry = match why {
                NotNow::Full => app.settings.retry_full(),
                _ => app.settings.retry_later(),
            };
            EventBody::farewell(retry, form)
        }
    };
    respond(body, form)
}

/// A stream that only says when to come back.
pub(crate) fn later(app: &App, form: Form) -> Response<Body> {
    respond(EventBody::farewell(app.settings.retry_later(), form), form)
}

fn respond(body: EventBody, form: Form) -> Response<Body> {
    let mut response = Response::new(Either::Left(body));
    let headers = response.headers_mut();
    let content_type = match form {
        LINES => "application/x-ndjson",
        _ => "text/event-stream",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

async fn subscribe(
    app: &App,
    filter: Filter,
    start: Start,
    client: Client,
) -> Result<(Subscription, Option<Gap>, Seat), NotNow> {
    let seat = app.edge.admit_stream(client).ok_or(NotNow::Full)?;
    let (cursor, gap) = begin(app, &filter, start).await?;
    Ok((app.hub.subscribe(filter, cursor)?, gap, seat))
}

/// Where to begin, `None` for now; and what the client is told, if not where it wanted.
pub(crate) async fn begin(
    app: &App,
    filter: &Filter,
    start: Start,
) -> Result<(Option<Cursor>, Option<Gap>), NotNow> {
    let head = app.hub.head().ok_or(NotOpen)?;
    match start {
        Start::Now => Ok((None, None)),
        Start::Last(count) => {
            let seq = rewind(app, filter, count).await?;
            Ok((Some(Cursor { seq, ..head }), None))
        }
        Start::After(text) => resume(app, head, &text).await,
    }
}

/// Where a client goes on that has been here before; and what it is told, if not where it was.
async fn resume(
    app: &App,
    head: Cursor,
    asked: &str,
) -> Result<(Option<Cursor>, Option<Gap>), NotNow> {
    let Ok(cursor) = asked.parse::<Cursor>() else {
        return from_oldest(app, head, "unknown", asked).await;
    };
    match app.hub.place(cursor)? {
        Place::Here(cursor) if is_reached(app, cursor).await? => Ok((Some(cursor), None)),
        Place::Here(_) => from_oldest(app, head, "unknown", asked).await,
        Place::After(to) => {
            let gap = Gap {
                reason: "epoch",
                from: control::excerpt(asked),
                to,
                missing: None,
            };
            Ok((Some(to), Some(gap)))
        }
        Place::Nowhere => from_oldest(app, head, "epoch", asked).await,
    }
}

/// Whether a position of this epoch exists. This instance may be some milliseconds behind
/// the one the client comes from, so the database is asked, and then waited for.
async fn is_reached(app: &App, cursor: Cursor) -> Result<bool, NotNow> {
    let reached = || app.hub.head().is_some_and(|head| head.seq >= cursor.seq);
    if reached() {
        return Ok(true);
    }
    if app.history.newest().await? < cursor.seq {
        return Ok(false);
    }
    let limit = Instant::now() + CATCH_UP;
    while !reached() {
        if Instant::now() > limit {
            return Err(NotNow::Behind(cursor));
        }
        time::sleep(Duration::from_millis(2)).await;
    }
    Ok(true)
}

/// A cursor that cannot be honoured: from the oldest event that exists, and say so.
async fn from_oldest(
    app: &App,
    head: Cursor,
    reason: &'static str,
    asked: &str,
) -> Result<(Option<Cursor>, Option<Gap>), NotNow> {
    let seq = match app.history.oldest().await? {
        Some(oldest) => oldest - 1,
        None => head.seq,
    };
    let to = Cursor { seq, ..head };
    Ok((
        Some(to),
        Some(Gap {
            reason,
            from: control::excerpt(asked),
            to,
            missing: None,
        }),
    ))
}

/// The position before the last `count` events of a filter, or as near to it as is looked for.
async fn rewind(app: &App, filter: &Filter, count: usize) -> Result<u64, NotNow> {
    let (mut missing, floor) = match app.hub.rewind(filter, count) {
        Rewind::To(seq) => return Ok(seq),
        Rewind::Beyond { missing, floor } => (missing, floor),
    };
    let mut seq = floor;
    while seq > floor.saturating_sub(MAX_LOOK_BACK) {
        let topics = app.history.topics_before(seq, LOOK_BACK_PAGE).await?;
        let Some(&(oldest, ..)) = topics.last() else {
            break;
        };
        let found = topics
            .iter()
            .filter(|(_, topic, name)| filter.matches(topic, name));
        for (found, ..) in found {
            missing -= 1;
            if missing == 0 {
                return Ok(found - 1);
            }
        }
        seq = oldest - 1;
    }
    Ok(seq)
}

impl From<NotOpen> for NotNow {
    fn from(_: NotOpen) -> Self {
        Self::NotOpen
    }
}

impl From<pg::Error> for NotNow {
    fn from(error: pg::Error) -> Self {
        Self::Database(error)
    }
}

impl NotNow {
    /// All that [`Self::name`] may say.
    pub(crate) const NAMES: [&str; 4] = ["not_open", "full", "behind", "database"];

    /// In one word, for metrics.
    pub(crate) fn name(&self) -> &'static str {
        let nth = match self {
            Self::NotOpen => 0,
            Self::Full => 1,
            Self::Behind(_) => 2,
            Self::Database(_) => 3,
        };
        Self::NAMES[nth]
    }
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpen => write!(f, "{NotOpen}"),
            Self::Full => f.write_str("there are as many streams as there may be"),
            Self::Behind(cursor) => write!(f, "{cursor} was not reached within {CATCH_UP:?}"),
            Self::Database(error) => write!(f, "{error}"),
        }
    }
}
