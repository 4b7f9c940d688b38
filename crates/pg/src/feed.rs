//! The stream as it grows: batch after batch, over as many connections as it takes.

use hub::{Ancestor, Cursor, Epoch, Event};
use std::sync::Arc;
use tokio::{sync::watch, time};
use tokio_postgres::{Client, Row, Statement, types::ToSql};
use tracing::{Instrument, field::Empty};

use crate::{
    Backoff, Database, Doorbell, Error, Link, Metrics, SPANS, counted,
    error::chain,
    limit::within,
    page::{AFTER, Pager, event},
    rights,
    sequencer::Sequencer,
};

/// Who numbers holds the lock for as long as that takes, be it minutes after a load of
/// millions of rows, and goes on to the end if its hub has given up waiting for the answer;
/// but nobody queues behind it for long, or those who gave up would be ever more.
const PATIENCE: &str = "SET lock_timeout = '5s'; SET client_connection_check_interval = 0";

/// Most events that are read at once. So many behind the head, it is not ready.
const PAGE_EVENTS: u64 = 1000;

/// The state of each topic that has one.
const STATES: &str = "SELECT seq, topic, name, key, data::text, at, true FROM bellwether.state";

/// Follows the stream: numbers what is new, or sees that another instance has, and reads it.
#[derive(Debug)]
pub struct Feed {
    database: Database,
    doorbell: Doorbell,
    metrics: Metrics,
    /// This hub's number among those on the database: random, as nobody gives them out.
    hub: i64,
    /// Most events to begin with.
    recent: usize,
    link: watch::Sender<Link>,
    backoff: Backoff,
    session: Option<Session>,
    /// The last event that was handed out.
    at: watch::Sender<Option<Cursor>>,
}

/// What happened to the stream.
#[derive(Debug)]
pub enum Update {
    /// It begins, or another one takes its place: start afresh with these recent events.
    Opened {
        /// Its epoch.
        epoch: Epoch,
        /// The epochs that it continues, oldest first.
        ancestors: Vec<Ancestor>,
        /// Number of its newest event.
        head: u64,
        /// The newest events, up to `head`.
        recent: Vec<Event>,
        /// The last event of each topic that has a state.
        states: Vec<Event>,
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
    stream: Stream,
    epoch: Epoch,
}

/// The stream as it stands in the tables.
#[derive(Debug)]
struct Stream {
    client: Arc<Client>,
    after: Statement,
    pager: Pager,
}

impl Feed {
    /// A feed that is not connected yet and will begin with up to `recent` events.
    pub fn new(database: Database, doorbell: Doorbell, metrics: Metrics, recent: usize) -> Self {
        Self {
            database,
            doorbell,
            metrics,
            hub: fastrand::i64(1..),
            recent,
            link: watch::Sender::new(Link::Down("not connected yet".to_owned())),
            backoff: Backoff::reconnect(),
            session: None,
            at: watch::Sender::new(None),
        }
    }

    /// The last event that was handed out.
    pub fn at(&self) -> watch::Receiver<Option<Cursor>> {
        self.at.subscribe()
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
                    let error = rights::explain_hub(&self.database, error).await;
                    let delay = self.backoff.next(fastrand::f64());
                    let reason = chain(&error);
                    Link::Down(format!("not following the stream: {reason}")).tell(&self.link);
                    time::sleep(delay).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<Update, Error> {
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                let (doorbell, metrics) = (self.doorbell.clone(), self.metrics.clone());
                let at = *self.at.borrow();
                let session = Session::connect(&self.database, self.hub, doorbell, metrics, at);
                none.insert(session.await?)
            }
        };
        let at = *self.at.borrow();
        let at = match at {
            Some(at) if at.epoch == session.epoch => at,
            former => {
                let _look = session.sequencer.take_span();
                let update = session.open(self.recent).await?;
                let Update::Opened {
                    epoch,
                    head,
                    recent,
                    ..
                } = &update
                else {
                    return Ok(update);
                };
                tracing::info!(%epoch, head, recent = recent.len(), "following the stream");
                self.metrics.read.inc_by(recent.len() as u64);
                self.metrics.epochs.inc_by(former.is_some().into());
                self.at.send_replace(Some(Cursor {
                    epoch: *epoch,
                    seq: *head,
                }));
                return Ok(update);
            }
        };
        let mut events = Vec::new();
        if session.sequencer.head() == at.seq {
            // Nothing left to read, so this is where it is not behind.
            Link::Up.tell(&self.link);
            events = session.sequencer.wait_for_events().await?;
        }
        if events.is_empty() {
            events = session.read_on(at.seq).await?;
        }
        let events = follows(at.seq, events)?;
        let head = session.sequencer.head();
        let seq = events.last().map_or(at.seq, |event| event.seq);
        let behind = head.saturating_sub(seq);
        self.metrics.behind.set(behind);
        if behind > PAGE_EVENTS {
            self.link
                .send_replace(Link::Down(format!("{behind} events behind")));
        }
        self.metrics.read.inc_by(events.len() as u64);
        self.at.send_replace(Some(Cursor { seq, ..at }));
        Ok(Update::Grown {
            epoch: at.epoch,
            events,
        })
    }
}

impl Session {
    async fn connect(
        database: &Database,
        hub: i64,
        doorbell: Doorbell,
        metrics: Metrics,
        known: Option<Cursor>,
    ) -> Result<Self, Error> {
        let client = Arc::new(database.connect().await?);
        let known_epoch = known.map(|known| known.epoch.to_string());
        let known_head = known.and_then(|known| i64::try_from(known.seq).ok());
        let known: [&(dyn ToSql + Sync); 2] = [&known_epoch, &known_head];
        let connect = "SELECT epoch FROM bellwether.connect($1, $2)";
        // Sent together, for one round trip.
        let join = async {
            tokio::try_join!(
                client.batch_execute(PATIENCE),
                client.query_one(connect, &known),
                client.prepare(AFTER),
            )
        };
        let ((), row, after) = within("join the stream", join).await?;
        let epoch = parse_epoch(row.get(0))?;
        let own = Arc::clone(&client);
        let sequencer = Sequencer::new(own, hub, doorbell, metrics, epoch).await?;
        let stream = Stream {
            client,
            after,
            pager: Pager::default(),
        };
        Ok(Self {
            sequencer,
            stream,
            epoch,
        })
    }

    /// The stream as it stands.
    async fn open(&self, most: usize) -> Result<Update, Error> {
        let head = self.sequencer.head();
        let recent = self.stream.recent(head, most).await?;
        let ancestors = self.stream.ancestors().await?;
        let mut states = self.stream.states().await?;
        // What another hub numbers meanwhile comes later, here too.
        states.retain(|event| event.seq <= head);
        Ok(Update::Opened {
            epoch: self.epoch,
            ancestors,
            head,
            recent,
            states,
        })
    }

    /// A page of what follows a position, which exists, up to the head.
    ///
    /// If that is not the last one, what has come meanwhile is numbered along with it. To leave that until
    /// all is read makes batches ever larger where the processors are busy; and nobody is sent anything while
    /// they are numbered, promises run out, and then more comes at once than the ring holds.
    async fn read_on(&mut self, seq: u64) -> Result<Vec<Event>, Error> {
        let missing = self.sequencer.head() - seq;
        let look = self.sequencer.take_span();
        let span = tracing::trace_span!(target: SPANS, parent: &look, "read", events = Empty);
        let is_last = missing <= self.stream.pager.likely(PAGE_EVENTS);
        let page = self.stream.page(seq, missing.min(PAGE_EVENTS));
        let page = page.instrument(span.clone());
        let events = if is_last {
            page.await?
        } else {
            // Sent together: the numbering begins when that is read.
            let (events, ()) = tokio::try_join!(page, self.sequencer.number_meanwhile())?;
            events
        };
        span.record("events", counted(events.len()));
        Ok(events)
    }
}

impl Stream {
    /// The newest events.
    async fn recent(&self, head: u64, most: usize) -> Result<Vec<Event>, Error> {
        let mut recent: Vec<Event> = Vec::new();
        let mut seq = head.saturating_sub(most as u64);
        while seq < head {
            let mut page = self.page(seq, PAGE_EVENTS).await?;
            let Some(last) = page.last() else { break };
            let is_next = recent
                .last()
                .is_none_or(|event| event.seq + 1 == page[0].seq);
            if !is_next {
                // Older ones were deleted meanwhile.
                recent.clear();
            }
            seq = last.seq;
            recent.append(&mut page);
        }
        // What another hub numbers meanwhile comes later; and if the newest are gone, there
        // is nothing that ends where the stream does.
        recent.retain(|event| event.seq <= head);
        if recent.last().is_some_and(|event| event.seq < head) {
            recent.clear();
        }
        Ok(recent)
    }

    /// The epochs before this one, oldest first.
    async fn ancestors(&self) -> Result<Vec<Ancestor>, Error> {
        let ancestors =
            "SELECT id, lead(after_seq) OVER (ORDER BY n) FROM bellwether.epoch ORDER BY n";
        let rows = within("read the epochs", self.client.query(ancestors, &[])).await?;
        let ancestor = |row: &Row| {
            // The newest has none after it, and is no ancestor of itself.
            let until = row.get::<_, Option<i64>>(1)?.unsigned_abs();
            Some(parse_epoch(row.get(0)).map(|epoch| Ancestor { epoch, until }))
        };
        rows.iter().filter_map(ancestor).collect()
    }

    /// The last event of each topic that has a state.
    async fn states(&self) -> Result<Vec<Event>, Error> {
        let states = self.client.query(STATES, &[]);
        let rows = within("read the topics' states", states).await?;
        rows.iter().map(|row| event(row, None)).collect()
    }

    /// Up to so many events that follow a position; fewer if they are large.
    async fn page(&self, seq: u64, at_most: u64) -> Result<Vec<Event>, Error> {
        let page = self.pager.read(&self.client, &self.after, seq, at_most);
        within("read what is new", page).await?
    }
}

/// These events, if they are what comes after a position.
fn follows(seq: u64, events: Vec<Event>) -> Result<Vec<Event>, Error> {
    match events.first() {
        Some(first) if first.seq == seq + 1 => Ok(events),
        Some(first) => Err(Error::Decode(format!("{} follows {seq}", first.seq))),
        None => Err(Error::Decode(format!(
            "nothing follows {seq}, though there is more"
        ))),
    }
}

fn parse_epoch(text: &str) -> Result<Epoch, Error> {
    text.parse()
        .map_err(|_| Error::Decode(format!("{text:?} is no epoch")))
}
