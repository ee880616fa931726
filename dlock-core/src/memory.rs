//! A store in the memory of one process.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    FencingToken, Grant, Held, Inspect, Lease, OwnerToken, Reach, Released, Signal, Time, Watch,
};

/// How long a waiter that was handed the lock may take to claim it.
const HANDOVER: Duration = Duration::from_secs(1);

/// Below this many records nobody looks for old ones.
const SWEEP_FROM: usize = 1024;

/// Locks between the threads of one process, in memory. For tests, and the model that other stores are compared with.
///
/// Clones share their locks. It does everything that a store can do: expiry, fencing, order among waiters, wake-ups.
///
/// A waiter is handed the lock in its absence, under a short lease, and woken; it then claims the lock for its full time. So a
/// newcomer does not overtake, and a waiter that does not wake up delays the others by a second.
#[derive(Clone)]
pub struct MemoryDatastore {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: HashMap<Arc<str>, Record>,
    queues: HashMap<Box<str>, VecDeque<Waiter>>,
    /// How many records there may be before the old ones are looked for.
    sweep_at: usize,
    /// One counter for all keys: it may never forget, and keys come and go.
    last_fence: u64,
}

struct Record {
    owner: OwnerToken,
    fence: FencingToken,
    until: Time,
    sequence: u64,
    holder: Arc<str>,
    /// The waiter that it was granted to in its absence, until that claims it.
    handed_to: Option<Waiter>,
}

struct Waiter {
    claim: Claim,
    signal: Signal,
}

impl MemoryDatastore {
    /// No locks, on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Clock::BOOTTIME)
    }

    /// No locks, on this clock. Give the same one to the [`StoreBuilder`](crate::StoreBuilder::clock).
    pub fn with_clock(clock: Clock) -> Self {
        MemoryDatastore {
            clock,
            state: Arc::default(),
        }
    }

    /// How many keys have a record, also one that has ended and was not forgotten yet.
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// Whether no key has a record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under this mutex, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut state = self.lock();
        refuse_late(claim)?;
        let now = self.clock.now();
        let key = claim.key();
        state.expire(key, now);
        if !state.records.contains_key(key) && !state.is_first(claim) {
            state.hand_over(key, now);
        }
        let until = now.saturating_add(ttl);
        if let Some(record) = state.records.get_mut(key) {
            if record.owner != claim.owner() {
                return Ok(Attempt::Held(record.as_seen(now)));
            }
            record.handed_to = None;
            record.until = record.until.max(until);
            return Ok(Attempt::granted(now.until(record.until), record.fence));
        }
        state.sweep(now);
        let fence = state.grant(claim, until, None);
        Ok(Attempt::granted(ttl, fence))
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
        let before = record.until;
        if lease.sequence() > record.sequence {
            record.sequence = lease.sequence();
            record.until = now.saturating_add(ttl);
            record.holder = Arc::clone(lease.claim().shared_holder());
        }
        let grant = Grant::new(now.until(record.until)).with_fence(record.fence);
        if record.until < before {
            // The waiters sleep until the end that they were told.
            state.wake_all(lease.key());
        }
        Ok(Extension::Extended(grant))
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        let mut state = self.lock();
        refuse_late(lease.claim())?;
        let now = self.clock.now();
        state.expire(lease.key(), now);
        Ok(Released::from(state.release(
            lease.key(),
            lease.owner(),
            now,
        )))
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
    /// The waiter goes; what it was handed and did not claim goes to the next.
    fn leave(&self, claim: &Claim) {
        let mut state = self.lock();
        let now = self.clock.now();
        // In this order: a hand-over that was missed queues its waiter again.
        state.expire(claim.key(), now);
        state.leave_queue(claim.key(), claim.owner());
        match state.records.get(claim.key()) {
            Some(record) if record.handed_to.is_some() && record.owner == claim.owner() => {
                state.release(claim.key(), claim.owner(), now);
            }
            Some(_) => {}
            // What it was handed ran out unseen, and the next waiter sleeps for longer than that.
            None => state.hand_over(claim.key(), now),
        }
    }
}

impl Inspect for MemoryDatastore {
    fn holder(&self, key: &str) -> Result<Option<Held>, DatastoreError> {
        let mut state = self.lock();
        let now = self.clock.now();
        state.expire(key, now);
        Ok(state.records.get(key).map(|record| record.as_seen(now)))
    }

    fn break_lease(&self, key: &str, fence: FencingToken) -> Result<Released, DatastoreError> {
        let mut state = self.lock();
        let now = self.clock.now();
        state.expire(key, now);
        let owner = state
            .records
            .get(key)
            .filter(|record| record.fence == fence)
            .map(|r| r.owner);
        Ok(Released::from(
            owner.is_some_and(|owner| state.release(key, owner, now)),
        ))
    }
}

/// Law 9 of a store that can: a call that waited past its end changes nothing.
fn refuse_late(claim: &Claim) -> Result<(), DatastoreError> {
    if claim.time_left().is_zero() {
        return Err(DatastoreError::not_executed(
            ErrorKind::Stale,
            "the call came after its end",
        ));
    }
    Ok(())
}

impl State {
    fn expire(&mut self, key: &str, now: Time) {
        if self
            .records
            .get(key)
            .is_none_or(|record| record.until > now)
        {
            return;
        }
        // A waiter that did not wake up in time queues again, behind the others.
        if let Some(waiter) = self.records.remove(key).and_then(|record| record.handed_to) {
            self.queues.entry(key.into()).or_default().push_back(waiter);
        }
    }

    fn grant(&mut self, claim: &Claim, until: Time, handed_to: Option<Waiter>) -> FencingToken {
        self.last_fence += 1;
        let fence = FencingToken::new(self.last_fence);
        let record = Record {
            owner: claim.owner(),
            fence,
            until,
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

    /// Gives a free key to its first waiter, if there is one, and wakes it.
    fn hand_over(&mut self, key: &str, now: Time) {
        if let Some(waiter) = self.queues.get_mut(key).and_then(VecDeque::pop_front) {
            let (claim, signal) = (waiter.claim.clone(), waiter.signal.clone());
            self.grant(&claim, now.saturating_add(HANDOVER), Some(waiter));
            signal.notify();
        }
    }

    fn wake_all(&self, key: &str) {
        for waiter in self.queues.get(key).into_iter().flatten() {
            waiter.signal.notify();
        }
    }

    /// Forgets the leases of keys that nobody asks for any more. Done whenever their number has doubled.
    fn sweep(&mut self, now: Time) {
        if self.records.len() < self.sweep_at {
            return;
        }
        self.records
            .retain(|_, record| record.until > now || record.handed_to.is_some());
        self.sweep_at = (self.records.len() * 2).max(SWEEP_FROM);
    }

    /// Whether nobody waits before this claimant.
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
    fn as_seen(&self, now: Time) -> Held {
        let left = now.until(self.until);
        Held::new()
            .with_expires_in(left)
            .with_holder_text(&self.holder)
            .with_fence(self.fence)
    }
}
