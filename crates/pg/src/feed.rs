//! The stream as it grows: batch after batch, over as many connections as it takes.

use hub::{Epoch, Event};
use std::time::Duration;
use tokio::{sync::watch, time};
use tokio_postgres::Statement;

use crate::{
    Backoff, Database, Doorbell, Error, Link, Metrics,
    error::chain,
    history::{AFTER, PAGE_EVENTS, read_after},
    sequencer::Sequencer,
};

/// Follows the stream: numbers what is new, or sees that another instance has, and reads it.
#[derive(Debug)]
pub struct Feed {
    database: Database,
    doorbell: Doorbell,
    metrics: Metrics,
    /// Most events to begin with.
    recent: usize,
    link: watch::Sender<Link>,
    backoff: Backoff,
    session: Option<Session>,
    /// The stream that is followed and the last event that was handed out.
    at: Option<(Epoch, u64)>,
}

/// What happened to the stream.
#[derive(Debug)]
pub enum Update {
    /// It begins, or another one takes its place: start afresh with these recent events.
    Opened {
        /// Its epoch.
        epoch: Epoch,
        /// Number of its newest event.
        head: u64,
        /// The newest events, up to `head`.
        recent: Vec<Event>,
    },
    /// It has grown.
    Grown {
        /// Its epoch.
        epoch: Epoch,
        /// By these events, at least one.
        events: Vec<Event>,
    },
}

/// One connection's worth of following.
#[derive(Debug)]
struct Session {
    sequencer: Sequencer,
    after: Statement,
    epoch: Epoch,
    head: u64,
}

impl Feed {
    /// A feed that is not connected yet and will begin with up to `recent` events.
    pub fn new(database: Database, doorbell: Doorbell, metrics: Metrics, recent: usize) -> Self {
        Self {
            database,
            doorbell,
            metrics,
            recent,
            link: watch::Sender::new(Link::Down("not connected yet".to_owned())),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            session: None,
            at: None,
        }
    }

    /// Whether it follows, and is not behind.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Waits for the next thing to happen. Reconnects for as long as it takes.
    pub async fn next(&mut self) -> Update {
        loop {
            match self.try_next().await {
                Ok(update) => {
                    self.backoff.reset();
                    return update;
                }
                Err(error) => {
                    self.session = None;
                    let delay = self.backoff.next(fastrand::f64());
                    let reason = chain(&error);
                    tracing::warn!(error = %reason, retry_ms = delay.as_millis(), "not following the stream");
                    self.link
                        .send_replace(Link::Down(format!("not following the stream: {reason}")));
                    time::sleep(delay).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<Update, Error> {
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                none.insert(Session::connect(&self.database, &self.doorbell, &self.metrics).await?)
            }
        };
        let (epoch, seq) = match self.at {
            Some((epoch, seq)) if epoch == session.epoch && seq <= session.head => (epoch, seq),
            _ => {
                let (epoch, head) = (session.epoch, session.head);
                let recent = session.recent(self.recent).await?;
                self.metrics.read.inc_by(recent.len() as u64);
                tracing::info!(%epoch, head, recent = recent.len(), "following the stream");
                self.at = Some((epoch, head));
                return Ok(Update::Opened {
                    epoch,
                    head,
                    recent,
                });
            }
        };
        if session.head == seq {
            // Nothing left to read, so this is where it is not behind.
            set(&self.link, Link::Up);
            session.head = session.sequencer.wait_for_events().await?;
        }
        let events = read_after(session.sequencer.client(), &session.after, seq).await?;
        let Some(last) = events.last().map(|event| event.seq) else {
            return Err(Error::Decode(format!(
                "nothing follows {seq}, though {} exists",
                session.head
            )));
        };
        if events[0].seq != seq + 1 {
            return Err(Error::Decode(format!("{} follows {seq}", events[0].seq)));
        }
        let behind = session.head.saturating_sub(last);
        if behind > PAGE_EVENTS.unsigned_abs() {
            set(&self.link, Link::Down(format!("{behind} events behind")));
        }
        self.metrics.read.inc_by(events.len() as u64);
        self.at = Some((epoch, last));
        Ok(Update::Grown { epoch, events })
    }
}

impl Session {
    async fn connect(
        database: &Database,
        doorbell: &Doorbell,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        let client = database.connect().await?;
        let failed = |error| Error::Query("read the epoch", error);
        let row = client
            .query_one(
                "SELECT id FROM bellwether.epoch ORDER BY n DESC LIMIT 1",
                &[],
            )
            .await
            .map_err(failed)?;
        let epoch: &str = row.get(0);
        let epoch = epoch
            .parse()
            .map_err(|_| Error::Decode(format!("{epoch:?} is no epoch")))?;
        let after = client.prepare(AFTER).await.map_err(failed)?;
        let mut sequencer = Sequencer::new(client, doorbell.clone(), metrics.clone()).await?;
        let head = sequencer.look_now().await?;
        Ok(Self {
            sequencer,
            after,
            epoch,
            head,
        })
    }

    /// The newest events.
    async fn recent(&self, most: usize) -> Result<Vec<Event>, Error> {
        let mut recent = Vec::new();
        let mut seq = self.head.saturating_sub(most as u64);
        while seq < self.head {
            let mut page = read_after(self.sequencer.client(), &self.after, seq).await?;
            let Some(last) = page.last() else {
                return Err(Error::Decode(format!(
                    "nothing follows {seq}, though {} exists",
                    self.head
                )));
            };
            seq = last.seq;
            if page[0].seq
                != recent
                    .last()
                    .map_or(page[0].seq, |event: &Event| event.seq + 1)
            {
                // Older ones were deleted meanwhile.
                recent.clear();
            }
            recent.append(&mut page);
        }
        Ok(recent)
    }
}

/// Tells the watchers, if it is news.
fn set(link: &watch::Sender<Link>, to: Link) {
    link.send_if_modified(|now| {
        let news = *now != to;
        *now = to;
        news
    });
}
