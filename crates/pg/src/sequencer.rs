//! When to look for new events, and for how long to go on.
//!
//! ```text
//!            rung, or the safety poll finds something
//!   ASLEEP ──────────────────────────────────────────► AWAKE
//!      ▲                                               │  ▲
//!      │ all that ran when the promise                 │  │ rung
//!      │ was taken back has ended                quiet │  │
//!      │                                               ▼  │
//!      └──────────────────────────────────────────── LAPSING
//! ```
//!
//! Awake, it has promised to look, so writers do not ring. Lapsing, it has taken the promise
//! back: new writers ring, and it looks now and then for those that saw the promise and have
//! not committed yet. Network drivers treat interrupts the same way (Linux NAPI).

use std::time::Duration;
use tokio::time::{self, Instant};
use tokio_postgres::{Client, Statement, types::ToSql};

use crate::{Doorbell, Error, Metrics};

/// For how long a look promises the next ones. The shorter, the sooner writers ring for
/// another instance if this one dies; much longer than any pause between two looks.
const PROMISE: Duration = Duration::from_millis(250);

/// How long it stays awake after the last event. Bounds the notifications to ten a second.
const LINGER: Duration = Duration::from_millis(100);

/// Pauses between looks while awake: short after an event, longer when there was none.
const AWAKE_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));

/// Pauses between looks while lapsing. They grow because only somebody's long transaction
/// is left to wait for.
const LAPSING_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Between looks while asleep. Finds what nobody rings for: a restored dump, triggers that
/// were switched off, a hub that died while awake.
const SAFETY_POLL: Duration = Duration::from_secs(1);

/// How long one look may take. Numbering a load of millions of rows takes seconds.
const LOOK_TIMEOUT: Duration = Duration::from_mins(2);

/// Numbers what has committed, at the right moments, on one connection.
#[derive(Debug)]
pub(crate) struct Sequencer {
    client: Client,
    advance: Statement,
    lapse: Statement,
    doorbell: Doorbell,
    metrics: Metrics,
    state: State,
    /// The newest number in the stream, and the snapshot up to which nothing is missing in it.
    known: Option<(u64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody is awake: waits for the bell.
    Asleep,
    /// Has promised to look.
    Awake {
        pause: Duration,
        last_event: Instant,
    },
    /// Has taken the promise back; waits for all transactions below the fence to end.
    Lapsing { pause: Duration, fence: i64 },
}

/// What one look found.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Whether the stream grew, whoever numbered.
    grew: bool,
    /// All transactions below this one had ended when it looked.
    ended_below: i64,
}

impl Sequencer {
    /// Takes over a connection. Starts awake: it does not know what happened before.
    pub(crate) async fn new(
        client: Client,
        doorbell: Doorbell,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let failed = |error| Error::Query("prepare to look for events", error);
        let advance = client
            .prepare(
                "SELECT head, looked::text, looked_xmin, numbered
                 FROM bellwether.advance($1, $2, $3::text::pg_snapshot)",
            )
            .await
            .map_err(failed)?;
        let lapse = client
            .prepare("SELECT bellwether.lapse()")
            .await
            .map_err(failed)?;
        let state = State::awake();
        Ok(Self {
            client,
            advance,
            lapse,
            doorbell,
            metrics,
            state,
            known: None,
        })
    }

    /// The connection, for reading what was numbered.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Looks at once. Returns the newest number in the stream.
    pub(crate) async fn look_now(&mut self) -> Result<u64, Error> {
        self.look(true).await?;
        Ok(self.head())
    }

    /// Waits until there are events beyond what is known; returns the newest one's number.
    pub(crate) async fn wait_for_events(&mut self) -> Result<u64, Error> {
        while !self.step().await? {}
        Ok(self.head())
    }

    /// One pause and one look, and what follows from it. Returns whether the stream grew.
    async fn step(&mut self) -> Result<bool, Error> {
        match self.state {
            State::Asleep => {
                let rung = self.rung_within(SAFETY_POLL).await;
                let look = self.look(rung).await?;
                if rung || look.grew {
                    self.state = State::awake();
                }
                Ok(look.grew)
            }
            State::Awake { pause, last_event } => {
                self.rung_within(pause).await;
                let look = self.look(true).await?;
                self.state = if look.grew {
                    State::awake()
                } else if last_event.elapsed() < LINGER {
                    let pause = (pause * 2).min(AWAKE_PAUSE.1);
                    State::Awake { pause, last_event }
                } else {
                    let fence = self.lapse().await?;
                    State::Lapsing {
                        pause: LAPSING_PAUSE.0,
                        fence,
                    }
                };
                Ok(look.grew)
            }
            State::Lapsing { pause, fence } => {
                let rung = self.rung_within(pause).await;
                let look = self.look(rung).await?;
                self.state = if rung {
                    State::awake()
                } else if look.ended_below > fence {
                    // That look came after the last of them, so it missed none.
                    self.metrics.sleeps.inc();
                    State::Asleep
                } else {
                    let pause = (pause * 2).min(LAPSING_PAUSE.1);
                    State::Lapsing { pause, fence }
                };
                Ok(look.grew)
            }
        }
    }

    async fn rung_within(&self, pause: Duration) -> bool {
        time::timeout(pause, self.doorbell.rung()).await.is_ok()
    }

    /// Numbers what is new; with a promise, writers need not ring for a while.
    async fn look(&mut self, promise: bool) -> Result<Look, Error> {
        let promise_ms = if promise {
            i32::try_from(PROMISE.as_millis()).expect("it is short")
        } else {
            0
        };
        let (head, looked) = match &self.known {
            Some((head, looked)) => (i64::try_from(*head).ok(), Some(looked.as_str())),
            None => (None, None),
        };
        let known: [&(dyn ToSql + Sync); 3] = [&promise_ms, &head, &looked];
        let asked = self.client.query_one(&self.advance, &known);
        let row = time::timeout(LOOK_TIMEOUT, asked)
            .await
            .map_err(|_| Error::TimedOut("look for events", LOOK_TIMEOUT))?
            .map_err(|error| Error::Query("look for events", error))?;

        let head = u64::try_from(row.get::<_, i64>(0))
            .map_err(|_| Error::Decode("a negative head".to_owned()))?;
        let numbered = u64::try_from(row.get::<_, i64>(3)).unwrap_or(0);
        let grew = self.known.as_ref().is_some_and(|(known, _)| head != *known);
        self.metrics.looks.inc();
        self.metrics.numbered.inc_by(numbered);
        if self.state == State::Asleep && !promise {
            self.metrics.found_by_safety_poll.inc_by(numbered);
        }
        self.known = Some((head, row.get(1)));
        Ok(Look {
            grew,
            ended_below: row.get(2),
        })
    }

    /// Takes the promise back. All who saw it have transaction ids below the fence.
    async fn lapse(&self) -> Result<i64, Error> {
        let row = self.client.query_one(&self.lapse, &[]).await;
        Ok(row
            .map_err(|error| Error::Query("take back the promise to look", error))?
            .get(0))
    }

    fn head(&self) -> u64 {
        self.known.as_ref().map_or(0, |(head, _)| *head)
    }
}

impl State {
    fn awake() -> Self {
        Self::Awake {
            pause: AWAKE_PAUSE.0,
            last_event: Instant::now(),
        }
    }
}
