//! The waiters of this process and the work to be done for them. No I/O here.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{Leaving, OwnerToken, Signal, Time};
use dlock_net::RecentOwners;

use crate::operations::{HEARTBEAT_EVERY, HeartbeatReply, Left, Message};

/// How long the threads stay when nobody waits any more.
const LINGER: Duration = Duration::from_secs(10);
/// The least time between two heartbeats for a key.
const HEARTBEAT_AGAIN: Duration = Duration::from_millis(10);
/// How many waiters that gave up are reported to the server in one round trip.
const LEAVES: usize = 256;
/// How many of them are kept in mind. One more stays in the queue, and costs the others a second
/// when its turn comes.
const LEAVES_KEPT: usize = 10_000;
/// A subscription counts as lost if no ping was received for this long after a heartbeat.
const SUBSCRIPTION_LOST_AFTER: Duration = Duration::from_secs(3);
/// How many answers to messages wait to be sent. One more is not given: what was handed over ends
/// by itself, and a question is asked again.
const ANSWERS_KEPT: usize = 1024;
/// How many claims that ended are remembered. At two hundred releases a second these are more than
/// a minute, and half a megabyte.
const ENDED_KEPT: usize = 16_384;
/// How many waiters that were granted the lock are remembered. Releasing one that was forgotten
/// costs a round trip more, if others wait.
const CONTENDED_KEPT: usize = 1024;

#[derive(Default)]
pub(super) struct State {
    waiters: HashMap<OwnerToken, Waiter>,
    keys: HashMap<Arc<str>, Key>,
    /// Waiters that gave up and could not inform the server.
    still_queued: Vec<(Arc<str>, OwnerToken)>,
    /// Those of them that nobody tried to report yet, which counts as a part of their leave.
    leaving: HashMap<OwnerToken, Leaving>,
    /// When they are reported again.
    leave_at: Option<Time>,
    /// Answers to messages. Each is sent at once, and only once.
    answers: Vec<Reply>,
    /// Signals of waiters whose turn may have come; see [`take_woken`](Self::take_woken).
    woken: Vec<Signal>,
    /// The last claims that were released or given up: whatever a server keeps for one of them came
    /// from an old copy of its data, or a call that it never received. That a claim is *not* here
    /// says nothing. A lock that is kept for `min_hold`, a mark of `once` and a guard that was
    /// leaked are never released, and must stay.
    ended: RecentOwners<ENDED_KEPT>,
    /// The last waiters that were granted the lock. Others probably wait for it still.
    contended: RecentOwners<CONTENDED_KEPT>,
    /// How often a waiter entered a queue.
    entries: u64,
    pub(super) subscription: SubscriptionState,
    /// The time of the first heartbeat whose ping has not been received yet.
    unanswered_since: Option<Time>,
    /// `None` while the heartbeat thread is awake: it reads all of this before it sleeps.
    heartbeat_sleeps_until: Option<Time>,
    /// Since when nobody waits.
    idle_since: Option<Time>,
    /// The threads of which run work; those of earlier ones end.
    run: u64,
    running: bool,
    stopped: bool,
}

/// Whether this process receives messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum SubscriptionState {
    /// Not tried yet, or not answered yet.
    #[default]
    Starting,
    Active,
    /// The server cannot be reached.
    Lost,
    /// The user has no right to.
    Refused,
}

struct Waiter {
    key: Arc<str>,
    signal: Signal,
    /// The process's generation when it was queued. Another one means that it is not any more.
    generation: Option<i64>,
    /// The number of its entry into a queue, counted up in this process; `None` if it has to enter
    /// again.
    entry: Option<u64>,
    /// Whether the latest answer of the server was that it is queued.
    rests: bool,
    /// Whether a claim of it may have queued it.
    asked: bool,
    granted: bool,
}

struct Key {
    waiters: usize,
    heartbeat_at: Time,
    /// When the holder may be asked.
    ask_at: Time,
}

/// A heartbeat for a key that is due.
pub(super) struct Due {
    pub(super) key: Arc<str>,
    pub(super) asks: bool,
    pub(super) last: Option<OwnerToken>,
}

/// The answer to a message.
pub(super) enum Reply {
    /// The lock was handed to a waiter that this process does not know. It was served or went
    /// since: an old copy of the queue has come back.
    GiveBack(Arc<str>, OwnerToken),
    /// The record is of a claim that this process has released or given up.
    Free(Arc<str>, OwnerToken),
}

/// What the heartbeat thread has to send now.
pub(super) struct Work {
    pub(super) heartbeats: Vec<Due>,
    pub(super) leaves: Vec<(Arc<str>, OwnerToken)>,
    /// Those of `leaves` that end with this work, whatever comes of it.
    pub(super) leaving: Over,
    pub(super) answers: Vec<Reply>,
}

/// What the heartbeat thread does next.
pub(super) enum Next {
    Work(Work),
    /// There is nothing to do until then.
    Sleep(Time),
    End(Over),
}

/// Leaves that end when this is dropped, which wakes tasks. So it is dropped when the state is not
/// locked any more: what runs then may come back to the state.
#[must_use = "dropped at once it is dropped under the lock of the state"]
#[derive(Default)]
pub(super) struct Over(
    #[expect(dead_code, reason = "they are kept until they are dropped")] Vec<Leaving>,
);

impl State {
    /// The number of a new run if there is none.
    pub(super) fn start(&mut self) -> Option<u64> {
        if self.running || self.stopped {
            return None;
        }
        self.run += 1;
        (self.running, self.subscription) = (true, SubscriptionState::Starting);
        (self.unanswered_since, self.idle_since) = (None, None);
        Some(self.run)
    }

    pub(super) fn end(&mut self, run: u64) -> Over {
        if self.run != run {
            return Over::default();
        }
        self.running = false;
        self.no_leave_goes_on()
    }

    pub(super) fn stop(&mut self) -> Over {
        (self.running, self.stopped) = (false, true);
        self.no_leave_goes_on()
    }

    fn no_leave_goes_on(&mut self) -> Over {
        Over(self.leaving.drain().map(|(_, leaving)| leaving).collect())
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn runs(&self, run: u64) -> bool {
        self.running && self.run == run
    }

    /// Adds a waiter. Returns whether the heartbeat thread has to be woken.
    pub(super) fn enter(
        &mut self,
        key: &str,
        owner: OwnerToken,
        signal: &Signal,
        now: Time,
    ) -> bool {
        let heartbeat_at = now.saturating_add(HEARTBEAT_EVERY);
        let name: Arc<str> = match self.keys.get_key_value(key) {
            Some((name, _)) => Arc::clone(name),
            None => key.into(),
        };
        let key = self.keys.entry(Arc::clone(&name)).or_insert(Key {
            waiters: 0,
            heartbeat_at,
            ask_at: heartbeat_at,
        });
        key.waiters += 1;
        let waiter = Waiter {
            key: name,
            signal: signal.clone(),
            generation: None,
            entry: None,
            rests: false,
            asked: false,
            granted: false,
        };
        if let Some(before) = self.waiters.insert(owner, waiter) {
            self.leaves_key(&before.key);
        }
        self.idle_since = None;
        self.heartbeat_sleeps_past(heartbeat_at)
    }

    /// Notes that a claim is about to be made. Returns whether a refusal must queue it.
    pub(super) fn asks(&mut self, owner: OwnerToken) -> bool {
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return false;
        };
        (waiter.asked, waiter.rests) = (true, false);
        true
    }

    pub(super) fn granted(&mut self, owner: OwnerToken) {
        if let Some(waiter) = self.waiters.get_mut(&owner) {
            waiter.granted = true;
            self.contended.add(owner);
        }
    }

    /// Whether somebody probably waits for the lock that this owner holds.
    pub(super) fn is_contended(&self, key: &str, owner: OwnerToken) -> bool {
        self.contended.has(owner) || self.keys.contains_key(key)
    }

    /// A refusal queued the waiter. `end` is that of the holder's lease, if the waiter is the next.
    /// Returns whether the heartbeat thread has to be woken.
    pub(super) fn queued(&mut self, owner: OwnerToken, generation: i64, end: Option<Time>) -> bool {
        let Some(waiter) = self.waiters.get_mut(&owner) else {
            return false;
        };
        waiter.generation = Some(generation);
        waiter.rests = true;
        waiter.entry.get_or_insert_with(|| {
            self.entries += 1;
            self.entries
        });
        let key = Arc::clone(&waiter.key);
        end.is_some_and(|end| self.heartbeat_by(&key, end))
    }

    /// Removes the waiter. Returns whether it may be in the queue.
    pub(super) fn leave(&mut self, owner: OwnerToken) -> bool {
        let Some(waiter) = self.waiters.remove(&owner) else {
            return false;
        };
        self.leaves_key(&waiter.key);
        waiter.asked && !waiter.granted
    }

    /// The claim was released or given up, so nothing is ever kept for it again.
    pub(super) fn ended(&mut self, owner: OwnerToken) {
        self.ended.add(owner);
    }

    fn leaves_key(&mut self, key: &str) {
        if let Some(place) = self.keys.get_mut(key) {
            place.waiters -= 1;
            if place.waiters == 0 {
                self.keys.remove(key);
            }
        }
    }

    /// The server could not be informed that the waiter left.
    pub(super) fn still_queued(&mut self, key: &str, owner: OwnerToken) {
        if self.still_queued.len() < LEAVES_KEPT {
            self.still_queued.push((key.into(), owner));
        }
    }

    /// The server is to be informed at once that the waiter left, by the heartbeat thread.
    #[cfg(feature = "tokio")]
    pub(super) fn leaves_soon(&mut self, key: &str, owner: OwnerToken, leaving: Leaving) -> Over {
        let is_kept = self.still_queued.len() < LEAVES_KEPT;
        self.still_queued(key, owner);
        self.leave_at = None;
        // Without the thread it is reported when the next waiter comes, which may be never.
        let over = match is_kept && self.running {
            true => self.leaving.insert(owner, leaving),
            false => Some(leaving),
        };
        Over(over.into_iter().collect())
    }

    /// Handles a message. Returns whether the heartbeat thread has to be woken.
    pub(super) fn received(&mut self, message: Message, now: Time) -> bool {
        self.unanswered_since = None;
        match message {
            Message::Claim(owner, key) => {
                self.handed(&key, owner);
                self.answers_wait(now)
            }
            Message::Asked(owner, key) => {
                if self.ended.has(owner) {
                    self.answer(Reply::Free(key, owner));
                }
                self.answers_wait(now)
            }
            Message::Ends(left, key) => self.heartbeat_by(&key, now.saturating_add(left)),
            Message::Ping | Message::Subscribed => false,
        }
    }

    /// The lock was handed to a waiter of this process.
    fn handed(&mut self, key: &str, owner: OwnerToken) {
        match self.waiters.get(&owner) {
            Some(waiter) => self.woken.push(waiter.signal.clone()),
            None => self.answer(Reply::GiveBack(key.into(), owner)),
        }
    }

    fn answer(&mut self, answer: Reply) {
        if self.answers.len() < ANSWERS_KEPT {
            self.answers.push(answer);
        }
    }

    /// Returns whether the heartbeat thread has to be woken to send answers.
    fn answers_wait(&self, now: Time) -> bool {
        !self.answers.is_empty() && self.heartbeat_sleeps_past(now)
    }

    fn heartbeat_by(&mut self, key: &str, time: Time) -> bool {
        let Some(key) = self.keys.get_mut(key) else {
            return false;
        };
        key.heartbeat_at = key.heartbeat_at.min(time);
        self.heartbeat_sleeps_past(time)
    }

    /// The subscription is new: messages that were sent before it are lost.
    pub(super) fn subscribed(&mut self, run: u64, now: Time) {
        if !self.runs(run) {
            return;
        }
        self.subscription = SubscriptionState::Active;
        self.unanswered_since = None;
        for key in self.keys.values_mut() {
            key.heartbeat_at = now;
        }
    }

    /// Whether heartbeats are sent and their pings are not received.
    pub(super) fn is_subscription_lost(&self, now: Time) -> bool {
        self.unanswered_since
            .is_some_and(|since| since.until(now) > SUBSCRIPTION_LOST_AFTER)
    }

    /// What the heartbeat thread of this run does at `now`.
    pub(super) fn next(&mut self, run: u64, now: Time) -> Next {
        let next = self.decide(run, now);
        self.heartbeat_sleeps_until = match next {
            Next::Sleep(until) => Some(until),
            _ => None,
        };
        next
    }

    fn heartbeat_sleeps_past(&self, time: Time) -> bool {
        self.heartbeat_sleeps_until
            .is_some_and(|until| until > time)
    }

    fn decide(&mut self, run: u64, now: Time) -> Next {
        if !self.runs(run) {
            return Next::End(Over::default());
        }
        let has_nothing = self.still_queued.is_empty() && self.answers.is_empty();
        if self.waiters.is_empty() && has_nothing {
            let end = self.idle_since.get_or_insert(now).saturating_add(LINGER);
            if now < end {
                return Next::Sleep(end);
            }
            return Next::End(self.end(run));
        }
        let mut heartbeats = Vec::new();
        let mut soonest = Time::MAX;
        for (name, key) in &mut self.keys {
            if key.heartbeat_at <= now {
                let asks = key.ask_at <= now;
                if asks {
                    key.ask_at = now.saturating_add(HEARTBEAT_EVERY);
                }
                heartbeats.push(Due {
                    key: Arc::clone(name),
                    asks,
                    last: last_of(&self.waiters, name),
                });
                key.heartbeat_at = now.saturating_add(HEARTBEAT_EVERY);
            }
            soonest = soonest.min(key.heartbeat_at);
        }
        let answers = mem::take(&mut self.answers);
        let mut leaves = Vec::new();
        if self.leave_at.is_none_or(|at| at <= now) {
            let count = self.still_queued.len().min(LEAVES);
            leaves.extend(self.still_queued.drain(..count));
            // A server that refuses at once is not asked in a loop.
            self.leave_at = (count > 0).then(|| now.saturating_add(HEARTBEAT_EVERY));
        }
        let ends = |(_, owner): &(_, OwnerToken)| self.leaving.remove(owner);
        let leaving = Over(leaves.iter().filter_map(ends).collect());
        if let Some(at) = self.leave_at.filter(|_| !self.still_queued.is_empty()) {
            soonest = soonest.min(at);
        }
        if heartbeats.is_empty() && leaves.is_empty() && answers.is_empty() {
            return Next::Sleep(soonest);
        }
        if !heartbeats.is_empty() {
            // Counted from before it is sent: its ping may be here before its answer.
            self.unanswered_since.get_or_insert(now);
        }
        Next::Work(Work {
            heartbeats,
            leaves,
            leaving,
            answers,
        })
    }

    /// A heartbeat was answered.
    pub(super) fn heartbeat_answered(&mut self, due: &Due, reply: &HeartbeatReply, now: Time) {
        let key = &*due.key;
        if let Some(place) = self.keys.get_mut(key) {
            let soon = match reply.left {
                Left::For(left) if reply.has_next => left.max(HEARTBEAT_AGAIN),
                // Dead waiters are in the way, more than one heartbeat removes.
                Left::Free if reply.generation != 0 => HEARTBEAT_AGAIN,
                _ => HEARTBEAT_EVERY,
            };
            place.heartbeat_at = place.heartbeat_at.min(now.saturating_add(soon));
        }
        // If the newest waiter was served meanwhile or claims just now, its absence from the queue
        // proves nothing.
        let last = due.last.map(|last| self.waiters.get(&last));
        let counts = reply.generation != 0
            || last.is_none_or(|waiter| waiter.is_some_and(Waiter::is_queued));
        let waiters = self.waiters.values_mut();
        for waiter in waiters.filter(|waiter| &*waiter.key == key && counts) {
            if waiter.generation.is_some_and(|it| it != reply.generation) {
                waiter.entry = None;
                self.woken.push(waiter.signal.clone());
            }
        }
        if let Some(owner) = reply.handed_to {
            self.handed(key, owner);
        }
    }

    /// A heartbeat failed: the waiters claim and find out themselves.
    pub(super) fn heartbeat_failed(&mut self, key: &str) {
        self.unanswered_since = None;
        for waiter in self.waiters.values().filter(|waiter| &*waiter.key == key) {
            self.woken.push(waiter.signal.clone());
        }
    }

    /// The signals to notify, once the state is not locked any more: what they wake may come back
    /// to it.
    pub(super) fn take_woken(&mut self) -> Vec<Signal> {
        mem::take(&mut self.woken)
    }
}

impl Waiter {
    fn is_queued(&self) -> bool {
        self.entry.is_some() && self.rests && !self.granted
    }
}

/// The newest of these waiters in the key's queue, as far as this process knows.
fn last_of(waiters: &HashMap<OwnerToken, Waiter>, key: &str) -> Option<OwnerToken> {
    waiters
        .iter()
        .filter(|(_, waiter)| &*waiter.key == key && waiter.is_queued())
        .max_by_key(|(_, waiter)| waiter.entry)
        .map(|(owner, _)| *owner)
}

#[cfg(test)]
mod tests;
