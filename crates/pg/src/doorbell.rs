//! What the listener hears and the sequencer waits for.

use hub::{Cursor, Epoch};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;

/// A bell with one slot: ringing it twice before anybody looks is ringing once. Beside the
/// bell, the newest head that another hub has announced.
#[derive(Clone, Debug, Default)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    heard: Notify,
    is_rung: AtomicBool,
    is_heard: AtomicBool,
    has_newcomers: AtomicBool,
    announced: Mutex<Option<Cursor>>,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Somebody rang, or something was announced that does not fit what is known: look.
    Ring,
    /// Another hub has numbered up to here.
    Announced(u64),
}

impl Doorbell {
    /// Rings.
    pub fn ring(&self) {
        self.0.is_rung.store(true, Ordering::Release);
        self.0.heard.notify_one();
    }

    /// Rings because a hub has begun to listen, be it this one.
    pub fn ring_for_newcomer(&self) {
        self.0.has_newcomers.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether hubs have begun to listen since this was last asked.
    pub(crate) fn take_newcomers(&self) -> bool {
        self.0.has_newcomers.swap(false, Ordering::Acquire)
    }

    /// Tells of a head.
    pub fn announce(&self, head: Cursor) {
        *self.announced() = Some(head);
        self.0.heard.notify_one();
    }

    /// Says whether anybody would hear it ring. Nobody does at first. If that is news, somebody
    /// has to look: what was rung before may not have been heard.
    pub(crate) fn set_heard(&self, is_heard: bool) {
        if self.0.is_heard.swap(is_heard, Ordering::Relaxed) != is_heard {
            self.ring_for_newcomer();
        }
    }

    pub(crate) fn is_heard(&self) -> bool {
        self.0.is_heard.load(Ordering::Relaxed)
    }

    /// Waits until somebody rings or has rung since the last time, or a head is announced
    /// that is newer than the known one.
    ///
    /// # Cancel safety
    /// What was not waited for to the end stays for the next time.
    pub(crate) async fn call(&self, epoch: Epoch, known_head: u64) -> Call {
        loop {
            if self.0.is_rung.swap(false, Ordering::Acquire) {
                return Call::Ring;
            }
            let announced = *self.announced();
            match announced {
                Some(head) if head.epoch != epoch => {
                    *self.announced() = None;
                    return Call::Ring;
                }
                Some(head) if head.seq > known_head => return Call::Announced(head.seq),
                _ => self.0.heard.notified().await,
            }
        }
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, Option<Cursor>> {
        self.0
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    const EPOCH: Epoch = Epoch::new(1);

    fn call(doorbell: &Doorbell, known_head: u64) -> Option<Call> {
        let call = pin!(doorbell.call(EPOCH, known_head));
        match call.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(call) => Some(call),
            Poll::Pending => None,
        }
    }

    #[test]
    fn ringing_twice_is_ringing_once() {
        let doorbell = Doorbell::default();
        assert_eq!(call(&doorbell, 0), None);
        doorbell.ring();
        doorbell.ring();
        assert_eq!(call(&doorbell, 0), Some(Call::Ring));
        assert_eq!(call(&doorbell, 0), None);
    }

    #[test]
    fn only_news_are_announced() {
        let doorbell = Doorbell::default();
        doorbell.announce(Cursor {
            epoch: EPOCH,
            seq: 7,
        });
        assert_eq!(call(&doorbell, 6), Some(Call::Announced(7)));
        assert_eq!(call(&doorbell, 7), None);
        doorbell.announce(Cursor {
            epoch: Epoch::new(2),
            seq: 3,
        });
        assert_eq!(call(&doorbell, 7), Some(Call::Ring));
        assert_eq!(call(&doorbell, 7), None);
    }
}
