//! Ctrl-C, SIGTERM and SIGHUP.

use anyhow::{Context, Result, anyhow};
use server::App;
use std::{
    io::{IsTerminal, stderr},
    pin::pin,
};
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
    let notice = async {
        notice.await;
        stop.cancel();
    };
    // It serves on meanwhile.
    let ending = async { tokio::join!(notice, serving).1 };
    tokio::select! {
        done = ending => Ok(done?),
        () = asked_to_stop() => Err(anyhow!("told to stop twice: not waiting for clients")),
    }
}

/// Reads anew, at each SIGHUP, what is in files. Never ends. In a terminal, SIGHUP says that this is
/// gone, and ends the program.
pub(crate) async fn reload(app: &App) -> Result<()> {
    if stderr().is_terminal() {
        return std::future::pending().await;
    }
    let mut hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    loop {
        hangup.recv().await;
        tracing::info!("SIGHUP: reading the certificate and the keys anew");
        app.edge.reload();
        if let Err(error) = app.gate.reload().await {
            tracing::error!(error = %pg::chain(&error), "the keys stay as they were");
        }
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
