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
};

type PieceRead = Pin<Box<dyn Future<Output = Result<Piece, Arc<pg::Error>>> + Send>>;

/// Reads the stream from a position on, wherever it is.
pub(crate) struct Reader {
    subscription: Subscription,
    pages: Pages,
    /// The piece of history that is being read, if one is.
    piece: Option<PieceRead>,
    bookmark: Option<Bookmark>,
}

impl Reader {
    pub(crate) fn new(subscription: Subscription, pages: Pages) -> Self {
        Self {
            subscription,
            pages,
            piece: None,
            bookmark: None,
        }
    }

    pub(crate) fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Whether it is waiting for what happens next, and for nothing that exists already.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.piece.is_none()
    }

    /// What comes next, maybe nothing of a page; `None` when the stream is to end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
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
