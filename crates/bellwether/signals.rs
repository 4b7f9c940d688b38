//! Ctrl-C and SIGTERM.

use anyhow::{Result, anyhow};
use std::pin::pin;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serves until the first signal, then until it has given notice, then drains. A second signal
/// ends it at once.
pub(crate) async fn drain(
    serving: impl Future<Output = Result<(), server::Unfinished>>,
    notice: impl Future<Output = ()>,
    stop: &CancellationToken,
) -> Result<()> {
    let mut serving = pin!(serving);
    tokio::select! {
        done = &mut serving => return Ok(done?),
        () = asked_to_stop() => {}
    }
    let ending = async {
        notice.await;
        stop.cancel();
        serving.await
    };
    tokio::select! {
        done = ending => Ok(done?),
        () = asked_to_stop() => Err(anyhow!("told to stop twice: not waiting for clients")),
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn asked_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tracing::error!("cannot watch for signals: only a kill will stop this");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
