//! The waiters of this process and what is known of their queues. No I/O here.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use dlock_core::{OwnerToken, Signal, Time};

use crate::operations::{ALIVE, ALIVE_AT_LEAST, HEARTBEAT_EVERY, Heartbeat};

/// How long the thread stays when nobody waits any more.
const LINGER: Duration = Duration::from_secs(10);
/// The least time between two heartbeats.
const HEARTBEAT_AGAIN: Duration = Duration::from_millis(10);
/// How much later than the end of a lease it is looked for: the clocks of two machines differ a
/// little.
const AFTER_THE_END: Duration = Duration::from_millis(1);
/// How much of an owner token a notification has.
const START: usize = 16;

#[derive(Default)]
pub(super) struct State {
    /// By the starts of their owner tokens, which notifications state.
    waiters: HashMap<String, Waiter>,
    /// Those to which locks were handed and that are not here: they left before a copy of their
    /// claim was queued, or their leave has failed.
    strangers: Vec<OwnerToken>,
    /// Those of async code that gave up and may be in a queue.
    #[cfg(feature = "tokio")]
    pub(super) leaves: Vec<Leave>,
    /// How many of each key are not off its queue yet.
    #[cfg(feature = "tokio")]
    pub(super) leaving: HashMap<std::sync::Arc<str>, usize>,
    /// Whether there is a thread for them.
    #[cfg(feature = "tokio")]
    pub(super) leaver_runs: bool,
    /// Signals of waiters whose turn may have come; see [`take_woken`](Self::take_woken).
    woken: Vec<Signal>,
    /// When the last heartbeat was sent that was answered; `None` without a connection.
    beaten_at: Option<Time>,
    /// Since when nobody waits.
    idle_since: Option<Time>,
    /// The thread of which run works; those of earlier ones end.
    run: u64,
    running: bool,
    stopped: bool,
}

/// A waiter that gave up and may be in the queue of the key.
#[cfg(feature = "tokio")]
pub(super) struct Leave {
    pub(super) key: std::sync::Arc<str>,
    pub(super) owner: OwnerToken,
    /// How long it is tried again.
    pub(super) until: Time,
    /// Ends with it.
    pub(super) leaving: dlock_core::Leaving,
}

struct Waiter {
    signal: Signal,
    /// Whether a claim of it may have queued it.
    asked: bool,
    granted: bool,
}

impl State {
    /// The number of a new run if there is none.
    pub(super) fn start(&mut self) -> Option<u64> {
        if self.running || self.stopped {
            return None;
        }
        self.run += 1;
        (self.running, self.idle_since) = (true, None);
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

    #[cfg(feature = "tokio")]
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn runs(&self, run: u64) -> bool {
        self.running && self.run == run
    }

    /// Returns whether the run goes on at `now`. It ends when nobody has waited for a while.
    pub(super) fn goes_on(&mut self, run: u64, now: Time) -> bool {
        if !self.waiters.is_empty() {
            self.idle_since = None;
        } else if self.idle_since.get_or_insert(now).until(now) >= LINGER {
            self.end(run);
        }
        self.runs(run)
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(super) fn enter(&mut self, owner: OwnerToken, signal: &Signal) {
        let waiter = Waiter {
            signal: signal.clone(),
            asked: false,
            granted: false,
        };
        self.waiters.insert(start(owner), waiter);
        self.idle_since = None;
    }

    /// Notes that a claim is about to be made. Returns whether a refusal must queue it.
    pub(super) fn asks(&mut self, owner: OwnerToken) -> bool {
        match self.waiters.get_mut(&start(owner)) {
            Some(waiter) => {
                waiter.asked = true;
                true
            }
            None => false,
        }
    }

    pub(super) fn granted(&mut self, owner: OwnerToken) {
        if let Some(waiter) = self.waiters.get_mut(&start(owner)) {
            waiter.granted = true;
        }
    }

    /// Removes a waiter. Returns whether it may be in the queue.
    pub(super) fn leave(&mut self, owner: OwnerToken) -> bool {
        let waiter = self.waiters.remove(&start(owner));
        waiter.is_some_and(|waiter| waiter.asked && !waiter.granted)
    }

    /// Returns whether the waiters are woken when their turn has come.
    pub(super) fn is_served(&self, now: Time) -> bool {
        self.beaten_at.is_some_and(|sent| sent.until(now) < ALIVE)
    }

    /// A waiter of async code is off the queue of the key.
    #[cfg(feature = "tokio")]
    pub(super) fn has_left(&mut self, key: &str) {
        if let Some(count) = self.leaving.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.leaving.remove(key);
            }
        }
    }

    /// There is a connection.
    pub(super) fn connected(&mut self) {
        self.wake_all();
    }

    /// There is none. Returns whether there was.
    pub(super) fn disconnected(&mut self) -> bool {
        // They claim by themselves until there is one.
        self.wake_all();
        self.beaten_at.take().is_some()
    }

    /// A heartbeat was answered by `now` that was sent at `sent`. Returns when to send the next.
    pub(super) fn beaten(&mut self, beat: &Heartbeat, sent: Time, now: Time) -> Time {
        let before = self.beaten_at.replace(sent);
        // The server need not know that it was late: a waiter that has entered a queue meanwhile
        // has made the process alive again.
        let is_late = before.is_some_and(|before| before.until(now) >= ALIVE_AT_LEAST);
        if !beat.is_known || is_late {
            self.wake_all();
        }
        for owner in &beat.handed {
            match self.waiters.get(&start(*owner)) {
                Some(waiter) => self.woken.push(waiter.signal.clone()),
                None => self.strangers.push(*owner),
            }
        }
        let next = beat.next.map_or(HEARTBEAT_EVERY, |next| {
            (next + AFTER_THE_END).clamp(HEARTBEAT_AGAIN, HEARTBEAT_EVERY)
        });
        sent.saturating_add(next)
    }

    /// Locks were handed to the waiters with these starts. Returns whether all of them are here.
    pub(super) fn received(&mut self, starts: &[String]) -> bool {
        let mut are_here = true;
        for start in starts {
            match self.waiters.get(start) {
                Some(waiter) => self.woken.push(waiter.signal.clone()),
                None => are_here = false,
            }
        }
        are_here
    }

    /// The owners for which locks are to be given back.
    pub(super) fn take_strangers(&mut self) -> Vec<OwnerToken> {
        mem::take(&mut self.strangers)
    }

    fn wake_all(&mut self) {
        let signals = self.waiters.values().map(|waiter| waiter.signal.clone());
        self.woken.extend(signals);
    }

    /// The signals to notify, once the state is not locked any more: what they wake may come back
    /// to it.
    pub(super) fn take_woken(&mut self) -> Vec<Signal> {
        mem::take(&mut self.woken)
    }
}

fn start(owner: OwnerToken) -> String {
    let mut start = owner.to_string();
    start.truncate(START);
    start
}

#[cfg(test)]
mod tests;
