//! Who waits for what, and what is to be done for them. No I/O here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{OwnerToken, Signal, Time};

use crate::protocol::{LOOK_EVERY, Left, Look, Message};

/// How long the threads stay when nobody waits any more.
const LINGER: Duration = Duration::from_secs(10);
/// The least time between two looks at a key.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How many that gave up are told to the server in one trip.
const LEAVES: usize = 256;
/// How many of them are kept in mind. One more stays in the queue, and costs the others a second when its turn comes.
const LEAVES_KEPT: usize = 10_000;
/// Who looked and heard nothing of it for so long does not hear.
const DEAF_AFTER: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct State {
    waiters: HashMap<OwnerToken, Waiter>,
    keys: HashMap<Arc<str>, Key>,
    /// Who gave up waiting and could not tell the server.
    still_queued: Vec<(Arc<str>, OwnerToken)>,
    /// When it is tried again.
    leave_at: Option<Time>,
    pub(super) hearing: Hearing,
    /// The first look of which nothing was heard yet.
    unheard_since: Option<Time>,
    /// `None` while it is awake: it looks at all of this before it sleeps.
    looker_sleeps_until: Option<Time>,
    /// Since when nobody waits.
    idle_since: Option<Time>,
    /// The threads of which run work; those of earlier ones end.
    run: u64,
    running: bool,
    stopped: bool,
}

/// Whether messages come through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Hearing {
    /// Nobody has tried yet, or the answer is not here.
    #[default]
    Starting,
    Yes,
    /// The server cannot be reached.
    No,
    /// The user has no right to.
    Refused,
}

struct Waiter {
    key: Arc<str>,
    signal: Signal,
    /// The process's generation when it was queued. Another one means that it is not any more.
    generation: Option<i64>,
    /// Whether it made a claim that may have queued it.
    asked: bool,
    granted: bool,
}

struct Key {
    waiters: usize,
    look_at: Time,
}

/// What the looker has to do now.
pub(super) struct Work {
    pub(super) looks: Vec<Arc<str>>,
    pub(super) leaves: Vec<(Arc<str>, OwnerToken)>,
}

/// What the looker does next.
pub(super) enum Next {
    Work(Work),
    /// There is nothing to do until then.
    Sleep(Time),
    End,
}

impl State {
    /// The number of a new run if there is none.
    pub(super) fn start(&mut self) -> Option<u64> {
        if self.running || self.stopped {
            return None;
        }
        self.run += 1;
        (self.running, self.hearing) = (true, Hearing::Starting);
        (self.unheard_since, self.idle_since) = (None, None);
        Some(self.run)
    }

    pub(super) fn end(&mut self, run: u64) {
        if self.run == run {
            self.running = false;
        }
    }

    pub(super) fn stop(&mut self) {
        (self.running, self.stopped) = (false, true);
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn runs(&self, run: u64) -> bool {
        self.running && self.run == run
    }

    /// A waiter comes. Whether the looker has to be woken.
    pub(super) fn enter(
        &mut self,
        key: &str,
        owner: OwnerToken,
        signal: &Signal,
        now: Time,
    ) -> bool {
        let look_at = now.saturating_add(LOOK_EVERY);
        let name: Arc<str> = match self.keys.get_key_value(key) {
            Some((name, _)) => Arc::clone(name),
            None => key.into(),
        };
        let key = self.keys.entry(Arc::clone(&name)).or_insert(Key {
            waiters: 0,
            look_at,
        });
        key.waiters += 1;
        let waiter = Waiter {
            key: name,
            signal: signal.clone(),
            generation: None,
            asked: false,
            granted: false,
        };
        if let Some(before) = self.waiters.insert(owner, waiter) {
            self.leaves_key(&before.key);
        }
        self.idle_since = None;
        self.looker_sleeps_past(look_at)
    }

    /// A claim is about to be made; whether it shall be queued.
    pub(super) fn asks(&mut self, owner: OwnerToken) -> bool {
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return false;
        };
        waiter.asked = true;
        true
    }

    pub(super) fn granted(&mut self, owner: OwnerToken) {
        if let Some(waiter) = self.waiters.get_mut(&owner) {
            waiter.granted = true;
        }
    }

    /// A refusal queued the waiter. `end` is that of the holder's lease, if the waiter is the next. Whether the looker has to be woken.
    pub(super) fn queued(&mut self, owner: OwnerToken, generation: i64, end: Option<Time>) -> bool {
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return false;
        };
        waiter.generation = Some(generation);
        let key = Arc::clone(&waiter.key);
        end.is_some_and(|end| self.look_by(&key, end))
    }

    /// The waiter goes; whether it may be in the queue.
    pub(super) fn leave(&mut self, owner: OwnerToken) -> bool {
        let Some(waiter) = self.waiters.remove(&owner) else {
            return false;
        };
        self.leaves_key(&waiter.key);
        waiter.asked && !waiter.granted
    }

    fn leaves_key(&mut self, key: &str) {
        if let Some(place) = self.keys.get_mut(key) {
            place.waiters -= 1;
            if place.waiters == 0 {
                self.keys.remove(key);
            }
        }
    }

    /// The server could not be told that the waiter left.
    pub(super) fn still_queued(&mut self, key: &str, owner: OwnerToken) {
        if self.still_queued.len() < LEAVES_KEPT {
            self.still_queued.push((key.into(), owner));
        }
    }

    /// Something was heard. Whether the looker has to be woken.
    pub(super) fn hear(&mut self, message: Message, now: Time) -> bool {
        self.unheard_since = None;
        match message {
            Message::Claim(owner) => {
                // If the waiter went, its leave is on its way, or is repeated.
                if let Some(waiter) = self.waiters.get(&owner) {
                    waiter.signal.notify();
                }
                false
            }
            Message::Ends(left, key) => self.look_by(&key, now.saturating_add(left)),
            Message::Heard | Message::Subscribed => false,
        }
    }

    fn look_by(&mut self, key: &str, time: Time) -> bool {
        let Some(key) = self.keys.get_mut(key) else {
            return false;
        };
        key.look_at = key.look_at.min(time);
        self.looker_sleeps_past(time)
    }

    /// The subscription is new: whatever was told before it was not heard.
    pub(super) fn subscribed(&mut self, run: u64, now: Time) {
        if !self.runs(run) {
            return;
        }
        self.hearing = Hearing::Yes;
        self.unheard_since = None;
        for key in self.keys.values_mut() {
            key.look_at = now;
        }
    }

    /// Whether looks go out, and nothing is heard of them.
    pub(super) fn is_deaf(&self, now: Time) -> bool {
        self.unheard_since
            .is_some_and(|since| since.until(now) > DEAF_AFTER)
    }

    /// What to do at `now`, for the looker of this run.
    pub(super) fn next(&mut self, run: u64, now: Time) -> Next {
        let next = self.decide(run, now);
        self.looker_sleeps_until = match next {
            Next::Sleep(until) => Some(until),
            _ => None,
        };
        next
    }

    fn looker_sleeps_past(&self, time: Time) -> bool {
        self.looker_sleeps_until.is_some_and(|until| until > time)
    }

    fn decide(&mut self, run: u64, now: Time) -> Next {
        if !self.runs(run) {
            return Next::End;
        }
        if self.waiters.is_empty() && self.still_queued.is_empty() {
            let end = self.idle_since.get_or_insert(now).saturating_add(LINGER);
            if now < end {
                return Next::Sleep(end);
            }
            self.end(run);
            return Next::End;
        }
        let mut looks = Vec::new();
        let mut soonest = Time::MAX;
        for (name, key) in &mut self.keys {
            if key.look_at <= now {
                looks.push(Arc::clone(name));
                key.look_at = now.saturating_add(LOOK_EVERY);
            }
            soonest = soonest.min(key.look_at);
        }
        let mut leaves = Vec::new();
        if self.leave_at.is_none_or(|at| at <= now) {
            let count = self.still_queued.len().min(LEAVES);
            leaves.extend(self.still_queued.drain(..count));
            // A server that refuses at once is not asked in a loop.
            self.leave_at = (count > 0).then(|| now.saturating_add(LOOK_EVERY));
        }
        if let Some(at) = self.leave_at.filter(|_| !self.still_queued.is_empty()) {
            soonest = soonest.min(at);
        }
        if looks.is_empty() && leaves.is_empty() {
            return Next::Sleep(soonest);
        }
        if !looks.is_empty() {
            // From before it is sent: what it makes us hear may be here before its answer.
            self.unheard_since.get_or_insert(now);
        }
        Next::Work(Work { looks, leaves })
    }

    /// A look was answered.
    pub(super) fn looked(&mut self, key: &str, look: &Look, now: Time) {
        if let Some(place) = self.keys.get_mut(key) {
            let soon = match look.left {
                Left::For(left) if look.has_next => left.max(LOOK_AGAIN),
                // Dead waiters are in the way, more than one look removes.
                Left::Free if look.generation != 0 => LOOK_AGAIN,
                _ => LOOK_EVERY,
            };
            place.look_at = place.look_at.min(now.saturating_add(soon));
        }
        for (owner, waiter) in &self.waiters {
            let dropped = waiter.generation.is_some_and(|it| it != look.generation);
            let handed = look.handed_to == Some(*owner);
            if &*waiter.key == key && (dropped || handed) {
                waiter.signal.notify();
            }
        }
    }

    /// A look failed: the waiters shall see for themselves.
    pub(super) fn look_failed(&mut self, key: &str) {
        self.unheard_since = None;
        for waiter in self.waiters.values().filter(|waiter| &*waiter.key == key) {
            waiter.signal.notify();
        }
    }
}

#[cfg(test)]
mod tests;
