//! The groups there are, and who joins which.

use hub::LaneKey;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};
use tokio::task::coop;
use tokio_util::task::TaskTracker;

use crate::{
    App, EventBody,
    body::CaughtUp,
    direct::Direct,
    group::{Group, Member},
    outlet::Outlet,
};

/// Most clients of a group. What waking it costs is little for each then. Were they many more, those who
/// cannot take all that comes would hardly ever be where the others are.
const SIZE: usize = 32;

/// For the runtime of a hub ([`event_interval`]): after how many turns of tasks it looks after I/O, where
/// tasks leave it no pause. Tokio's own is 61, but a turn may be that of a group, of a third of a
/// millisecond and more, and the database is to be heard.
///
/// [`event_interval`]: tokio::runtime::Builder::event_interval
pub const EVENT_INTERVAL: u32 = 30;

/// Has streams over HTTP/1.1 written: each by a task of its own until its client has all there is, then
/// by that of a group.
#[derive(Debug)]
pub(crate) struct Groups {
    app: Arc<App>,
    tasks: TaskTracker,
    /// Groups that can take more, by the lane they are of. Locked before any entrance.
    with_room: Mutex<HashMap<LaneKey, Vec<Arc<Entrance>>>>,
}

/// Where clients join a group.
#[derive(Debug, Default)]
pub(crate) struct Entrance(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Those who have come since the group last looked: fewer than it may have clients.
    members: Vec<Member>,
    /// How many clients it has, with them.
    size: usize,
    waker: Option<Waker>,
}

// === impl Groups ===

impl Groups {
    pub(crate) fn new(app: Arc<App>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            app,
            tasks,
            with_room: Mutex::default(),
        })
    }

    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// Has a stream written.
    pub(crate) fn spawn(self: &Arc<Self>, direct: Direct) {
        let groups = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Some((outlet, caught_up)) = direct.run().await {
                groups.join(Member::new(outlet, caught_up));
            }
        });
    }

    /// Has a client go on by itself that is too far behind for its group.
    pub(crate) fn part(self: &Arc<Self>, outlet: Outlet, from: CaughtUp) {
        let body = EventBody::go_on(&self.app, from);
        self.spawn(Direct::go_on(outlet, body));
    }

    fn join(self: &Arc<Self>, member: Member) {
        let lane = member.lane();
        let mut with_room = self.with_room();
        let groups = with_room.entry(lane).or_default();
        if let Some(group) = groups.last() {
            if group.admit(member) == SIZE {
                groups.pop();
            }
            if groups.is_empty() {
                with_room.remove(&lane);
            }
            return;
        }
        let entrance = Arc::new(Entrance::default());
        entrance.waiting().size = 1;
        groups.push(Arc::clone(&entrance));
        drop(with_room);
        let group = Group::new(Arc::clone(self), entrance, member);
        // The budget is for tasks that serve one client. This one gives way after each turn.
        self.tasks.spawn(coop::unconstrained(group));
    }

    /// Takes the leave of some of a group's clients. Whether it is empty now, and nobody will
    /// join it any more.
    pub(crate) fn leave(&self, lane: LaneKey, entrance: &Arc<Entrance>, count: usize) -> bool {
        let mut with_room = self.with_room();
        let mut waiting = entrance.waiting();
        let was_full = waiting.size == SIZE;
        waiting.size -= count;
        let is_empty = waiting.size == 0;
        drop(waiting);
        let groups = with_room.entry(lane).or_default();
        match (was_full, is_empty) {
            (true, false) => groups.push(Arc::clone(entrance)),
            (false, true) => groups.retain(|group| !Arc::ptr_eq(group, entrance)),
            _ => {}
        }
        if groups.is_empty() {
            with_room.remove(&lane);
        }
        is_empty
    }

    fn with_room(&self) -> MutexGuard<'_, HashMap<LaneKey, Vec<Arc<Entrance>>>> {
        self.with_room
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entrance ===

impl Entrance {
    /// Lets a client in. How many there are with it.
    fn admit(&self, member: Member) -> usize {
        let mut waiting = self.waiting();
        waiting.size += 1;
        let size = waiting.size;
        waiting.members.push(member);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        size
    }

    /// Those who have come since. Wakes the task when there are more.
    pub(crate) fn take(&self, waker: &Waker) -> Vec<Member> {
        let mut waiting = self.waiting();
        if !waiting
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            waiting.waker = Some(waker.clone());
        }
        std::mem::take(&mut waiting.members)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
