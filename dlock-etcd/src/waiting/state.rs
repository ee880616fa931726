//! The waiters of this process, and what is to be done for them. No I/O here.

mod watches;

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{Leaving, OwnerToken, Signal, Time};

use crate::operations::queue::{BATCH, owner_of};

/// How often the lease of the waiters is renewed.
pub(super) const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// How often the server is asked for places that nobody waits at.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long the threads stay when nobody waits any more.
const LINGER: Duration = Duration::from_secs(10);
/// A waiter that was woken and does not claim for this long loses its place.
const TURN: Duration = Duration::from_secs(3);
/// The same for one that was woken only because something may have been missed.
const LOOK: Duration = Duration::from_secs(30);
/// How many places that could not be given up are kept in mind. The sweep finds those of one more.
const LEAVES_KEPT: usize = 10_000;

#[derive(Default)]
pub(super) struct State {
    waiters: HashMap<OwnerToken, Waiter>,
    /// The places of this process.
    places: HashMap<Arc<str>, OwnerToken>,
    /// What the waiters wait to be deleted: keys of locks, and places, also of this process.
    watched: HashMap<Arc<str>, Watched>,
    /// The names of the watches, by their numbers.
    watches: HashMap<i64, Arc<str>>,
    last_watch: i64,
    /// What is to be sent to the server, see [`watching`](crate::operations::watching).
    requests: Vec<String>,
    pub(super) lease: Lease,
    /// Places that were given up.
    leaves: Vec<Leave>,
    /// The same, until it is known that they are deleted.
    left: HashMap<OwnerToken, Arc<str>>,
    due: Due,
    /// Until when a request may be carried out that makes a place for a waiter that has left.
    doubt: Option<Time>,
    /// Signals of waiters whose turn may have come; see [`take_woken`](Self::take_woken).
    woken: Vec<Signal>,
    /// Since when nobody waits.
    idle_since: Option<Time>,
    /// The threads of which run work; those of earlier ones end.
    run: u64,
    running: bool,
    stopped: bool,
}

/// When the heartbeat thread does what it does now and then.
struct Due {
    /// When places are deleted, at the soonest.
    leave: Time,
    heartbeat: Time,
    sweep: Time,
}

impl Default for Due {
    fn default() -> Self {
        Due {
            leave: Time::ZERO,
            heartbeat: Time::ZERO,
            sweep: Time::ZERO,
        }
    }
}

/// The lease with which the places end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Lease {
    /// Not answered yet.
    #[default]
    Unknown,
    Granted(i64),
    /// The server could not be asked.
    Failed,
}

struct Waiter {
    signal: Signal,
    place: Option<Arc<str>>,
    behind: Option<Arc<str>>,
    /// The revision after that at which it was refused.
    since: i64,
    /// Until when it claims.
    claims_until: Option<Time>,
    /// By when it must have claimed, if it was woken.
    must_claim_by: Option<Time>,
    /// Whether it has claimed and could get no place, or has lost its place with the lease.
    lacks_place: bool,
}

impl Waiter {
    /// Whether a claim of it is under way.
    fn claims_at(&self, now: Time) -> bool {
        self.claims_until.is_some_and(|end| now < end)
    }
}

/// Something whose deletion wakes waiters.
#[derive(Default)]
struct Watched {
    waiters: Vec<OwnerToken>,
    /// None for a place of this process, which knows by itself when it is given up.
    watch: Option<Watch>,
}

struct Watch {
    id: i64,
    /// The revision from which on deletions are reported, once the server has said so.
    from: Option<i64>,
    /// That of the last deletion that was reported.
    deleted: i64,
}

impl Watch {
    /// Whether something may have been deleted at the revision `since` or later without being
    /// reported.
    fn may_have_missed(&self, since: i64) -> bool {
        self.from.is_some_and(|from| from > since)
    }
}

/// A place that is to be deleted.
pub(super) struct Leave {
    pub(super) place: Arc<str>,
    pub(super) leaving: Option<Leaving>,
}

/// What the heartbeat thread has to send now.
pub(super) struct Work {
    pub(super) lease: Option<LeaseWork>,
    pub(super) leaves: Vec<Leave>,
    pub(super) sweeps: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseWork {
    Grant,
    KeepAlive(i64),
}

/// What the heartbeat thread does next.
pub(super) enum Next {
    Work(Work),
    /// There is nothing to do for a while, see [`State::pause`].
    Sleep,
    /// The lease is not needed any more.
    End(Ended),
}

/// What a run leaves. It is dropped when the state is not locked any more: that wakes tasks, and
/// what runs then may come back to the state.
#[must_use = "dropped at once it is dropped under the lock of the state"]
#[derive(Default)]
pub(super) struct Ended {
    pub(super) lease: Option<i64>,
    #[expect(dead_code, reason = "they are kept until they are dropped")]
    leaves: Vec<Leave>,
}

impl State {
    /// The number of a new run if there is none.
    pub(super) fn start(&mut self, now: Time) -> Option<u64> {
        if self.running || self.stopped {
            return None;
        }
        self.run += 1;
        (self.running, self.lease, self.idle_since) = (true, Lease::Unknown, None);
        self.due.heartbeat = now;
        self.due.sweep = now.saturating_add(SWEEP_EVERY);
        Some(self.run)
    }

    pub(super) fn end(&mut self, run: u64) -> Ended {
        match self.run == run {
            true => self.ended(),
            false => Ended::default(),
        }
    }

    pub(super) fn stop(&mut self) -> Ended {
        self.stopped = true;
        self.ended()
    }

    fn ended(&mut self) -> Ended {
        self.running = false;
        self.left.clear();
        self.watched.clear();
        self.watches.clear();
        self.requests.clear();
        let lease = match mem::take(&mut self.lease) {
            Lease::Granted(lease) => Some(lease),
            Lease::Unknown | Lease::Failed => None,
        };
        self.forget_places();
        Ended {
            lease,
            leaves: mem::take(&mut self.leaves),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn runs(&self, run: u64) -> bool {
        self.running && self.run == run
    }

    pub(super) fn enter(&mut self, owner: OwnerToken, signal: &Signal) {
        let waiter = Waiter {
            signal: signal.clone(),
            place: None,
            behind: None,
            since: 0,
            claims_until: None,
            must_claim_by: None,
            lacks_place: false,
        };
        self.waiters.insert(owner, waiter);
        self.idle_since = None;
    }

    /// A claim is about to be made, by a call that ends at `end`. Returns whether it waits.
    pub(super) fn claims(&mut self, owner: OwnerToken, end: Time) -> bool {
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return false;
        };
        (waiter.claims_until, waiter.must_claim_by) = (Some(end), None);
        waiter.lacks_place = !matches!(self.lease, Lease::Granted(_));
        true
    }

    /// The claim was answered. If it was granted, the place is gone. Otherwise it looks again if it
    /// could not learn what a watch that began meanwhile has missed.
    pub(super) fn answered(&mut self, owner: OwnerToken, is_granted: bool, now: Time) {
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return;
        };
        waiter.claims_until = None;
        if is_granted {
            if let Some(place) = waiter.place.take() {
                self.place_is_gone(&place, now);
            }
            return;
        }
        if waiter.must_claim_by.is_some() {
            return;
        }
        let since = waiter.since;
        let behind = waiter.behind.as_ref().and_then(|it| self.watched.get(it));
        let watch = behind.and_then(|watched| watched.watch.as_ref());
        if watch.is_some_and(|watch| watch.may_have_missed(since)) {
            self.must_look(owner, now);
        }
    }

    pub(super) fn place(&self, owner: OwnerToken) -> Option<Arc<str>> {
        self.waiters.get(&owner)?.place.clone()
    }

    /// The waiter is about to get this place.
    pub(super) fn enters(&mut self, owner: OwnerToken, place: Arc<str>, now: Time) {
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return;
        };
        let (before, end) = (
            waiter.place.replace(Arc::clone(&place)),
            waiter.claims_until,
        );
        // The server has lost it, or does not have it yet.
        if let Some(before) = before {
            // If nothing was written since, the new one has the same name.
            if before != place {
                self.place_is_gone(&before, now);
            }
            self.doubt = self.doubt.max(end);
        }
        self.places.insert(place, owner);
    }

    /// Removes the waiter. Returns the place that it may have.
    pub(super) fn leave(&mut self, owner: OwnerToken, now: Time) -> Option<Arc<str>> {
        self.waits_no_more(owner);
        let waiter = self.waiters.remove(&owner)?;
        let place = waiter.place?;
        self.place_is_gone(&place, now);
        // It leaves in the middle of a claim.
        self.doubt = self.doubt.max(waiter.claims_until);
        self.left.insert(owner, Arc::clone(&place));
        Some(place)
    }

    /// The same for a claim that is given up, which may have left already, while its place is still
    /// to be deleted. Now the caller deletes it.
    pub(super) fn gives_up(&mut self, owner: OwnerToken, now: Time) -> Option<Arc<str>> {
        self.leave(owner, now);
        self.left.remove(&owner)
    }

    /// Places are deleted, or will be by others.
    pub(super) fn left(&mut self, places: &[Arc<str>]) {
        for owner in places.iter().filter_map(|place| owner_of(place)) {
            self.left.remove(&owner);
        }
    }

    fn place_is_gone(&mut self, place: &str, now: Time) {
        self.places.remove(place);
        if self.watched.get(place).is_some_and(|it| it.watch.is_none())
            && let Some(watched) = self.watched.remove(place)
        {
            self.next_in_turn(place, &watched.waiters, now);
        }
    }

    /// The place is to be deleted by the heartbeat thread.
    pub(super) fn leaves_later(&mut self, place: Arc<str>, leaving: Option<Leaving>) -> Ended {
        // Without the thread it ends with its lease.
        if !self.running {
            self.left(std::slice::from_ref(&place));
        }
        let leave = Leave { place, leaving };
        let left = match self.leaves.len() < LEAVES_KEPT && self.running {
            true => {
                self.leaves.push(leave);
                Vec::new()
            }
            false => vec![leave],
        };
        Ended {
            lease: None,
            leaves: left,
        }
    }

    /// Places could not be deleted. They are tried again a little later, or before by claims that
    /// are given up.
    pub(super) fn leave_failed(&mut self, mut leaves: Vec<Arc<str>>, now: Time) {
        self.due.leave = now.saturating_add(HEARTBEAT_EVERY);
        let room = LEAVES_KEPT.saturating_sub(self.leaves.len());
        // The others end with the lease.
        self.left(&leaves.split_off(room.min(leaves.len())));
        let leave = |place| Leave {
            place,
            leaving: None,
        };
        self.leaves.extend(leaves.into_iter().map(leave));
    }

    pub(super) fn lease_granted(&mut self, run: u64, lease: i64, now: Time) {
        if !self.runs(run) {
            return;
        }
        self.lease = Lease::Granted(lease);
        // They get a place now.
        let lacking = self.waiters.iter().filter(|(_, waiter)| waiter.lacks_place);
        let lacking: Vec<_> = lacking.map(|(owner, _)| *owner).collect();
        self.wake_all(&lacking, now);
    }

    pub(super) fn lease_failed(&mut self, run: u64) {
        if self.runs(run) && self.lease == Lease::Unknown {
            self.lease = Lease::Failed;
        }
    }

    /// The server does not know the lease any more. Returns whether the heartbeat thread has to be
    /// woken.
    pub(super) fn lease_ended(&mut self, lease: i64, now: Time) -> bool {
        if self.lease != Lease::Granted(lease) {
            return false;
        }
        self.lease = Lease::Failed;
        self.due.heartbeat = now;
        self.forget_places();
        true
    }

    fn forget_places(&mut self) {
        self.places.clear();
        for waiter in self.waiters.values_mut() {
            // One without a place may be about to be refused, and to get none for lack of a lease.
            (waiter.place, waiter.lacks_place) = (None, true);
        }
    }

    /// Those of the places that nobody waits at are to be deleted.
    pub(super) fn swept(&mut self, places: Vec<String>) {
        let room = LEAVES_KEPT.saturating_sub(self.leaves.len());
        let leaves: HashSet<_> = self.leaves.iter().map(|leave| &*leave.place).collect();
        let is_known = |place: &str| self.places.contains_key(place) || leaves.contains(place);
        let unknown = places.into_iter().filter(|place| !is_known(place));
        let unknown: Vec<_> = unknown.take(room).collect();
        self.leaves.extend(unknown.into_iter().map(|place| Leave {
            place: place.into(),
            leaving: None,
        }));
    }

    pub(super) fn granted_lease(&self) -> Option<i64> {
        match self.lease {
            Lease::Granted(lease) => Some(lease),
            Lease::Unknown | Lease::Failed => None,
        }
    }

    /// What the heartbeat thread of this run does at `now`.
    pub(super) fn next(&mut self, run: u64, now: Time) -> Next {
        if !self.runs(run) {
            return Next::End(Ended::default());
        }
        if self.waiters.is_empty() && self.leaves.is_empty() {
            let since = *self.idle_since.get_or_insert(now);
            if now >= since.saturating_add(LINGER) {
                return Next::End(self.ended());
            }
        }
        let mut work = Work {
            lease: None,
            leaves: Vec::new(),
            sweeps: false,
        };
        if self.due.heartbeat <= now {
            self.due.heartbeat = now.saturating_add(HEARTBEAT_EVERY);
            work.lease = Some(match self.lease {
                Lease::Granted(lease) => LeaseWork::KeepAlive(lease),
                Lease::Unknown | Lease::Failed => LeaseWork::Grant,
            });
            self.pass_over_sleepers(now);
            self.end_unused_watches();
            if self.doubt.is_some() {
                self.due.sweep = now;
            }
            // Once more after that time.
            self.doubt.take_if(|until| *until <= now);
        }
        // After the places that are to be deleted already, which it would find again.
        if self.due.sweep <= now && self.leaves.is_empty() {
            self.due.sweep = now.saturating_add(SWEEP_EVERY);
            work.sweeps = true;
        }
        if self.due.leave <= now {
            let count = self.leaves.len().min(BATCH);
            work.leaves.extend(self.leaves.drain(..count));
        }
        if work.lease.is_none() && work.leaves.is_empty() && !work.sweeps {
            return Next::Sleep;
        }
        Next::Work(work)
    }

    /// How long there is nothing to do.
    pub(super) fn pause(&self, run: u64, now: Time) -> Duration {
        let next = match self.leaves.is_empty() {
            true => self.due.sweep,
            false => self.due.leave,
        };
        match self.runs(run) {
            true => now.until(self.due.heartbeat.min(next)),
            false => Duration::ZERO,
        }
    }

    /// Waiters that do not claim in their turn lose their places.
    fn pass_over_sleepers(&mut self, now: Time) {
        let mut passed = Vec::new();
        for waiter in self.waiters.values_mut() {
            let has_slept = waiter.must_claim_by.is_some_and(|by| by < now);
            if has_slept && !waiter.claims_at(now) {
                passed.extend(waiter.place.take());
            }
        }
        for place in passed {
            self.place_is_gone(&place, now);
            let leaving = None;
            self.leaves.push(Leave { place, leaving });
        }
    }
}

#[cfg(test)]
mod tests;
