//! What systemd is told, if it is there (`Type=notify`).
//!
//! There is no watchdog: a timer that goes off says that a timer goes off. What a hub needs to do
//! its work, `/readyz` knows, and a restart brings none of it back.

use sd_notify::NotifyState;

/// The hub is ready.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// It is shutting down.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
