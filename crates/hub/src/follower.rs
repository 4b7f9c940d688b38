//! What a lane brings.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{sync::broadcast::error::RecvError, task::coop};
use tokio_util::sync::ReusableBoxFuture;

use crate::{
    Hub,
    lanes::{Batch, Queue},
};

/// Takes what a lane brings, batch by batch, for one client or for many.
pub struct Follower {
    hub: Arc<Hub>,
    /// The lane's next batch. The queue travels with the future that waits on it, because
    /// `recv` borrows it.
    next: ReusableBoxFuture<'static, (Result<Batch, RecvError>, Queue)>,
}

/// What came next.
#[derive(Debug)]
pub enum News {
    /// These events. They may be old ones: sent before whoever asks had caught up.
    Batch(Batch),
    /// The lane had to drop some, which are still in the ring.
    Lagged,
    /// Nothing yet. All that was the lane's up to this number has come.
    UpTo(u64),
    /// The stream has ended, or the hub is closed.
    Closed,
}

impl Follower {
    pub(crate) fn new(hub: Arc<Hub>, queue: Queue) -> Self {
        Self {
            hub,
            next: ReusableBoxFuture::new(recv(queue)),
        }
    }

    /// What comes next. After [`News::UpTo`] the task is woken when there is more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> News {
        // Read first: if the lane then has nothing, all of it up to here that was this lane's
        // has been received.
        let sent = self.hub.sent();
        let Poll::Ready((received, queue)) = self.next.poll(cx) else {
            return News::UpTo(sent);
        };
        self.next.set(recv(queue));
        match received {
            Ok(batch) => News::Batch(batch),
            Err(RecvError::Lagged(_)) => {
                self.hub.note_lag();
                News::Lagged
            }
            Err(RecvError::Closed) => News::Closed,
        }
    }
}

async fn recv(mut queue: Queue) -> (Result<Batch, RecvError>, Queue) {
    // Pending has to mean that there is nothing, and not that the task has used up its budget:
    // the cursor is moved on then. Writing to the socket goes on counting.
    let received = coop::unconstrained(queue.recv()).await;
    (received, queue)
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}
