//! The body of a stream: what hyper polls for bytes.

use bytes::Bytes;
use http_body::{Body, Frame};
use hub::{Next, Subscription};
use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{
    App, Pages, Settings, control,
    pages::{Bookmark, Piece, Ring},
    stall,
};

/// A stream of events to one client.
///
/// Says what its opening says, then hands on what its subscription brings, with a heartbeat
/// now and then. Where the ring does not reach back far enough it reads history, a piece at
/// a time, and only as fast as the client takes it. When the hub closes it ends, after
/// telling the client when to come back.
pub struct EventBody {
    /// Goes out before anything else.
    opening: Option<Bytes>,
    /// `None` once the stream has ended.
    live: Option<Live>,
}

type PieceRead = Pin<Box<dyn Future<Output = Result<Piece, Arc<pg::Error>>> + Send>>;

struct Live {
    subscription: Subscription,
    pages: Pages,
    /// The piece of history that is being read, if one is.
    piece: Option<PieceRead>,
    bookmark: Option<Bookmark>,
    heartbeat: Interval,
    settings: Settings,
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
            pages: app.pages.clone(),
            piece: None,
            bookmark: None,
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
            opening: Some(control::farewell(retry)),
            live: None,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(opening));
        }
        let Some(live) = &mut self.live else {
            return Poll::Ready(None);
        };
        let settings = live.settings;
        let bytes = ready!(live.poll_bytes(cx));
        Poll::Ready(Some(bytes.unwrap_or_else(|| {
            self.live = None;
            control::farewell(settings.retry_later())
        })))
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.poll_bytes(cx);
        stall::note(matches!(next, Poll::Ready(Some(_))));
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
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
                // Nothing of this piece was for this client.
                Poll::Ready(Some(bytes)) if bytes.is_empty() => {}
                Poll::Ready(next) => return Poll::Ready(next),
                // The heartbeat comes last, so that its id is never ahead of an event.
                Poll::Pending if self.heartbeat.poll_tick(cx).is_ready() => {
                    return Poll::Ready(Some(control::heartbeat(self.subscription.cursor())));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(reading) = &mut self.piece {
                let piece = ready!(reading.as_mut().poll(cx));
                self.piece = None;
                return Poll::Ready(match piece {
                    Ok(Piece { bytes, bookmark }) => {
                        self.subscription.replayed_to(bookmark.seq);
                        self.bookmark = Some(bookmark);
                        Some(bytes)
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot replay from history");
                        None
                    }
                });
            }
            match self.subscription.poll_next(cx) {
                Poll::Ready(Next::Bytes(bytes)) => return Poll::Ready(Some(bytes)),
                Poll::Ready(Next::BeforeRing { floor, head }) => {
                    let filter = self.subscription.filter().clone();
                    let from = self.subscription.cursor();
                    let ring = Ring { floor, head };
                    let pages = self.pages.clone();
                    self.piece = Some(Box::pin(pages.next(filter, from, ring, self.bookmark)));
                }
                Poll::Ready(Next::Closed) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
