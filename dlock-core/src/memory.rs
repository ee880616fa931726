//! A store in the memory of one process.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::contract::characteristics::{Characteristics, Reach};
use crate::contract::claim::{Claim, OwnerToken};
use crate::contract::datastore::{Datastore, Watch};
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::finding::Finding;
use crate::contract::grant::{FencingToken, Grant};
use crate::contract::inspect::{HeldPage, Inspect, PageMark};
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, HeldBy, ReleaseOutcome};
use crate::time::clock::Clock;
use crate::time::instant::Time;
use crate::time::signal::Signal;

/// How long a waiter that was handed the lock may take to claim it.
const HANDOVER: Duration = Duration::from_secs(1);

/// With fewer records than this, expired ones are not looked for.
const SWEEP_FROM: usize = 1024;

/// Locks between the threads of one process, in memory. It serves tests, and is the reference that
/// other stores are compared with.
///
/// Clones share their locks. It has everything that a store can have: expiry, fencing, order among
/// waiters, wake-ups.
///
/// When a lock becomes free, it is handed to the first waiter under a short lease, and the waiter
/// is woken. The waiter then claims the lock for its full time. So a newcomer does not overtake,
/// and a waiter that does not wake up delays the others by only a second.
#[derive(Clone)]
pub struct MemoryDatastore {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: HashMap<Arc<str>, Record>,
    queues: HashMap<Box<str>, VecDeque<Waiter>>,
    /// The number of records at which expired ones are removed.
    sweep_at: usize,
    /// One counter for all keys: tokens must rise for ever, and records are forgotten.
    last_fence: u64,
    /// Notified when the mutex is [unlocked](unlock).
    to_notify: Vec<Signal>,
}

struct Record {
    owner: OwnerToken,
    fence: FencingToken,
    valid_until: Time,
    sequence: u64,
    holder: Arc<str>,
    /// The waiter that was handed the lock, until it claims it.
    handed_to: Option<Waiter>,
}

struct Waiter {
    claim: Claim,
    signal: Signal,
}

impl MemoryDatastore {
    /// An empty store on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Clock::BOOTTIME)
    }

    /// No locks, on this clock, which a [`Store`](crate::Store) of it uses too.
    pub fn with_clock(clock: Clock) -> Self {
        MemoryDatastore {
            clock,
            state: Arc::default(),
        }
    }

    /// The number of keys that have a record, including records that have expired and are not yet
    /// removed.
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// Returns whether no key has a record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No foreign code runs under this mutex, so the state is consistent even if it is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unlocks the state, and then notifies: a notification may run any code.
fn unlock(mut state: MutexGuard<'_, State>) {
    if !state.to_notify.is_empty() {
        let signals = std::mem::take(&mut state.to_notify);
        drop(state);
        for signal in signals {
            signal.notify();
        }
    }
}

impl Default for MemoryDatastore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryDatastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDatastore")
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

impl Datastore for MemoryDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut state = self.lock();
        refuse_late(claim)?;
        let now = self.clock.now();
        let key = claim.key();
        state.expire(key, now);
        if !state.records.contains_key(key) && !state.is_first(claim) {
            state.hand_over(key, now);
        }
        let valid_until = now.saturating_add(ttl);
        if let Some(record) = state.records.get_mut(key) {
            if record.owner != claim.owner() {
                let held = record.as_seen(now);
                // It may have been handed to that owner just now.
                unlock(state);
                return Ok(AcquireOutcome::Held(held));
            }
            let before = record.valid_until;
            record.valid_until = match record.handed_to.take() {
                // Nobody relied on the hand-over. If the holder dies, the lock must not stay taken
                // for longer than its time to live.
                Some(_) => valid_until,
                // A repeated claim never shortens the lease.
                None => before.max(valid_until),
            };
            let granted = AcquireOutcome::granted(now.until(record.valid_until), record.fence);
            if record.valid_until < before {
                // The waiters sleep until the end of the hand-over.
                state.wake_all(key);
            }
            unlock(state);
            return Ok(granted);
        }
        state.sweep(now);
        let fence = state.grant(claim, valid_until, None);
        Ok(AcquireOutcome::granted(ttl, fence))
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut state = self.lock();
        refuse_late(lease.claim())?;
        let now = self.clock.now();
        state.expire(lease.key(), now);
        let Some(record) = state.records.get_mut(lease.key()) else {
            return Ok(Extension::Lost);
        };
        if record.owner != lease.owner() {
            return Ok(Extension::Lost);
        }
        let before = record.valid_until;
        if lease.sequence() > record.sequence {
            record.sequence = lease.sequence();
            record.valid_until = now.saturating_add(ttl);
            record.holder = Arc::clone(lease.claim().shared_holder());
        }
        let grant = Grant::new(now.until(record.valid_until)).with_fence(record.fence);
        if record.valid_until < before {
            // The waiters sleep until the old end of the lease.
            state.wake_all(lease.key());
        }
        unlock(state);
        Ok(Extension::Extended(grant))
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let mut state = self.lock();
        refuse_late(lease.claim())?;
        let now = self.clock.now();
        state.expire(lease.key(), now);
        let released = state.release(lease.key(), lease.owner(), now);
        unlock(state);
        Ok(ReleaseOutcome::from(released))
    }

    fn own_clock(&self) -> Option<&Clock> {
        Some(&self.clock)
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_reach(Reach::Process)
            .with_fencing("as long as the store's value lives")
            .with_wakes()
            .with_batch(usize::MAX)
            .with_late_calls_refused()
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let waiter = Waiter {
            claim: claim.clone(),
            signal: signal.clone(),
        };
        self.lock()
            .queues
            .entry(claim.key().into())
            .or_default()
            .push_back(waiter);
        let (store, claim) = (self.clone(), claim.clone());
        Ok(Some(Watch::new(move || store.leave(&claim))))
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl MemoryDatastore {
    /// Removes the waiter. A lock that it was handed and did not claim goes to the next one.
    fn leave(&self, claim: &Claim) {
        let mut state = self.lock();
        let now = self.clock.now();
        // Expire first: it queues a waiter again that missed its hand-over.
        state.expire(claim.key(), now);
        state.leave_queue(claim.key(), claim.owner());
        match state.records.get(claim.key()) {
            Some(record) if record.handed_to.is_some() && record.owner == claim.owner() => {
                state.release(claim.key(), claim.owner(), now);
            }
            Some(_) => {}
            // The hand-over to it has expired unnoticed, and the next waiter sleeps longer than
            // that.
            None => state.hand_over(claim.key(), now),
        }
        unlock(state);
    }
}

impl Inspect for MemoryDatastore {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        let mut state = self.lock();
        let now = self.clock.now();
        state.expire(key, now);
        Ok(state.records.get(key).map(|record| record.as_seen(now)))
    }

    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let mut state = self.lock();
        let now = self.clock.now();
        state.expire(key, now);
        let owner = state
            .records
            .get(key)
            .filter(|record| record.fence == fence)
            .map(|r| r.owner);
        let released = owner.is_some_and(|owner| state.release(key, owner, now));
        unlock(state);
        Ok(ReleaseOutcome::from(released))
    }

    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        let mut state = self.lock();
        state.expire(key, self.clock.now());
        Ok(state.queues.get(key).map_or(0, VecDeque::len))
    }

    /// All keys on one page.
    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        if let Some(after) = after {
            return Err(after.unknown());
        }
        let state = self.lock();
        let now = self.clock.now();
        let held = state
            .records
            .iter()
            .filter(|(key, record)| key.starts_with(prefix) && record.valid_until > now);
        let held = held.map(|(key, record)| (key.to_string(), record.as_seen(now)));
        Ok(HeldPage::new(held.collect(), None))
    }

    /// None: nothing but this process has to do with it.
    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        Ok(Vec::new())
    }
}

/// A call that waited until after its `not_after` must change nothing.
fn refuse_late(claim: &Claim) -> Result<(), DatastoreError> {
    if claim.time_left().is_zero() {
        return Err(DatastoreError::not_executed(
            ErrorKind::Stale,
            "its not_after had passed",
        ));
    }
    Ok(())
}

impl State {
    fn expire(&mut self, key: &str, now: Time) {
        if self
            .records
            .get(key)
            .is_none_or(|record| record.valid_until > now)
        {
            return;
        }
        // A waiter that missed its hand-over queues again, behind the others.
        if let Some(waiter) = self.records.remove(key).and_then(|record| record.handed_to) {
            self.queues.entry(key.into()).or_default().push_back(waiter);
        }
    }

    fn grant(
        &mut self,
        claim: &Claim,
        valid_until: Time,
        handed_to: Option<Waiter>,
    ) -> FencingToken {
        self.last_fence += 1;
        let fence = FencingToken::new(self.last_fence);
        let record = Record {
            owner: claim.owner(),
            fence,
            valid_until,
            sequence: 0,
            holder: Arc::clone(claim.shared_holder()),
            handed_to,
        };
        self.records.insert(Arc::clone(claim.shared_key()), record);
        self.leave_queue(claim.key(), claim.owner());
        fence
    }

    fn release(&mut self, key: &str, owner: OwnerToken, now: Time) -> bool {
        let ours = self
            .records
            .get(key)
            .is_some_and(|record| record.owner == owner);
        if ours {
            self.records.remove(key);
            self.hand_over(key, now);
        }
        ours
    }

    /// Hands a free key to its first waiter, if there is one, and wakes it.
    fn hand_over(&mut self, key: &str, now: Time) {
        if let Some(waiter) = self.queues.get_mut(key).and_then(VecDeque::pop_front) {
            let (claim, signal) = (waiter.claim.clone(), waiter.signal.clone());
            self.grant(&claim, now.saturating_add(HANDOVER), Some(waiter));
            self.to_notify.push(signal);
        }
    }

    fn wake_all(&mut self, key: &str) {
        for waiter in self.queues.get(key).into_iter().flatten() {
            self.to_notify.push(waiter.signal.clone());
        }
    }

    /// Removes the expired records of keys that nobody asks for any more. Runs whenever the number
    /// of records has doubled.
    fn sweep(&mut self, now: Time) {
        if self.records.len() < self.sweep_at {
            return;
        }
        self.records
            .retain(|_, record| record.valid_until > now || record.handed_to.is_some());
        self.sweep_at = (self.records.len() * 2).max(SWEEP_FROM);
    }

    /// Returns whether nobody waits before this claimant.
    fn is_first(&self, claim: &Claim) -> bool {
        let first = self.queues.get(claim.key()).and_then(VecDeque::front);
        first.is_none_or(|first| first.claim.owner() == claim.owner())
    }

    fn leave_queue(&mut self, key: &str, owner: OwnerToken) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.retain(|waiter| waiter.claim.owner() != owner);
            if queue.is_empty() {
                self.queues.remove(key);
            }
        }
    }
}

impl Record {
    fn as_seen(&self, now: Time) -> HeldBy {
        let left = now.until(self.valid_until);
        HeldBy::new()
            .with_expires_in(left)
            .with_holder_text(&self.holder)
            .with_fence(self.fence)
    }
}
