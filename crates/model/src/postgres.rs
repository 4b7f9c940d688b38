//! What writers and hubs share: transaction ids, tables, cells and one lock.

/// A set of transaction ids, which are small here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xids(u64);

impl Xids {
    /// Whether `xid` is in it.
    pub fn has(self, xid: u8) -> bool {
        self.0 >> xid & 1 == 1
    }

    /// Puts `xid` in.
    pub fn insert(&mut self, xid: u8) {
        assert!(xid < 64, "a transaction id for each bit");
        self.0 |= 1 << xid;
    }

    /// Takes `xid` out.
    pub fn remove(&mut self, xid: u8) {
        self.0 &= !(1 << xid);
    }

    /// Those below `xid`.
    #[must_use]
    pub fn below(self, xid: u8) -> Self {
        Self(self.0 & ((1 << xid) - 1))
    }

    /// How many there are.
    pub fn len(self) -> u8 {
        u8::try_from(self.0.count_ones()).expect("at most 64")
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, the smallest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |&xid| self.has(xid))
    }
}

/// `pg_snapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// One more than the newest transaction that had ended: all from here on were running
    /// or had not begun.
    pub xmax: u8,
    /// Those below `xmax` that were running.
    pub xip: Xids,
}

impl Snapshot {
    /// All below had ended.
    pub fn xmin(&self) -> u8 {
        self.xip.iter().next().unwrap_or(self.xmax)
    }

    /// Whether `xid` had ended.
    pub fn has_ended(&self, xid: u8) -> bool {
        xid < self.xmax && !self.xip.has(xid)
    }
}

/// A row of `bellwether.event`; its id is its place in [`Postgres::events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Its transaction.
    pub xid: u8,
    /// What had committed before it went in. Not a column: a property asks for it.
    pub after: Xids,
}

/// What `awake_until` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Until {
    /// 0: no promise.
    Zero,
    /// A promise that ran out.
    Past,
    /// A promise.
    Later,
}

/// A hub's number; 0 is none.
pub type HubId = u8;

/// The database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// The next transaction id.
    pub next_xid: u8,
    /// The newest transaction that has ended.
    pub newest_ended: u8,
    /// Those with an id that have not ended.
    pub running: Xids,
    /// Those of writers that have committed.
    pub committed: Xids,
    /// `bellwether.event`, committed or not.
    pub events: Vec<Event>,
    /// `bellwether.stream`: number and event id, in the order they were committed.
    pub stream: Vec<(u8, u8)>,
    /// The newest batch: its number.
    pub head: u8,
    /// Up to where the stream is on the disk.
    pub durable: u8,
    /// The newest batch: what it saw.
    pub seen: Snapshot,
    /// The cell `awake_until`.
    pub until: Until,
    /// The cell `awake_hub`.
    pub holder: HubId,
    /// Which hub has the lock of `advance`.
    pub lock: Option<HubId>,
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            next_xid: 1,
            newest_ended: 0,
            running: Xids::default(),
            committed: Xids::default(),
            events: Vec::new(),
            stream: Vec::new(),
            head: 0,
            durable: 0,
            seen: Snapshot {
                xmax: 1,
                xip: Xids::default(),
            },
            until: Until::Zero,
            holder: 0,
            lock: None,
        }
    }
}

impl Postgres {
    /// `pg_current_snapshot()`, as `GetSnapshotData` takes it: what runs beyond the newest
    /// that has ended is not listed.
    pub fn snapshot(&self) -> Snapshot {
        let xmax = self.newest_ended + 1;
        Snapshot {
            xmax,
            xip: self.running.below(xmax),
        }
    }

    /// `pg_current_xact_id()`, the first time in a transaction.
    pub fn draw_xid(&mut self) -> u8 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.insert(xid);
        xid
    }

    /// Ends a transaction.
    pub fn end(&mut self, xid: u8) {
        self.running.remove(xid);
        self.newest_ended = self.newest_ended.max(xid);
    }

    /// `bellwether.unseen(looked)`, in a statement with the snapshot `now`: ids of events.
    pub fn unseen(&self, looked: Snapshot, now: Snapshot) -> Vec<u8> {
        let ended_since = |xid: u8| {
            let began_since = xid >= looked.xmax && xid < now.xmax && !now.xip.has(xid);
            began_since || (looked.xip.has(xid) && now.has_ended(xid))
        };
        self.ids(|event| ended_since(event.xid) && self.is_visible(event.xid, now))
    }

    /// Committed events without a number.
    pub fn waiting(&self) -> Vec<u8> {
        let numbered = |id: u8| self.stream.iter().any(|&(_, event)| event == id);
        let mut committed = self.ids(|event| self.committed.has(event.xid));
        committed.retain(|&id| !numbered(id));
        committed
    }

    /// The last id that a transaction has drawn.
    pub fn last_id(&self, xid: u8) -> u8 {
        let last = self.events.iter().rposition(|event| event.xid == xid);
        u8::try_from(last.expect("it has inserted")).expect("few events")
    }

    fn is_visible(&self, xid: u8, now: Snapshot) -> bool {
        self.committed.has(xid) && now.has_ended(xid)
    }

    fn ids(&self, keep: impl Fn(&Event) -> bool) -> Vec<u8> {
        (0..)
            .zip(&self.events)
            .filter(|(_, event)| keep(event))
            .map(|(id, _)| id)
            .collect()
    }
}
