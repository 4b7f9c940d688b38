//! When to look for new events, and for how long to go on.
//!
//! ```text
//!            rung, or a promise was broken                 another is awake
//!   ASLEEP ─────────────────────────────────► AWAKE ─────────────────────────► FOLLOWING
//!      ▲                                      │  ▲                                │
//!      │ all that ran when the promise  quiet │  │ rung                           │
//!      │ was taken back has ended             ▼  │                                │
//!      ├──────────────────────────────────── LAPSING                              │
//!      │                        the other took its promise back                   │
//!      └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Where the bell is rung now and then, it looks once, and stays asleep: who comes next rings, too. Awake, it has
//! promised to look, so writers do not ring. Lapsing, it has taken the promise back: new writers
//! ring, and it looks now and then for those that saw the promise and have not committed yet.
//! Network drivers treat interrupts the same way (Linux NAPI).
//!
//! Of several hubs on one database, the one that answers the bell first is awake, and the
//! others follow: they are told of each batch, and watch that the promise is kept.

use hub::{Cursor, Epoch, Event};
use std::{mem, sync::Arc, time::Duration};
use tokio::time::{self, Instant};
use tokio_postgres::{Client, Statement, types::ToSql};
use tracing::{Span, field::Empty};

use crate::{
    Doorbell, Error, Metrics, SPANS, counted,
    doorbell::Call,
    limit::within,
    page::{self, position},
};

/// For how long a look promises the next ones. The shorter, the sooner another hub takes
/// over if this one dies; much longer than any pause between two looks.
const PROMISE: Duration = Duration::from_millis(250);

/// Mean times between commits: below the first a hub that is rung stays awake, above the second it
/// leaves. A ring costs about what 10 ms of looking do, but what it announces is found some ms sooner;
/// and a commit that rings holds a lock of the whole cluster, for a millisecond or so. So up to a quarter
/// of all time may go to that.
const ALONE: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(8));

/// The same where there are other hubs, which all hear each ring, and look.
const WITH_OTHERS: (Duration, Duration) = (Duration::from_millis(12), Duration::from_millis(16));

/// Looks in vain before the one with which it leaves, however long they took: a machine that is full
/// lets nobody do anything for a while.
const PATIENCE: u32 = 3;

/// Pauses between looks while awake: short after an event, longer when there was none.
const AWAKE_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));

/// Pauses between looks while lapsing. They grow because only somebody's long transaction
/// is left to wait for.
const LAPSING_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// How often a follower sees for itself whether the promise is kept.
const FOLLOWING_PAUSE: Duration = PROMISE;

/// Between looks while asleep. Finds what nobody rings for: a restored dump, triggers that
/// were switched off, what a hub that died while lapsing was waiting for.
const SAFETY_POLL: Duration = Duration::from_secs(1);

/// Between looks, whoever else is awake, while the listener is away and nothing is heard.
const DEAF_PAUSE: Duration = Duration::from_millis(20);

/// How often the hubs are counted, to know whether anybody wants announcements.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

const LOOK: &str = "
    CALL bellwether.look($1, $2, $3, $4, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, NULL)";

/// The numbering alone.
const NUMBER: &str = "SELECT numbered, commits FROM bellwether.advance($1, $2, NULL, NULL)";

/// Whether any of the hubs that listen is another one, of whose number this one has so many.
const HAS_OTHERS: &str = "SELECT bellwether.count_hubs() > $1";

/// What it says again and again, prepared: each is one message there and one back.
#[derive(Debug)]
struct Statements {
    look: Statement,
    number: Statement,
    lapse: Statement,
    sleep: Statement,
    has_others: Statement,
}

/// Numbers what has committed, at the right moments, on one connection; or hears that
/// another hub does.
#[derive(Debug)]
pub(crate) struct Sequencer {
    client: Arc<Client>,
    statements: Statements,
    /// This hub's number among those on the database.
    hub: i64,
    doorbell: Doorbell,
    metrics: Metrics,
    state: State,
    pace: Pace,
    epoch: Epoch,
    /// The newest number in the stream that is known, and that is durable; `None` before the first
    /// look.
    head: Option<u64>,
    /// The snapshot up to which nothing is missing in the stream, if this hub has looked.
    looked: Option<String>,
    /// Events that the safety poll found and nobody has rung for yet.
    unrung: u64,
    /// Whether the other hubs know of the head, as far as it is up to this one.
    is_announced: bool,
    /// Whether there are other hubs, and when that was last counted.
    others: (bool, Option<Instant>),
    /// The look that found what is to be read next.
    span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody is awake: waits for the bell.
    Asleep,
    /// Has promised to look.
    Awake {
        pause: Duration,
        /// How often it has looked in vain since the last event.
        in_vain: u32,
    },
    /// Has taken the promise back; waits for all transactions below the fence to end.
    Lapsing(Lapsing),
    /// Another hub has promised to look.
    Following,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lapsing {
    pause: Duration,
    fence: i64,
    /// Whether the other hubs may know already that there is nothing to wait for.
    is_told: bool,
}

/// How fast transactions with events follow each other.
#[derive(Debug)]
struct Pace {
    /// Of the times between them, which count the less the longer ago they were.
    mean: Duration,
    /// When one was last found.
    last: Instant,
}

/// Why it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The bell.
    Rung,
    /// The bell, which is not rung often.
    RungAlone,
    /// The pause is over.
    Time,
}

/// What one look found.
#[derive(Debug)]
struct Look {
    awake: Awake,
    /// The newest number in the stream, whoever gave it.
    head: u64,
    /// The snapshot up to which nothing is missing before that, if it was for this hub to look.
    looked: Option<String>,
    /// How many events there are after the head that was known, whoever numbered them; at first those that
    /// this look did.
    found: u64,
    /// How many events this look numbered, and of how many transactions they are.
    numbered: u64,
    commits: u64,
    /// The first events after the head that was known.
    events: Vec<Event>,
    /// All transactions below this one had ended when it looked.
    ended_below: i64,
    span: Span,
}

/// Who is awake, as the database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awake {
    Nobody,
    Me,
    Other,
    /// Nobody, but another hub waits for stragglers.
    OtherLapsing,
    /// Nobody, though another hub had promised.
    Abandoned,
}

impl Sequencer {
    /// Takes over a connection to a stream. Starts awake, unless another hub is: it does
    /// not know what happened before, and not whether that is durable.
    pub(crate) async fn new(
        client: Arc<Client>,
        hub: i64,
        doorbell: Doorbell,
        metrics: Metrics,
        epoch: Epoch,
    ) -> Result<Self, Error> {
        let mut sequencer = Self {
            statements: Statements::prepare(&client).await?,
            client,
            hub,
            doorbell,
            metrics,
            state: State::AWAKE,
            pace: Pace::new(),
            epoch,
            head: None,
            looked: None,
            unrung: 0,
            is_announced: true,
            others: (false, None),
            span: Span::none(),
        };
        let look = sequencer.look(true).await?;
        if look.awake == Awake::Other {
            sequencer.state = State::Following;
        }
        sequencer.note(look);
        sequencer.announce().await?;
        Ok(sequencer)
    }

    /// The newest number in the stream, as far as is known. What another hub has numbered beyond it
    /// may not be durable yet.
    pub(crate) fn head(&self) -> u64 {
        self.head.unwrap_or(0)
    }

    /// The span of the look that found what is to be read now, if one of this hub's did.
    pub(crate) fn take_span(&mut self) -> Span {
        mem::replace(&mut self.span, Span::none())
    }

    /// Waits until there are events beyond what is known. Returns the first of them, if they were few
    /// enough to come at once.
    pub(crate) async fn wait_for_events(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            if let Some(events) = self.step().await? {
                return Ok(events);
            }
        }
    }

    /// One pause, one look, and what follows from it. Returns what the stream grew by, or the first
    /// of that, if it grew.
    async fn step(&mut self) -> Result<Option<Vec<Event>>, Error> {
        let Some(why) = self.wait().await else {
            return Ok(Some(Vec::new()));
        };
        let mut look = match self.state {
            State::Awake { in_vain, .. } if self.is_quiet(why, in_vain) => self.leave().await?,
            State::Awake { .. } => self.look(true).await?,
            _ => self.look(why == Why::Rung).await?,
        };
        self.watch_for_silence(why, &look);
        self.go_on(why, &look).await?;
        let events = mem::take(&mut look.events);
        if events.last().is_some_and(|last| last.seq == look.head) {
            // It is over: nothing is left to be read.
            look.span = Span::none();
        }
        let grew = look.found > 0;
        self.note(look);
        self.announce().await?;
        Ok(grew.then_some(events))
    }

    /// Waits until there is a reason to look. `None` if another hub tells what it has found.
    async fn wait(&mut self) -> Option<Why> {
        let pause = self.state.pause(self.doorbell.is_heard());
        let call = time::timeout(pause, self.doorbell.call(self.epoch, self.head()));
        match call.await {
            Ok(Call::Announced(head)) => {
                self.hear_of(head);
                None
            }
            Ok(Call::Ring) if self.state.is_idle() && self.pace.gap() > self.mean_times().0 => {
                Some(Why::RungAlone)
            }
            Ok(Call::Ring) => Some(Why::Rung),
            Err(_) => Some(Why::Time),
        }
    }

    /// Whether a hub that is awake has been for long enough.
    fn is_quiet(&self, why: Why, in_vain: u32) -> bool {
        in_vain >= PATIENCE && why == Why::Time && self.pace.gap() > self.mean_times().1
    }

    /// Between commits: below the first a hub that is rung stays awake, above the second it leaves.
    fn mean_times(&self) -> (Duration, Duration) {
        if self.others.0 { WITH_OTHERS } else { ALONE }
    }

    /// Comes to the state that follows from a look.
    async fn go_on(&mut self, why: Why, look: &Look) -> Result<(), Error> {
        if look.found > 0 {
            self.pace.note(look.commits);
        }
        if self.state.is_idle() && look.awake == Awake::Abandoned && why != Why::Rung {
            tracing::info!("taking over from a hub that does not look any more");
            self.metrics.takeovers.inc();
        }
        let next = self.state.after(why, look);
        if let (State::Lapsing(lapsing), State::Asleep) = (self.state, next) {
            self.metrics.sleeps.inc();
            if !lapsing.is_told {
                self.sleep().await?;
            }
        }
        self.state = next;
        let is_asleep = next == State::Asleep;
        self.metrics.asleep.set(i64::from(is_asleep));
        Ok(())
    }

    /// Has what is new numbered while something else is read, if that is for this hub to do. The head stays
    /// where it is: what is beyond it is not known to be durable before the next look.
    pub(crate) async fn number_meanwhile(&mut self) -> Result<(), Error> {
        if self.state == State::Following {
            return Ok(());
        }
        // Others are told of nothing until this one has read it all. If there are any, the promise runs
        // out, and one that has less to do takes over.
        let promise = matches!(self.state, State::Awake { .. }) && !self.others.0;
        let promise_ms = promise_ms(promise);
        let asked: [&(dyn ToSql + Sync); 2] = [&self.hub, &promise_ms];
        let number = self.client.query_one(&self.statements.number, &asked);
        let row = within("number events", number).await?;
        let numbered = row.get::<_, i64>(0).unsigned_abs();
        if numbered > 0 {
            self.pace.note(row.get::<_, i64>(1).unsigned_abs());
            self.metrics.numbered.inc_by(numbered);
            self.is_announced = false;
        }
        Ok(())
    }

    /// Another hub has numbered events up to this one, and they are durable.
    fn hear_of(&mut self, head: u64) {
        self.pace.note(1);
        self.head = Some(head);
        self.looked = None;
        if self.state == State::Asleep {
            self.state = State::Following;
            self.metrics.asleep.set(0);
        }
    }

    /// Takes the promise back, and looks. Sent together: the look begins when that is done.
    async fn leave(&mut self) -> Result<Look, Error> {
        let (lapsing, look) = tokio::try_join!(self.lapse(), self.look(false))?;
        self.state = State::Lapsing(lapsing);
        Ok(look)
    }

    /// Has what is new numbered, if that is for this hub to do; with a promise, writers need not ring
    /// for a while.
    async fn look(&self, promise: bool) -> Result<Look, Error> {
        let promise_ms = promise_ms(promise);
        let known_head = self.head.map(position);
        let known: [&(dyn ToSql + Sync); 4] = [&self.hub, &promise_ms, &known_head, &self.looked];
        // Not entered, which would end it with this query: what it found may still be to be read.
        let span = tracing::trace_span!(target: SPANS, "look", events = Empty);
        let row = self.client.query_one(&self.statements.look, &known);
        let row = within("look for events", row).await?;

        if row.get::<_, &str>("epoch").parse() != Ok(self.epoch) {
            return Err(Error::EpochEnded(self.epoch));
        }
        let head = row.get::<_, i64>("head").unsigned_abs();
        let numbered = row.get::<_, i64>("numbered").unsigned_abs();
        let found = self
            .head
            .map_or(numbered, |known| head.saturating_sub(known));
        if found > 0 {
            // What has no number of events found none, and is not collected.
            span.record("events", counted(found));
        }
        Ok(Look {
            awake: Awake::parse(row.get("awake"))?,
            head,
            looked: row.get("looked"),
            found,
            numbered,
            commits: row.get::<_, i64>("commits").unsigned_abs(),
            ended_below: row.get::<_, Option<i64>>("looked_xmin").unwrap_or(0),
            events: page::along(&row)?,
            span,
        })
    }

    /// Begins the next look where this one has ended.
    fn note(&mut self, look: Look) {
        self.metrics.looks.inc();
        self.metrics.numbered.inc_by(look.numbered);
        self.is_announced &= look.numbered == 0;
        self.looked = look.looked;
        if look.found > 0 {
            self.metrics.looks_found.inc();
            self.span = look.span;
        }
        self.head = Some(look.head);
    }

    /// Counts what the safety poll finds and nobody rings for. A ring may come a moment after
    /// the poll, so it is counted when this hub falls asleep again without having heard any.
    fn watch_for_silence(&mut self, why: Why, look: &Look) {
        if why == Why::Time {
            self.metrics.numbered_unrung.inc_by(look.numbered);
        }
        match self.state {
            _ if why != Why::Time || !self.doorbell.is_heard() => self.unrung = 0,
            State::Asleep if look.awake == Awake::Nobody => self.unrung += look.numbered,
            State::Lapsing(_) => {
                self.metrics
                    .found_by_safety_poll
                    .inc_by(mem::take(&mut self.unrung));
            }
            _ => {}
        }
    }

    /// Takes the promise back. All who saw it have transaction ids below the fence.
    async fn lapse(&self) -> Result<Lapsing, Error> {
        let hub: [&(dyn ToSql + Sync); 1] = [&self.hub];
        let lapse = self.client.query_one(&self.statements.lapse, &hub);
        let row = within("take back the promise to look", lapse).await?;
        Ok(Lapsing {
            pause: LAPSING_PAUSE.0,
            fence: row.get(0),
            is_told: row.get(1),
        })
    }

    async fn sleep(&self) -> Result<(), Error> {
        let hub: [&(dyn ToSql + Sync); 1] = [&self.hub];
        let sleep = self.client.execute(&self.statements.sleep, &hub);
        within("fall asleep", sleep).await?;
        Ok(())
    }

    /// Tells the other hubs, if there are any, of what this one has numbered.
    ///
    /// In a transaction of its own and without waiting for the disk: a commit that notifies
    /// holds a lock of the whole cluster for as long as it takes. What is told is durable.
    async fn announce(&mut self) -> Result<(), Error> {
        if mem::replace(&mut self.is_announced, true) || !self.has_others().await? {
            return Ok(());
        }
        let head = Cursor {
            epoch: self.epoch,
            seq: self.head(),
        };
        let announce = format!(
            "BEGIN; SET LOCAL synchronous_commit = off; SELECT bellwether.notify('{head}'); COMMIT"
        );
        within("announce a batch", self.client.batch_execute(&announce)).await
    }

    async fn has_others(&mut self) -> Result<bool, Error> {
        let (has_others, counted) = self.others;
        let has_changed = self.doorbell.take_newcomers();
        if !has_changed && counted.is_some_and(|at| at.elapsed() < COUNT_INTERVAL) {
            return Ok(has_others);
        }
        // This one is among them, unless its listener is away.
        let own = i64::from(self.doorbell.is_heard());
        let others: [&(dyn ToSql + Sync); 1] = [&own];
        let row = self.client.query_one(&self.statements.has_others, &others);
        let has_others = within("count the hubs", row).await?.get(0);
        self.others = (has_others, Some(Instant::now()));
        Ok(has_others)
    }
}

/// As Postgres is told it.
fn promise_ms(promise: bool) -> i32 {
    let ms = i32::try_from(PROMISE.as_millis()).expect("it is short");
    if promise { ms } else { 0 }
}

impl Pace {
    /// A silence that is as good as any longer one: after it, anybody leaves.
    const LONGEST: Duration = Duration::from_millis(80);

    fn new() -> Self {
        Self {
            mean: Self::LONGEST,
            last: Instant::now(),
        }
    }

    /// So many were found, which came one after the other since the last time. Those of another
    /// hub count as one.
    fn note(&mut self, commits: u64) {
        let commits = u32::try_from(commits).unwrap_or(u32::MAX).max(1);
        let gap = self.last.elapsed() / commits;
        // What more there are count for next to nothing.
        for _ in 0..commits.min(16) {
            self.mean = self.after(gap);
        }
        self.last = Instant::now();
    }

    /// The mean, were one to be found now.
    fn gap(&self) -> Duration {
        self.after(self.last.elapsed())
    }

    /// The mean after one more.
    fn after(&self, gap: Duration) -> Duration {
        (self.mean * 3 + gap.min(Self::LONGEST)) / 4
    }
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, Error> {
        // Sent together, for one round trip.
        let prepared = async {
            tokio::try_join!(
                client.prepare(LOOK),
                client.prepare(NUMBER),
                client.prepare("SELECT fence, is_asleep FROM bellwether.lapse($1)"),
                client.prepare("SELECT bellwether.sleep($1)"),
                client.prepare(HAS_OTHERS),
            )
        };
        let prepared = within("prepare to number events", prepared).await?;
        let (look, number, lapse, sleep, has_others) = prepared;
        Ok(Self {
            look,
            number,
            lapse,
            sleep,
            has_others,
        })
    }
}

impl State {
    const AWAKE: Self = Self::Awake {
        pause: AWAKE_PAUSE.0,
        in_vain: 0,
    };

    /// What follows from a look.
    fn after(self, why: Why, look: &Look) -> Self {
        let grew = look.found > 0;
        match (self, look.awake) {
            (_, Awake::Other) => Self::Following,
            _ if why == Why::Rung => Self::AWAKE,
            // A promise that was not kept: another's, or this hub's own.
            (Self::Asleep | Self::Following, Awake::Abandoned) | (Self::Following, Awake::Me) => {
                Self::AWAKE
            }
            (Self::Asleep, _) if grew && why == Why::Time => Self::AWAKE,
            (Self::Asleep | Self::Following, _) => Self::Asleep,
            (Self::Awake { .. }, _) if grew => Self::AWAKE,
            (Self::Awake { pause, in_vain }, _) => Self::Awake {
                pause: (pause * 2).min(AWAKE_PAUSE.1),
                in_vain: in_vain + 1,
            },
            // That look came after the last of them had ended, so it missed none.
            (Self::Lapsing(lapsing), _) if look.ended_below > lapsing.fence && !grew => {
                Self::Asleep
            }
            (Self::Lapsing(lapsing), _) => Self::Lapsing(Lapsing {
                pause: (lapsing.pause * 2).min(LAPSING_PAUSE.1),
                ..lapsing
            }),
        }
    }

    /// Whether it is not for this hub to look.
    fn is_idle(self) -> bool {
        matches!(self, Self::Asleep | Self::Following)
    }

    /// How long to wait for a call before the next look.
    fn pause(self, is_heard: bool) -> Duration {
        match self {
            Self::Awake { pause, .. } => pause,
            Self::Lapsing(lapsing) => lapsing.pause,
            Self::Asleep | Self::Following if !is_heard => DEAF_PAUSE,
            Self::Asleep => SAFETY_POLL,
            Self::Following => FOLLOWING_PAUSE,
        }
    }
}

impl Awake {
    fn parse(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "nobody" => Self::Nobody,
            "me" => Self::Me,
            "other" => Self::Other,
            "lapsing" => Self::OtherLapsing,
            "abandoned" => Self::Abandoned,
            _ => return Err(Error::Decode(format!("{text:?} is awake"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(mean: Duration, silence: Duration) -> Pace {
        Pace {
            mean,
            last: Instant::now().checked_sub(silence).unwrap(),
        }
    }

    #[test]
    fn what_is_found_together_came_one_after_the_other() {
        let silence = Duration::from_millis(40);
        let mut busy = pace(Pace::LONGEST, silence);
        busy.note(80);
        assert!(busy.gap() < ALONE.0, "{:?}", busy.mean);
        let mut quiet = pace(Pace::LONGEST, silence);
        quiet.note(1);
        assert!(quiet.gap() > WITH_OTHERS.1, "{:?}", quiet.mean);
    }

    #[test]
    fn a_few_rings_do_not_make_it_busy_and_a_dozen_do() {
        let mut pace = pace(Pace::LONGEST, Duration::ZERO);
        for _ in 0..4 {
            pace.note(1);
        }
        assert!(pace.gap() > WITH_OTHERS.1);
        for _ in 0..8 {
            pace.note(1);
        }
        assert!(pace.gap() < ALONE.0);
    }

    #[test]
    fn whoever_was_busy_leaves() {
        let pace = pace(Duration::ZERO, Pace::LONGEST);
        assert!(pace.gap() > ALONE.1.max(WITH_OTHERS.1));
    }
}
