//! A subscription, and history where its ring does not reach back far enough.

use bytes::Bytes;
use hub::{Next, Subscription};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{
    Pages,
    pages::{Bookmark, Piece, Ring},
    streams::{Closed, Source},
};

type PieceRead = Pin<Box<dyn Future<Output = Result<Piece, Arc<pg::Error>>> + Send>>;

/// What comes next for a client.
#[derive(Debug)]
pub(crate) struct Portion {
    /// Maybe nothing, if a piece of history had nothing for it.
    pub(crate) bytes: Bytes,
    /// How many events are in them, beside what a gap may say.
    pub(crate) events: u32,
    /// Where they were.
    pub(crate) source: Source,
}

/// Reads the stream from a position on, wherever it is.
pub(crate) struct Reader {
    subscription: Subscription,
    pages: Pages,
    /// The piece of history that is being read, if one is.
    piece: Option<PieceRead>,
    bookmark: Option<Bookmark>,
    /// Whether history could not be read.
    has_failed: bool,
}

impl Reader {
    pub(crate) fn new(subscription: Subscription, pages: Pages) -> Self {
        Self {
            subscription,
            pages,
            piece: None,
            bookmark: None,
            has_failed: false,
        }
    }

    pub(crate) fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    pub(crate) fn into_subscription(self) -> Subscription {
        self.subscription
    }

    /// Whether it is waiting for what happens next, and for nothing that exists already.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.piece.is_none()
    }

    /// Why it has ended, if it has.
    pub(crate) fn closed(&self) -> Closed {
        if self.has_failed {
            Closed::History
        } else {
            Closed::by_hub(self.subscription.is_replaced())
        }
    }

    /// What comes next; `None` when the stream is to end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Portion>> {
        loop {
            if let Some(reading) = &mut self.piece {
                let piece = ready!(reading.as_mut().poll(cx));
                self.piece = None;
                return Poll::Ready(match piece {
                    Ok(Piece {
                        bytes,
                        events,
                        source,
                        bookmark,
                    }) => {
                        self.subscription.replayed_to(bookmark.seq);
                        self.bookmark = Some(bookmark);
                        Some(Portion {
                            bytes,
                            events,
                            source,
                        })
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot replay from history");
                        self.has_failed = true;
                        None
                    }
                });
            }
            match self.subscription.poll_next(cx) {
                Poll::Ready(Next::Portion(portion)) => {
                    return Poll::Ready(Some(Portion {
                        bytes: portion.bytes,
                        events: portion.events,
                        source: portion.live.map_or(Source::Ring, Source::Live),
                    }));
                }
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
