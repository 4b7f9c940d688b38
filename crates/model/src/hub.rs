//! A hub: `pg::sequencer`'s states, and the statements it sends, one step each.

use crate::{
    Mistake,
    postgres::{HubId, Postgres, Snapshot, Until},
};

/// The sequencer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Waits for the bell.
    Asleep,
    /// Has promised to look.
    Awake,
    /// Waits for all below the fence to end.
    Lapsing {
        /// The fence.
        fence: u8,
    },
    /// Another is awake.
    Following,
    /// Crashed.
    Dead,
}

/// Why it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It has just connected.
    Connected,
    /// The bell.
    Rung,
    /// The bell, after a silence: it promises nothing.
    RungAlone,
    /// The pause is over.
    Time,
}

/// What `promise` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awake {
    /// All sleep.
    Nobody,
    /// This hub.
    Me,
    /// Another hub.
    Other,
    /// Another took its promise back.
    OtherLapsing,
    /// A promise ran out.
    Abandoned,
}

/// The next statement, with what the ones before it have read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// None: it waits for a call or for the end of its pause.
    Pause,
    /// `promise`: reads the cells.
    ReadCells(Why),
    /// `promise`: waits for the lock, reads `awake_until` again, takes `awake_hub`.
    Claim(Why),
    /// `promise`: sets `awake_until`.
    Promise(Why),
    /// Reads the newest batch.
    ReadBatch(Why, Awake),
    /// The cheap look, from `looked` on.
    Look(Why, Awake, u8, Snapshot),
    /// Waits for the lock, reads the newest batch again, numbers. By mistake it has kept
    /// what it read before it waited.
    Number(Why, Awake, Option<(u8, Snapshot, Snapshot)>),
    /// Commits what it numbered: from which head, what it saw, with which transaction id.
    Commit(Why, Awake, u8, Snapshot, u8),
    /// Waits until what it saw is durable: up to which head, what had ended then.
    Settle(Why, Awake, u8, u8),
    /// Tells the others.
    Announce,
    /// `lapse`, after its first half, with the fence if it has it already (by mistake).
    Lapsed(Option<u8>),
    /// `sleep`: reads `awake_hub`.
    Sleep,
    /// `sleep`: clears it.
    Slept,
}

/// A way in which the next step can go, where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// The bell has rung.
    Hears,
    /// It has, after a silence.
    HearsAlone,
    /// An announcement has come.
    IsTold,
    /// The pause is over.
    Waits,
    /// The only one.
    On,
    /// Promising: half of it is not gone yet. Announcing: the hubs were counted a moment ago.
    Spares,
    /// The pause is over, and events were too few for too long.
    Leaves,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hub {
    /// Its number.
    pub id: HubId,
    /// Its state.
    pub mode: Mode,
    /// Where it is.
    pub next: Next,
    /// The newest number it knows, and shows.
    pub head: u8,
    /// Up to where it has looked.
    pub looked: Option<Snapshot>,
    /// Whether its listener is connected.
    pub is_listening: bool,
    /// Whether a ring is on its way, or has arrived.
    pub is_rung: bool,
    /// The newest announcement on its way, if newer than `head`.
    pub announced: u8,
    /// Whether it has numbered and not told anybody.
    pub owes: bool,
    /// Whether there were others when it last counted.
    pub counted: Option<bool>,
}

/// What a hub's step does to the other hubs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// Every listener hears of this head.
    Head(u8),
}

/// What a hub needs to know of the rest.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What is wrong on purpose.
    pub mistake: Option<Mistake>,
    /// Whether it looks when it is asleep, too.
    pub safety_poll: bool,
    /// What counting the hubs says now.
    pub has_others: bool,
    /// Whether there can be no other.
    pub is_alone: bool,
}

impl Hub {
    /// A process that has just connected, and whose listener has not yet.
    pub fn connected(id: HubId) -> Self {
        Self {
            id,
            mode: Mode::Awake,
            next: Next::ReadCells(Why::Connected),
            head: 0,
            looked: None,
            is_listening: false,
            is_rung: false,
            announced: 0,
            owes: false,
            counted: None,
        }
    }

    /// A process that has been there for long, before anything was inserted.
    pub fn asleep(id: HubId) -> Self {
        Self {
            mode: Mode::Asleep,
            next: Next::Pause,
            is_listening: true,
            ..Self::connected(id)
        }
    }

    /// Whether nothing will happen until somebody rings.
    pub fn is_quiet(&self) -> bool {
        let sleeps = self.mode == Mode::Asleep && self.next == Next::Pause && self.is_listening;
        self.mode == Mode::Dead || sleeps && !self.is_rung && self.announced == 0
    }

    /// How its next step can go.
    pub fn ways(&self, postgres: &Postgres, rules: Rules) -> Vec<Way> {
        let is_locked_out = postgres.lock.is_some_and(|owner| owner != self.id);
        match self.next {
            _ if self.mode == Mode::Dead => vec![],
            Next::Pause => {
                let mut ways = Vec::new();
                if self.is_rung {
                    ways.push(Way::Hears);
                    if matches!(self.mode, Mode::Asleep | Mode::Following) {
                        ways.push(Way::HearsAlone);
                    }
                }
                if self.announced > 0 {
                    ways.push(Way::IsTold);
                }
                if self.mode != Mode::Asleep || rules.safety_poll {
                    ways.push(Way::Waits);
                }
                if self.mode == Mode::Awake {
                    ways.push(Way::Leaves);
                }
                ways
            }
            Next::Claim(_) | Next::Number(..) if is_locked_out => vec![],
            Next::Promise(_) if postgres.until == Until::Later => vec![Way::On, Way::Spares],
            Next::Announce
                if rules.mistake == Some(Mistake::CountsSeldom) && self.counted.is_some() =>
            {
                vec![Way::On, Way::Spares]
            }
            _ => vec![Way::On],
        }
    }

    /// Takes its next step.
    pub fn step(&mut self, way: Way, rules: Rules, postgres: &mut Postgres) -> Told {
        match self.next {
            Next::Pause => match way {
                Way::IsTold => {
                    self.head = std::mem::take(&mut self.announced);
                    if self.mode == Mode::Asleep {
                        self.mode = Mode::Following;
                    }
                    self.after_look(true, rules);
                }
                Way::Leaves if rules.mistake == Some(Mistake::FenceBeforeClear) => {
                    let fence = postgres.draw_xid();
                    postgres.end(fence);
                    self.next = Next::Lapsed(Some(fence));
                }
                Way::Leaves => {
                    postgres.until = Until::Zero;
                    self.next = Next::Lapsed(None);
                }
                _ => {
                    let why = match way {
                        Way::Hears => Why::Rung,
                        Way::HearsAlone => Why::RungAlone,
                        _ => Why::Time,
                    };
                    self.is_rung &= why == Why::Time;
                    self.read_cells(why, rules, postgres);
                }
            },
            Next::ReadCells(why) => self.read_cells(why, rules, postgres),
            Next::Claim(why) => {
                postgres.lock = Some(self.id);
                if postgres.until == Until::Later {
                    self.next = Next::ReadBatch(why, Awake::Other);
                } else {
                    postgres.holder = self.id;
                    self.next = Next::Promise(why);
                }
            }
            Next::Promise(why) => {
                if way != Way::Spares {
                    postgres.until = Until::Later;
                }
                self.next = Next::ReadBatch(why, Awake::Me);
            }
            Next::ReadBatch(why, awake) => {
                if awake == Awake::Other {
                    self.looked = None;
                    self.return_from(why, awake, postgres.head, 0, 0, rules, postgres);
                } else {
                    let looked = self.looked.filter(|_| self.head == postgres.head);
                    let looked = looked.unwrap_or(postgres.seen);
                    self.next = Next::Look(why, awake, postgres.head, looked);
                }
            }
            Next::Look(why, awake, head, looked) => {
                let now = postgres.snapshot();
                if postgres.unseen(looked, now).is_empty() {
                    self.looked = Some(now);
                    self.return_from(why, awake, head, now.xmin(), 0, rules, postgres);
                } else {
                    let is_stale = rules.mistake == Some(Mistake::StaleSnapshot);
                    self.next = Next::Number(why, awake, is_stale.then_some((head, looked, now)));
                }
            }
            Next::Number(why, awake, stale) => {
                postgres.lock = Some(self.id);
                let fresh = (postgres.head, postgres.seen, postgres.snapshot());
                let (head, seen, now) = stale.unwrap_or(fresh);
                if postgres.unseen(seen, now).is_empty() {
                    self.looked = Some(now);
                    self.return_from(why, awake, head, now.xmin(), 0, rules, postgres);
                } else {
                    let xid = postgres.draw_xid();
                    // What it numbers is what this snapshot sees, so that need not be kept.
                    self.looked = Some(seen);
                    self.next = Next::Commit(why, awake, head, now, xid);
                }
            }
            Next::Commit(why, awake, head, now, xid) => {
                let seen = self.looked.expect("the newest batch's");
                let mut fresh = postgres.unseen(seen, now);
                if rules.mistake != Some(Mistake::OrderById) {
                    fresh.sort_by_key(|&id| {
                        (postgres.last_id(postgres.events[usize::from(id)].xid), id)
                    });
                }
                let grown = (head + 1..).zip(fresh).collect::<Vec<_>>();
                let numbered = u8::try_from(grown.len()).expect("few events");
                postgres.stream.extend(grown);
                postgres.head = head + numbered;
                postgres.seen = now;
                postgres.end(xid);
                self.looked = Some(now);
                let head = postgres.head;
                self.return_from(why, awake, head, now.xmin(), numbered, rules, postgres);
            }
            Next::Settle(why, awake, head, ended_below) => {
                postgres.durable = postgres.head;
                self.decide(why, awake, head, ended_below, rules);
            }
            Next::Announce => {
                if way != Way::Spares {
                    self.counted = Some(rules.has_others);
                }
                self.owes = false;
                self.next = Next::Pause;
                if self.counted == Some(true) {
                    return Told::Head(self.head);
                }
            }
            Next::Lapsed(fence) => {
                let fence = if let Some(fence) = fence {
                    postgres.until = Until::Zero;
                    fence
                } else if rules.mistake == Some(Mistake::FenceIsXmax) {
                    postgres.snapshot().xmax - 1
                } else {
                    let fence = postgres.draw_xid();
                    postgres.end(fence);
                    fence
                };
                let is_quiet = postgres.snapshot().xmin() > fence && postgres.lock.is_none();
                if is_quiet && postgres.holder == self.id {
                    postgres.holder = 0;
                }
                self.mode = Mode::Lapsing { fence };
                self.next = Next::ReadCells(Why::Time);
            }
            Next::Sleep if postgres.holder == self.id => self.next = Next::Slept,
            Next::Sleep => self.fall_asleep(),
            Next::Slept => {
                postgres.holder = 0;
                self.fall_asleep();
            }
        }
        Told::Nothing
    }

    fn read_cells(&mut self, why: Why, rules: Rules, postgres: &Postgres) {
        let (holder, until) = (postgres.holder, postgres.until);
        let promises = match why {
            Why::Connected | Why::Rung => true,
            Why::RungAlone => false,
            Why::Time => self.mode == Mode::Awake,
        };
        let ran_out = if rules.mistake == Some(Mistake::NobodyBeforePast) {
            until == Until::Past && holder != 0
        } else {
            until == Until::Past
        };
        self.next = if promises && holder != self.id && until != Until::Later {
            Next::Claim(why)
        } else if holder != self.id && until == Until::Later {
            Next::ReadBatch(why, Awake::Other)
        } else if promises {
            Next::Promise(why)
        } else if holder == self.id {
            Next::ReadBatch(why, Awake::Me)
        } else if ran_out {
            Next::ReadBatch(why, Awake::Abandoned)
        } else if holder == 0 {
            Next::ReadBatch(why, Awake::Nobody)
        } else {
            Next::ReadBatch(why, Awake::OtherLapsing)
        };
    }

    /// `advance` returns. If there is something new, it is to be durable first.
    #[expect(clippy::too_many_arguments, reason = "the columns that it returns")]
    fn return_from(
        &mut self,
        why: Why,
        awake: Awake,
        head: u8,
        ended_below: u8,
        numbered: u8,
        rules: Rules,
        postgres: &mut Postgres,
    ) {
        if postgres.lock == Some(self.id) {
            postgres.lock = None;
        }
        self.owes |= numbered > 0;
        if head > self.head && rules.mistake != Some(Mistake::ShowsAtOnce) {
            self.next = Next::Settle(why, awake, head, ended_below);
        } else {
            self.decide(why, awake, head, ended_below, rules);
        }
    }

    /// What follows from a look.
    fn decide(&mut self, why: Why, awake: Awake, head: u8, ended_below: u8, rules: Rules) {
        let grew = head > self.head;
        self.head = head;
        if self.announced <= head {
            self.announced = 0;
        }
        if why == Why::Connected {
            if awake == Awake::Other {
                self.mode = Mode::Following;
            }
            let tells = rules.mistake != Some(Mistake::FirstLookUntold);
            self.after_look(grew && tells, rules);
            return;
        }
        self.mode = match (self.mode, awake) {
            (_, Awake::Other) => Mode::Following,
            _ if why == Why::Rung => Mode::Awake,
            (Mode::Asleep | Mode::Following, Awake::Abandoned) | (Mode::Following, Awake::Me) => {
                Mode::Awake
            }
            (Mode::Asleep, _) if grew && why == Why::Time => Mode::Awake,
            (Mode::Asleep | Mode::Following, _) => Mode::Asleep,
            (Mode::Lapsing { fence }, _) if ended_below > fence && !grew => {
                self.next = Next::Sleep;
                return;
            }
            (mode, _) => mode,
        };
        self.after_look(grew, rules);
    }

    fn fall_asleep(&mut self) {
        self.mode = Mode::Asleep;
        self.next = Next::Pause;
    }

    /// The feed reads what is new, and tells the others if this hub numbered it.
    fn after_look(&mut self, grew: bool, rules: Rules) {
        // A lone hub tells nobody; that it forgets so saves states.
        self.owes &= !rules.is_alone;
        self.next = if grew && self.owes {
            Next::Announce
        } else {
            Next::Pause
        };
    }
}
