//! The one connection that listens.

use hub::Cursor;
use std::{convert::Infallible, future::poll_fn, time::Duration};
use tokio::{sync::watch, time};
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};
use tokio_util::sync::CancellationToken;

use crate::{
    Backoff, Database, Doorbell, Error, Link, Metrics, chain, database::TlsStream, limit::within,
    rights,
};

/// The lock is what other hubs count, to know whether anybody wants announcements; it goes
/// with the session. That a hub has come has them count anew.
const LISTEN: &str = "
    LISTEN bellwether; SELECT pg_advisory_lock_shared(bellwether.hub_lock());
    SELECT bellwether.notify('hub')";

/// What is said there by a hub that has come.
const NEWCOMER: &str = "hub";

/// Whether the session still listens, and whether writers can ring: how full the server's
/// queue of notifications is, of 1.
const PING: &str = "
    SELECT bellwether.can_notify(), pg_notification_queue_usage() FROM pg_listening_channels()";

/// How often that is asked. A peer's kernel may answer keepalive probes for a session that is
/// long dead.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Listens on the channel `bellwether`, on a connection of its own, and reconnects.
#[derive(Debug)]
pub struct Listener {
    database: Database,
    doorbell: Doorbell,
    metrics: Metrics,
    link: watch::Sender<Link>,
}

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
        let mut backoff = Backoff::reconnect();
        let lives = async {
            loop {
                let Err(error) = self.listen(&mut backoff).await;
                self.doorbell.set_heard(false);
                let error = rights::explain_hub(&self.database, error).await;
                let delay = backoff.next(fastrand::f64());
                let reason = chain(&error);
                Link::Down(format!("not listening: {reason}")).tell(&self.link);
                time::sleep(delay).await;
            }
        };
        stop.run_until_cancelled(lives).await;
        // What is still published is to be found, though nobody hears of it.
        self.doorbell.set_heard(false);
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
        mut connection: Connection<Socket, TlsStream>,
    ) -> Result<Infallible, Error> {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(heard))) => self.hear(heard.payload()),
                Some(Ok(_notice)) => {}
                Some(Err(error)) => return Err(Error::Query("go on listening", error)),
                None => return Err(Error::Closed),
            }
        }
    }

    /// Anybody may notify, so what is no announcement is taken for a ring, which costs a look.
    fn hear(&self, payload: &str) {
        if let Ok(head) = payload.parse::<Cursor>() {
            self.metrics.announcements.inc();
            self.doorbell.announce(head);
            return;
        }
        self.metrics.rings.inc();
        if payload == NEWCOMER {
            self.doorbell.ring_for_newcomer();
        } else {
            self.doorbell.ring();
        }
    }

    /// Listens first, then has somebody look at what happened before, then keeps asking.
    async fn attend(&self, client: &Client, backoff: &mut Backoff) -> Result<Infallible, Error> {
        within("listen", client.batch_execute(LISTEN)).await?;
        self.metrics.listens.inc();
        self.doorbell.set_heard(true);
        Link::Up.tell(&self.link);
        tracing::info!(database = %self.database, "listening");
        loop {
            let ping = within("ask whether we listen", client.query_opt(PING, &[])).await?;
            let ping = ping.ok_or(Error::NotListening)?;
            self.watch_queue(ping.get(0), ping.get(1));
            time::sleep(PING_INTERVAL).await;
            backoff.reset();
        }
    }

    /// Writers do not ring while the queue is long, so then nobody should wait for it.
    fn watch_queue(&self, can_notify: bool, usage: f64) {
        self.metrics.queue_usage.set(usage);
        self.doorbell.set_heard(can_notify);
        let state = if can_notify {
            Link::Up
        } else {
            Link::Strained(format!(
                "the server's queue of notifications is {:.0} % full, so hubs look by themselves: \
                 end the session that listens and has been in a transaction for long (pg_stat_activity)",
                usage * 100.0
            ))
        };
        state.tell(&self.link);
    }
}
