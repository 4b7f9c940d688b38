//! HTTP/2 streams whose client takes nothing.
//!
//! Over HTTP/1.1 that is a socket that takes nothing. An HTTP/2 client can keep the window of a
//! single stream shut, and go on with the others. hyper then waits to send the piece it has, for as
//! long as it takes, and does not poll the body, so the body cannot end it. But hyper runs each
//! stream as a future on an executor of our choice, and so can be told when to give up.

use hyper::rt::Executor;
use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

use crate::streams::drop_stalled;

thread_local! {
    /// What the body did that was polled last on this thread: whether it handed out a piece.
    static HANDED_OUT: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Says, at the end of a body's poll, whether it handed out a piece.
pub(crate) fn note(handed_out: bool) {
    HANDED_OUT.set(Some(handed_out));
}

/// Runs streams, and drops one, which resets it, when its client takes nothing for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallExecutor {
    pub(crate) timeout: Duration,
}

/// A stream as hyper made it.
struct Stream<F> {
    /// `None` once it was dropped.
    inner: Option<Pin<Box<F>>>,
    timeout: Duration,
    /// Runs while a piece is handed out that hyper has not come back from.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<F> Executor<F> for StallExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Stream {
            inner: Some(Box::pin(stream)),
            timeout: self.timeout,
            stalled: None,
        });
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        HANDED_OUT.set(None);
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(());
        };
        if inner.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match HANDED_OUT.take() {
            Some(true) => self.stalled = Some(Box::pin(sleep(self.timeout))),
            Some(false) => self.stalled = None,
            // hyper did not get as far as the body.
            None => {}
        }
        let Some(stalled) = &mut self.stalled else {
            return Poll::Pending;
        };
        let timed_out = stalled.as_mut().poll(cx);
        if timed_out.is_ready() {
            tracing::debug!("stream reset: its client takes nothing");
            drop_stalled(self.inner.take());
        }
        timed_out
    }
}
