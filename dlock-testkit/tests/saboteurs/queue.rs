//! The queue of the reference store: who waits, who is next, and who wakes them.

use std::collections::HashMap;
use std::process;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use dlock_core::{Claim, OwnerToken, Signal, Time, Watch};
use rustix::process::{Pid, test_kill_process};

use super::backing::{Record, Turn};
use super::flaw::Flaw;
use super::rules::Reference;

/// How long a waiter that was handed the lock may take to claim it.
const HANDOVER: Duration = Duration::from_millis(700);
/// How often a handle checks whether it is the turn of one of its waiters.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For ever, as cases go.
pub(super) const ENDLESS: Duration = Duration::from_secs(3600);

/// A place in the queue of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) owner: OwnerToken,
    pub(crate) process: u32,
    pub(crate) holder: String,
}

impl Place {
    fn is_alive(&self) -> bool {
        let pid = i32::try_from(self.process).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid).is_ok())
    }
}

/// The waiters of one handle.
#[derive(Default)]
pub(super) struct Waiters {
    all: Mutex<Vec<Waiter>>,
}

struct Waiter {
    key: String,
    owner: OwnerToken,
    signal: Signal,
    /// The end of the holder's lease as it was when this one came.
    seen_end: Time,
}

impl Reference {
    /// Whether its waiters queue.
    pub(super) fn queues(&self) -> bool {
        matches!(
            self.flaw,
            None | Some(
                Flaw::ServesTheLast
                    | Flaw::QueuesInItsProcess
                    | Flaw::LetsNewcomersOvertake
                    | Flaw::ForgetsThatALeaseWasShortened
                    | Flaw::KeepsThePlaceOfWhoGaveUp
                    | Flaw::KeepsTheLockOfWhoGaveUp
                    | Flaw::HandsOverWithoutEnd
                    | Flaw::TrustsTheDead
                    | Flaw::BuriesTheLivingWithTheDead
                    | Flaw::HandsOverTheNumber
                    | Flaw::BreaksWithoutWaking
                    | Flaw::CountsOneWaiter
                    | Flaw::CountsWhoGaveUp
                    | Flaw::ForgetsWaitersInACheck
            )
        )
    }

    /// Puts a claimant into the queue, and has it woken when its turn has come.
    pub(super) fn enqueue(&self, turn: &Turn, claim: &Claim, signal: &Signal) -> Watch {
        let key = self.name(claim.key());
        let mut places = self.places(turn, &key);
        places.push(Place {
            owner: claim.owner(),
            process: process::id(),
            holder: claim.holder().to_owned(),
        });
        self.save_places(turn, &key, &places);
        let mut waiters = self.waiters.all.lock().unwrap();
        if waiters.is_empty() {
            let handle = self.same_handle();
            thread::spawn(move || handle.look());
        }
        waiters.push(Waiter {
            key: key.clone(),
            owner: claim.owner(),
            signal: signal.clone(),
            seen_end: turn.load(&key).map_or(Time::ZERO, |record| record.until),
        });
        let (handle, owner) = (self.same_handle(), claim.owner());
        Watch::new(move || handle.leave(&key, owner))
    }

    /// Gives a key that is free to its first waiter who lives. The record as it is then.
    pub(super) fn hand_over(
        &self,
        turn: &Turn,
        key: &str,
        found: Option<Record>,
    ) -> Option<Record> {
        let is_held = |record: &Record| record.owner.is_some() && record.until > self.now();
        if !self.queues() || found.as_ref().is_some_and(is_held) {
            return found;
        }
        let mut places = self.places(turn, key);
        match self.flaw {
            Some(Flaw::LetsNewcomersOvertake) => return found,
            Some(Flaw::TrustsTheDead) => {}
            Some(Flaw::BuriesTheLivingWithTheDead)
                if places.first().is_some_and(|place| !place.is_alive()) =>
            {
                places.clear();
            }
            _ => places.retain(Place::is_alive),
        }
        let next = match self.flaw {
            Some(Flaw::ServesTheLast) => places.pop(),
            _ => (!places.is_empty()).then(|| places.remove(0)),
        };
        let Some(next) = next else {
            self.save_places(turn, key, &places);
            return found;
        };
        match self.flaw {
            Some(Flaw::TrustsTheDead) => places.insert(0, next.clone()),
            // If it does not come, the others have their turn before.
            _ => places.push(next.clone()),
        }
        self.save_places(turn, key, &places);
        let lasts = match self.flaw {
            Some(Flaw::HandsOverWithoutEnd | Flaw::KeepsThePlaceOfWhoGaveUp) => ENDLESS,
            _ => HANDOVER,
        };
        let record = Record {
            owner: Some(next.owner),
            until: self.now().saturating_add(lasts),
            fence: self.next_fence(found.as_ref(), false, 0),
            sequence: match (&found, self.flaw) {
                (Some(found), Some(Flaw::HandsOverTheNumber)) => found.sequence,
                _ => 0,
            },
            holder: next.holder,
        };
        turn.save(key, &record);
        Some(record)
    }

    /// Whether this claimant has a place, and will be woken.
    pub(super) fn is_queued(&self, turn: &Turn, key: &str, owner: OwnerToken) -> bool {
        self.queues()
            && self
                .places(turn, key)
                .iter()
                .any(|place| place.owner == owner)
    }

    /// Removes a claimant from the queue. Returns whether it was there.
    pub(super) fn dequeue(&self, turn: &Turn, key: &str, owner: OwnerToken) -> bool {
        let mut places = self.places(turn, key);
        let count = places.len();
        places.retain(|place| place.owner != owner);
        if places.len() == count {
            return false;
        }
        self.save_places(turn, key, &places);
        true
    }

    /// A waiter goes; what it was handed and did not claim goes to the next.
    fn leave(&self, key: &str, owner: OwnerToken) {
        let mut waiters = self.waiters.all.lock().unwrap();
        waiters.retain(|waiter| waiter.owner != owner);
        drop(waiters);
        if self.has(Flaw::KeepsThePlaceOfWhoGaveUp) {
            return;
        }
        let Ok(turn) = self.turn(self.now().saturating_add(Duration::from_secs(10))) else {
            return;
        };
        let waited = self.dequeue(&turn, key, owner);
        let Some(mut record) = turn.load(key) else {
            return;
        };
        if !waited || record.owner != Some(owner) {
            return;
        }
        if self.has(Flaw::KeepsTheLockOfWhoGaveUp) {
            record.until = self.now().saturating_add(ENDLESS);
            return turn.save(key, &record);
        }
        self.free(&turn, key, record);
    }

    /// Looks after the waiters of this handle, until there are none.
    fn look(&self) {
        loop {
            thread::sleep(LOOK_EVERY);
            let waiters = self.waiters.all.lock().unwrap();
            if waiters.is_empty() {
                return;
            }
            let mut keys: Vec<_> = waiters.iter().map(|waiter| waiter.key.clone()).collect();
            drop(waiters);
            keys.sort();
            keys.dedup();
            for key in keys {
                self.look_at(&key);
            }
        }
    }

    fn look_at(&self, key: &str) {
        let held = self.backing.peek(key);
        let held = held.filter(|record| record.until > self.now());
        if let Some(owner) = held.and_then(|record| record.owner) {
            return self.wake(key, owner);
        }
        let Ok(turn) = self.turn(self.now().saturating_add(Duration::from_secs(1))) else {
            return;
        };
        let mut found = turn.load(key);
        if !self.has(Flaw::ForgetsThatALeaseWasShortened) || self.has_seen_the_end(key) {
            found = self.hand_over(&turn, key, found);
        }
        let first = self.places(&turn, key).first().map(|place| place.owner);
        drop(turn);
        let owner = match found {
            Some(record) if record.until > self.now() && record.owner.is_some() => record.owner,
            // The first claimant gets it.
            _ if self.has(Flaw::LetsNewcomersOvertake) => first,
            _ => None,
        };
        if let Some(owner) = owner {
            self.wake(key, owner);
        }
    }

    fn wake(&self, key: &str, owner: OwnerToken) {
        for waiter in &*self.waiters.all.lock().unwrap() {
            if waiter.key == key && waiter.owner == owner {
                waiter.signal.notify();
            }
        }
    }

    fn has_seen_the_end(&self, key: &str) -> bool {
        let waiters = self.waiters.all.lock().unwrap();
        let mut waiters = waiters.iter().filter(|waiter| waiter.key == key);
        waiters.any(|waiter| waiter.seen_end <= self.now())
    }

    pub(super) fn places(&self, turn: &Turn, key: &str) -> Vec<Place> {
        match self.flaw {
            Some(Flaw::QueuesInItsProcess) => {
                let queues = in_process().lock().unwrap();
                queues.get(key).cloned().unwrap_or_default()
            }
            _ => turn.load_queue(key),
        }
    }

    pub(super) fn save_places(&self, turn: &Turn, key: &str, places: &[Place]) {
        match self.flaw {
            Some(Flaw::QueuesInItsProcess) => {
                let mut queues = in_process().lock().unwrap();
                queues.insert(key.to_owned(), places.to_vec());
            }
            _ => turn.save_queue(key, places),
        }
    }
}

/// Queues of which other processes know nothing. Keys of cases differ.
fn in_process() -> &'static Mutex<HashMap<String, Vec<Place>>> {
    static QUEUES: OnceLock<Mutex<HashMap<String, Vec<Place>>>> = OnceLock::new();
    QUEUES.get_or_init(Mutex::default)
}
