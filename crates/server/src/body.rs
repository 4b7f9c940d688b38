//! The body of a stream: what hyper polls for bytes.

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use hub::{Cursor, Next, Subscription};
use serde_json::json;
use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{
    App, Settings,
    history::{self, Piece},
};

/// A stream of events to one client.
///
/// Says what its opening says, then hands on what its subscription brings, with a heartbeat
/// now and then. Where the ring does not reach back far enough it reads history, a page at
/// a time, and only as fast as the client takes it. When the hub closes it ends, after
/// telling the client when to come back.
pub struct EventBody {
    /// Goes out before anything else.
    opening: Option<Bytes>,
    /// `None` once the stream has ended.
    live: Option<Live>,
}

type PageRead = Pin<Box<dyn Future<Output = Result<Piece, pg::Error>> + Send>>;

struct Live {
    subscription: Subscription,
    history: pg::History,
    /// The page of history that is being read, if one is.
    page: Option<PageRead>,
    heartbeat: Interval,
    settings: Settings,
}

/// Tells a client that some of what it asked for does not exist any more.
#[derive(Debug)]
pub(crate) struct Gap {
    /// `retention`, `epoch` or `unknown`.
    pub(crate) reason: &'static str,
    /// The position that the client had, as it said it.
    pub(crate) from: String,
    /// The position that the stream goes on from.
    pub(crate) to: Cursor,
    /// How many events lie between, if that can be said. Of all topics: which were this
    /// client's is not known any more.
    pub(crate) missing: Option<u64>,
}

// === impl EventBody ===

impl EventBody {
    /// A stream that begins with this opening.
    pub(crate) fn new(app: &App, subscription: Subscription, opening: Bytes) -> Self {
        let settings = app.settings;
        let mut heartbeat = interval_at(Instant::now() + settings.heartbeat, settings.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let live = Live {
            subscription,
            history: app.history.clone(),
            page: None,
            heartbeat,
            settings,
        };
        Self {
            opening: Some(opening),
            live: Some(live),
        }
    }

    /// A stream that only says when to come back.
    pub(crate) fn farewell(retry: Duration) -> Self {
        Self {
            opening: Some(farewell(retry)),
            live: None,
        }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let ready = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(opening) = self.opening.take() {
            return ready(opening);
        }
        let Some(live) = &mut self.live else {
            return Poll::Ready(None);
        };
        match live.poll_bytes(cx) {
            Poll::Ready(Some(bytes)) => ready(bytes),
            Poll::Ready(None) => {
                let retry = live.settings.retry_later();
                self.live = None;
                ready(farewell(retry))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscription = self.live.as_ref().map(|live| &live.subscription);
        f.debug_struct("EventBody")
            .field("subscription", &subscription)
            .finish_non_exhaustive()
    }
}

// === impl Live ===

impl Live {
    /// The next bytes, whatever they are; `None` when the stream is to end.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match self.poll_events(cx) {
                // Nothing of this page was for this client.
                Poll::Ready(Some(bytes)) if bytes.is_empty() => {}
                Poll::Ready(next) => return Poll::Ready(next),
                // The heartbeat comes last, so that its id is never ahead of an event.
                Poll::Pending if self.heartbeat.poll_tick(cx).is_ready() => {
                    return Poll::Ready(Some(heartbeat(self.subscription.cursor())));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(page) = &mut self.page {
                let Poll::Ready(piece) = page.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                self.page = None;
                return Poll::Ready(match piece {
                    Ok(Piece { bytes, to }) => {
                        self.subscription.replayed_to(to);
                        Some(bytes)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot replay from history");
                        None
                    }
                });
            }
            match self.subscription.poll_next(cx) {
                Poll::Ready(Next::Bytes(bytes)) => return Poll::Ready(Some(bytes)),
                Poll::Ready(Next::BeforeRing { floor }) => {
                    let filter = self.subscription.filter().clone();
                    let from = self.subscription.cursor();
                    self.page = Some(Box::pin(history::read(
                        self.history.clone(),
                        filter,
                        from,
                        floor,
                    )));
                }
                Poll::Ready(Next::Closed) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

// === impl Gap ===

impl Gap {
    /// Without an id: it is no position to come back to.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut data = json!({"reason": self.reason, "from": self.from, "to": self.to.to_string()});
        if let Some(missing) = self.missing {
            data["missing"] = missing.into();
        }
        control("gap", None, &data.to_string(), out);
    }
}

/// So much of what a client sent as may be sent back to it.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Moves the cursor of a client for whom nothing happens. An event, not a comment: a page's
/// script cannot see comments, and it is the script that notices silence.
fn heartbeat(cursor: Cursor) -> Bytes {
    let mut out = BytesMut::new();
    control("heartbeat", Some(&cursor.to_string()), "", &mut out);
    out.freeze()
}

fn farewell(retry: Duration) -> Bytes {
    let mut out = BytesMut::new();
    sse::retry(&mut out, retry);
    out.freeze()
}

fn control(name: &str, id: Option<&str>, data: &str, out: &mut BytesMut) {
    let event = sse::Event {
        id,
        name: Some(name),
        data,
    };
    event.encode(out);
}
