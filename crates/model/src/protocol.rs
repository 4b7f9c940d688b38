//! The whole machine, and what must hold of it.

use stateright::{Model, Property};
use std::collections::HashMap;

use crate::{
    compact::compact,
    hub::{Hub, Mode, Next, Rules, Told, Way},
    postgres::{Postgres, Until, Xids},
    writer::{self, Writer},
};

/// A mistake to be made on purpose, to see that it is found.
///
/// All but the last have been mended, or were never made. The last one is made for at most a
/// second, and a hub that joins rings, so that the others count anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// `lapse` compares with a snapshot's xmax and draws no transaction id.
    FenceIsXmax,
    /// `lapse` draws the fence first and clears the cell afterwards.
    FenceBeforeClear,
    /// The trigger runs before the row has its transaction id.
    CellBeforeXid,
    /// `advance` numbers with the snapshot from before it waited for its lock.
    StaleSnapshot,
    /// `advance` orders by the ids alone.
    OrderById,
    /// `promise` answers "nobody" if `awake_hub` is 0, though a promise ran out.
    NobodyBeforePast,
    /// A hub takes itself for one of those it counts, though its listener is not connected.
    CountsItself,
    /// A hub tells nobody of what its first look numbered.
    FirstLookUntold,
    /// A hub shows what it sees, durable or not.
    ShowsAtOnce,
    /// A hub believes an old count of the hubs.
    CountsSeldom,
}

/// What is checked: how many of what, and what may happen to them.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub struct Protocol {
    /// For each writer, how many events each of its transactions inserts.
    pub writers: Vec<Vec<u8>>,
    /// Whether writers may roll back.
    pub aborts: bool,
    /// How many hubs.
    pub hubs: u8,
    /// Whether all hubs sleep at first. Else they have just connected.
    pub asleep: bool,
    /// How often a hub that is awake may be too slow for its promise.
    pub slow: u8,
    /// How often a hub may crash.
    pub crashes: u8,
    /// How often a listener may lose its connection.
    pub outages: u8,
    /// Whether a hub that crashed is started again.
    pub restarts: bool,
    /// Whether sleeping hubs look.
    pub safety_poll: bool,
    /// What is wrong.
    pub mistake: Option<Mistake>,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The database.
    pub postgres: Postgres,
    /// Who inserts.
    pub writers: Vec<Writer>,
    /// Who numbers.
    pub hubs: Vec<Hub>,
    /// What is left of [`Protocol::slow`].
    pub slow: u8,
    /// What is left of [`Protocol::crashes`].
    pub crashes: u8,
    /// What is left of [`Protocol::outages`].
    pub outages: u8,
    /// Whether a hub crashed that had numbered and not told of it. Only a look of their own
    /// tells the others then.
    pub is_untold: bool,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A writer goes on.
    Write(usize, writer::Step),
    /// A hub goes on.
    Hub(usize, Way),
    /// A hub's listener connects, and has it look.
    Listen(usize),
    /// A hub's listener loses its connection.
    Deafen(usize),
    /// A hub crashes.
    Crash(usize),
    /// A hub that crashed is started again.
    Restart(usize),
    /// The promise runs out.
    RunOut,
}

impl State {
    /// Whether nothing will happen until somebody inserts.
    pub fn is_quiet(&self, protocol: &Protocol) -> bool {
        let written = |(writer, transactions): (&Writer, &Vec<u8>)| {
            usize::from(writer.ended) == transactions.len()
        };
        self.writers.iter().zip(&protocol.writers).all(written)
            && self.hubs.iter().all(Hub::is_quiet)
    }

    /// Whether every hub runs.
    pub fn is_complete(&self) -> bool {
        self.hubs.iter().all(|hub| hub.mode != Mode::Dead)
    }

    /// Whether some hub is at it, so that a promise runs out only if that one is slow.
    fn is_attended(&self) -> bool {
        self.hubs
            .iter()
            .any(|hub| hub.mode == Mode::Awake || hub.next != Next::Pause)
    }

    fn ring(&mut self) {
        for hub in self.hubs.iter_mut().filter(|hub| hub.is_listening) {
            hub.is_rung = true;
        }
    }
}

impl Protocol {
    fn rules(&self, state: &State, n: usize) -> Rules {
        let listens = |(_, hub): &(usize, &Hub)| hub.is_listening;
        let listening = || state.hubs.iter().enumerate().filter(listens);
        Rules {
            mistake: self.mistake,
            safety_poll: self.safety_poll,
            has_others: if self.mistake == Some(Mistake::CountsItself) {
                listening().count() > 1
            } else {
                listening().any(|(other, _)| other != n)
            },
            is_alone: self.hubs == 1,
        }
    }

    /// Visits every state, and returns how many there are, and how many of those have no
    /// way to one where all is quiet and nothing waits.
    pub fn dead_ends(&self) -> (usize, usize) {
        let mut known: HashMap<State, usize> = HashMap::new();
        let mut before: Vec<Vec<usize>> = Vec::new();
        let mut good = Vec::new();
        let mut queue = Vec::new();
        for state in self.init_states() {
            known.insert(state.clone(), before.len());
            before.push(vec![]);
            queue.push(state);
        }
        while let Some(state) = queue.pop() {
            let from = known[&state];
            if state.is_quiet(self) && state.postgres.waiting().is_empty() {
                good.push(from);
            }
            let mut actions = Vec::new();
            self.actions(&state, &mut actions);
            for next in actions
                .into_iter()
                .filter_map(|action| self.next_state(&state, action))
            {
                let to = *known.entry(next.clone()).or_insert_with(|| {
                    queue.push(next);
                    before.push(vec![]);
                    before.len() - 1
                });
                before[to].push(from);
            }
        }
        let mut ends_well = vec![false; before.len()];
        while let Some(state) = good.pop() {
            if !std::mem::replace(&mut ends_well[state], true) {
                good.extend(&before[state]);
            }
        }
        (
            before.len(),
            ends_well.iter().filter(|&&well| !well).count(),
        )
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let postgres = Postgres::default();
        vec![State {
            writers: vec![Writer::default(); self.writers.len()],
            hubs: (1..=self.hubs)
                .map(|id| {
                    if self.asleep {
                        Hub::asleep(id)
                    } else {
                        Hub::connected(id)
                    }
                })
                .collect(),
            postgres,
            slow: self.slow,
            crashes: self.crashes,
            outages: self.outages,
            is_untold: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (n, writer) in state.writers.iter().enumerate() {
            let steps = writer.steps(&self.writers[n], self.aborts);
            actions.extend(steps.into_iter().map(|step| Action::Write(n, step)));
        }
        for (n, hub) in state.hubs.iter().enumerate() {
            let ways = hub.ways(&state.postgres, self.rules(state, n));
            actions.extend(ways.into_iter().map(|way| Action::Hub(n, way)));
            if hub.mode == Mode::Dead {
                actions.extend(self.restarts.then_some(Action::Restart(n)));
                continue;
            }
            if !hub.is_listening {
                actions.push(Action::Listen(n));
            }
            if state.crashes > 0 {
                actions.push(Action::Crash(n));
            }
            if state.outages > 0 && hub.is_listening {
                actions.push(Action::Deafen(n));
            }
        }
        if state.postgres.until == Until::Later && (state.slow > 0 || !state.is_attended()) {
            actions.push(Action::RunOut);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Write(n, step) => {
                if state.writers[n].step(step, self.mistake, &mut state.postgres) {
                    state.ring();
                }
            }
            Action::Hub(n, way) => {
                let rules = self.rules(last, n);
                let told = state.hubs[n].step(way, rules, &mut state.postgres);
                if let Told::Head(head) = told {
                    for hub in &mut state.hubs {
                        if hub.is_listening && head > hub.head {
                            hub.announced = hub.announced.max(head);
                        }
                    }
                }
            }
            Action::Listen(n) => {
                state.hubs[n].is_listening = true;
                state.hubs[n].is_rung = true;
            }
            Action::Deafen(n) => {
                state.outages -= 1;
                state.hubs[n].is_listening = false;
                // What was on its way is gone. What had arrived is one of the other orders.
                state.hubs[n].is_rung = false;
                state.hubs[n].announced = 0;
            }
            Action::Crash(n) => {
                state.crashes -= 1;
                let hub = &mut state.hubs[n];
                state.is_untold |= hub.owes;
                if let Next::Commit(.., xid) = hub.next {
                    state.postgres.end(xid);
                }
                if state.postgres.lock == Some(hub.id) {
                    state.postgres.lock = None;
                }
                *hub = Hub {
                    mode: Mode::Dead,
                    next: Next::Pause,
                    ..Hub::connected(hub.id)
                };
            }
            Action::Restart(n) => {
                let id = state.hubs[n].id + self.hubs;
                state.hubs[n] = Hub::connected(id);
            }
            Action::RunOut => {
                state.slow -= u8::from(state.is_attended());
                state.postgres.until = Until::Past;
            }
        }
        compact(&mut state);
        // A step that changes nothing is none.
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "the stream is gapless, and each event in it once",
                |_, state: &State| {
                    let stream = &state.postgres.stream;
                    let once = |id| stream.iter().filter(|&&(_, event)| event == id).count() == 1;
                    (1..)
                        .zip(stream)
                        .all(|(seq, &(number, id))| number == seq && once(id))
                },
            ),
            Property::always("only committed events are numbered", |_, state: &State| {
                let postgres = &state.postgres;
                let is_committed = |&(_, id): &(u8, u8)| {
                    postgres.committed.has(postgres.events[usize::from(id)].xid)
                };
                postgres.stream.iter().all(is_committed)
            }),
            Property::always(
                "the events of a transaction stay together, as inserted",
                |_, state: &State| {
                    let postgres = &state.postgres;
                    let xid = |id: u8| postgres.events[usize::from(id)].xid;
                    let numbered = |xid| {
                        let of = |&event: &&(u8, u8)| self::xid(postgres, event.1) == xid;
                        postgres
                            .stream
                            .iter()
                            .filter(of)
                            .copied()
                            .collect::<Vec<_>>()
                    };
                    postgres.stream.iter().all(|&(_, id)| {
                        let events = numbered(xid(id));
                        let inserted = postgres
                            .events
                            .iter()
                            .filter(|event| event.xid == xid(id))
                            .count();
                        events.len() == inserted
                            && events
                                .windows(2)
                                .all(|two| two[0].0 + 1 == two[1].0 && two[0].1 < two[1].1)
                    })
                },
            ),
            Property::always(
                "what had committed before an event went in comes before its transaction",
                |_, state: &State| {
                    let postgres = &state.postgres;
                    let mut before = Xids::default();
                    postgres.stream.iter().all(|&(_, id)| {
                        let xid = self::xid(postgres, id);
                        before.insert(xid);
                        // All that this transaction's events came after are numbered by now.
                        (1..postgres.next_xid).all(|earlier| {
                            let of_this = postgres.events.iter().filter(|event| event.xid == xid);
                            let mut of_this = of_this.map(|event| event.after.has(earlier));
                            !of_this.any(|is_after| is_after) || before.has(earlier)
                        })
                    })
                },
            ),
            Property::always(
                "a look from the newest batch misses nothing",
                |_, state: &State| {
                    let postgres = &state.postgres;
                    postgres.unseen(postgres.seen, postgres.snapshot()) == postgres.waiting()
                },
            ),
            Property::always(
                "a look from a hub's last empty one misses nothing",
                |_, state: &State| {
                    let postgres = &state.postgres;
                    let now = postgres.snapshot();
                    state
                        .hubs
                        .iter()
                        .filter(|hub| hub.head == postgres.head)
                        .all(|hub| {
                            let found = hub.looked.map(|looked| postgres.unseen(looked, now));
                            found.is_none_or(|found| {
                                postgres.waiting().iter().all(|id| found.contains(id))
                            })
                        })
                },
            ),
            Property::always("no hub shows what is not durable", |_, state: &State| {
                let postgres = &state.postgres;
                state.hubs.iter().all(|hub| hub.head <= postgres.durable)
            }),
            Property::sometimes("what is not durable is there to see", |_, state: &State| {
                state.postgres.durable < state.postgres.head
            }),
            Property::always(
                "no event waits when all is quiet",
                |protocol: &Self, state: &State| {
                    let is_quiet = state.is_quiet(protocol) && state.is_complete();
                    !is_quiet || state.postgres.waiting().is_empty()
                },
            ),
            Property::always(
                "no hub is behind when all is quiet",
                |protocol: &Self, state: &State| {
                    let is_quiet =
                        state.is_quiet(protocol) && state.is_complete() && !state.is_untold;
                    !is_quiet || state.hubs.iter().all(|hub| hub.head == state.postgres.head)
                },
            ),
            Property::sometimes(
                "all is quiet and numbered",
                |protocol: &Self, state: &State| {
                    state.is_quiet(protocol) && state.postgres.head > 0
                },
            ),
            Property::sometimes("a writer does not ring", |_, state: &State| {
                state
                    .writers
                    .iter()
                    .any(|writer| writer.inserted > 0 && !writer.rings)
            }),
            Property::sometimes("a straggler is waited for", |_, state: &State| {
                let waits = |hub: &Hub| matches!(hub.mode, Mode::Lapsing { fence } if !state.postgres.running.below(fence + 1).is_empty());
                state.hubs.iter().any(waits)
            }),
        ]
    }
}

fn xid(postgres: &Postgres, id: u8) -> u8 {
    postgres.events[usize::from(id)].xid
}
