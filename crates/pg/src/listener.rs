//! The one connection that listens.

use std::{convert::Infallible, future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time,
};
use tokio_postgres::{AsyncMessage, Client, Connection, Socket, tls::NoTlsStream};
use tokio_util::sync::CancellationToken;

use crate::{Backoff, Database, Error, Link, Metrics};

/// How often the session is asked whether it still listens. A peer's kernel may answer
/// keepalive probes for a session that is long dead.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What the listener hears and the sequencer waits for. One slot: ringing twice before
/// anybody looks is ringing once.
#[derive(Clone, Debug, Default)]
pub struct Doorbell(Arc<Notify>);

/// Listens on the channel `bellwether`, on a connection of its own, and reconnects.
#[derive(Debug)]
pub struct Listener {
    database: Database,
    doorbell: Doorbell,
    metrics: Metrics,
    link: watch::Sender<Link>,
}

// === impl Doorbell ===

impl Doorbell {
    /// Wakes who waits, or else the next one who will.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits until somebody rings, or has rung since the last time.
    ///
    /// # Cancel safety
    /// A ring that was not waited for to the end stays for the next time.
    pub async fn rung(&self) {
        self.0.notified().await;
    }
}

// === impl Listener ===

impl Listener {
    /// A listener that will ring this bell.
    pub fn new(database: Database, doorbell: Doorbell, metrics: Metrics) -> Self {
        let link = watch::Sender::new(Link::Down("not connected yet".to_owned()));
        Self {
            database,
            doorbell,
            metrics,
            link,
        }
    }

    /// Whether it listens.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Listens until it is told to stop.
    #[tracing::instrument(name = "listen", skip_all)]
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let lives = async {
            loop {
                let Err(error) = self.listen(&mut backoff).await;
                let delay = backoff.next(fastrand::f64());
                let reason = crate::error::chain(&error);
                tracing::warn!(error = %reason, retry_ms = delay.as_millis(), "not listening");
                self.link
                    .send_replace(Link::Down(format!("not listening: {reason}")));
                time::sleep(delay).await;
            }
        };
        stop.run_until_cancelled(lives).await;
    }

    /// One connection's life.
    async fn listen(&self, backoff: &mut Backoff) -> Result<Infallible, Error> {
        let (client, connection) = self.database.connect_raw().await?;
        tokio::select! {
            ended = self.drain(connection) => ended,
            failed = self.attend(&client, backoff) => failed,
        }
    }

    /// Reads whatever comes, always: the server keeps every notification of the cluster
    /// until its slowest listener has taken it.
    async fn drain(
        &self,
        mut connection: Connection<Socket, NoTlsStream>,
    ) -> Result<Infallible, Error> {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(_))) => {
                    self.metrics.rings.inc();
                    self.doorbell.ring();
                }
                Some(Ok(_notice)) => {}
                Some(Err(error)) => return Err(Error::Query("go on listening", error)),
                None => return Err(Error::Closed),
            }
        }
    }

    /// Listens first, then has somebody look at what happened before, then keeps asking.
    async fn attend(&self, client: &Client, backoff: &mut Backoff) -> Result<Infallible, Error> {
        let listen = client.batch_execute("LISTEN bellwether");
        within("LISTEN", listen).await?;
        self.metrics.listens.inc();
        self.doorbell.ring();
        self.link.send_replace(Link::Up);
        tracing::info!(database = %self.database, "listening");
        loop {
            time::sleep(PING_INTERVAL).await;
            let ping = client.query("SELECT FROM pg_listening_channels()", &[]);
            if within("a ping", ping).await?.is_empty() {
                return Err(Error::NotListening);
            }
            backoff.reset();
        }
    }
}

async fn within<T>(
    what: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match time::timeout(PING_TIMEOUT, query).await {
        Ok(answer) => answer.map_err(|error| Error::Query("listen", error)),
        Err(_) => Err(Error::TimedOut(what, PING_TIMEOUT)),
    }
}
