//! The pool's own places for connections: which call gets one next, and which connections stay
//! open.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, Time};

use crate::repeat::Silence;
use crate::{Connect, Lazy, PoolSettings};

/// The condition variable's clock stops while the machine is suspended; the clock of deadlines does
/// not.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// A connection that was unused for this long may be dead without being closed: routers forget
/// connections.
const LONG_UNUSED: Duration = Duration::from_secs(5);

/// The priority of a call when all places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Releases, extends and heartbeats: other processes wait for their effect.
    Urgent,
    /// Claims.
    Usual,
}

/// Places for connections. There is no thread for housekeeping: the calls close connections that
/// were unused for too long.
///
/// Usual calls have `usual` places. Urgent calls may take `urgent` places in all, so that they need
/// not wait for usual ones. Waiting calls are served in the order of their arrival, urgent ones
/// first.
pub(crate) struct Places<M: Connect> {
    state: Mutex<State<M>>,
    usual: u32,
    urgent: u32,
    idle_timeout: Option<Duration>,
    max_lifetime: Option<Duration>,
}

struct State<M: Connect> {
    /// The unused open connections and since when they are unused, the latest last.
    idle: Vec<(Time, Lazy<M>)>,
    /// The number of places that are taken.
    used: u32,
    /// How many of them belong to waiters that were given a place and have not woken up yet.
    promised: u32,
    urgent: VecDeque<Arc<Waiter>>,
    usual: VecDeque<Arc<Waiter>>,
}

#[derive(Default)]
struct Waiter {
    woken: Condvar,
    /// Written under the mutex of the state.
    has_turn: AtomicBool,
}

impl<M: Connect> Places<M> {
    /// `usual` places for usual calls, and `urgent` for these and urgent ones together.
    pub(crate) fn new(usual: u32, urgent: u32, settings: &PoolSettings) -> Self {
        Places {
            state: Mutex::new(State {
                idle: Vec::new(),
                used: 0,
                promised: 0,
                urgent: VecDeque::new(),
                usual: VecDeque::new(),
            }),
            usual,
            urgent,
            idle_timeout: settings.idle_timeout,
            max_lifetime: settings.max_lifetime,
        }
    }

    /// How many places calls of this urgency may take.
    pub(crate) fn limit(&self, urgency: Urgency) -> u32 {
        match urgency {
            Urgency::Urgent => self.urgent,
            Urgency::Usual => self.usual,
        }
    }

    /// Takes a place; `None` if there is none by `deadline`.
    pub(crate) fn take(&self, urgency: Urgency, deadline: Time) -> Option<Place<'_, M>> {
        let mut state = self.state();
        if state.used < self.limit(urgency) {
            state.used += 1;
        } else {
            state = self.wait(state, urgency, deadline)?;
        }
        let mut taken = state.idle.pop();
        let mut expired = Vec::new();
        let now = Clock::BOOTTIME.now();
        if taken
            .as_ref()
            .is_some_and(|idle| self.is_expired(idle, now))
        {
            // The others were unused for longer.
            expired = mem::take(&mut state.idle);
            expired.extend(taken.take());
        }
        drop(state);
        drop(expired);
        let silence = match (urgency, &taken) {
            (Urgency::Usual, Some((since, _))) if since.until(now) < LONG_UNUSED => Silence::Fails,
            _ => Silence::RunsAgain,
        };
        Some(Place {
            places: self,
            lazy: taken.map(|(_, lazy)| lazy),
            silence,
        })
    }

    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<M>>,
        urgency: Urgency,
        deadline: Time,
    ) -> Option<MutexGuard<'a, State<M>>> {
        let waiter = Arc::new(Waiter::default());
        state.queue(urgency).push_back(Arc::clone(&waiter));
        loop {
            let left = Clock::BOOTTIME.now().until(deadline);
            if waiter.has_turn.load(Ordering::Relaxed) {
                state.promised -= 1;
                return Some(state);
            }
            if left.is_zero() {
                state
                    .queue(urgency)
                    .retain(|other| !Arc::ptr_eq(other, &waiter));
                return None;
            }
            (state, _) = waiter
                .woken
                .wait_timeout(state, left.min(LONGEST_SLEEP))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a place back, with its open connection if it has one.
    fn give_back(&self, lazy: Option<Lazy<M>>) {
        let now = Clock::BOOTTIME.now();
        let open = lazy.filter(|lazy| lazy.is_open() && !self.is_too_old(lazy, now));
        let mut state = self.state();
        if let Some(lazy) = open {
            state.idle.push((now, lazy));
        }
        state.used -= 1;
        let next = state.next(self.usual, self.urgent);
        let unused = state
            .idle
            .iter()
            .take_while(|idle| self.is_expired(idle, now))
            .count();
        // A waiter that was given a place will take one of them in a moment.
        let keep = self.usual.max(1).saturating_add(state.promised);
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let spare = state.idle.len().saturating_sub(keep);
        let closed: Vec<_> = state.idle.drain(..unused.max(spare)).collect();
        drop(state);
        if let Some(waiter) = next {
            waiter.woken.notify_one();
        }
        drop(closed);
    }

    fn is_expired(&self, (since, lazy): &(Time, Lazy<M>), now: Time) -> bool {
        self.idle_timeout
            .is_some_and(|timeout| since.until(now) >= timeout)
            || self.is_too_old(lazy, now)
    }

    fn is_too_old(&self, lazy: &Lazy<M>, now: Time) -> bool {
        self.max_lifetime
            .is_some_and(|most| lazy.opened().until(now) >= most)
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Connect> State<M> {
    fn queue(&mut self, urgency: Urgency) -> &mut VecDeque<Arc<Waiter>> {
        match urgency {
            Urgency::Urgent => &mut self.urgent,
            Urgency::Usual => &mut self.usual,
        }
    }

    /// Gives a place to the next waiter, if there is one for it.
    fn next(&mut self, usual: u32, urgent: u32) -> Option<Arc<Waiter>> {
        let waiter = match self.used {
            used if used < urgent && !self.urgent.is_empty() => self.urgent.pop_front(),
            used if used < usual => self.usual.pop_front(),
            _ => None,
        }?;
        self.used += 1;
        self.promised += 1;
        waiter.has_turn.store(true, Ordering::Relaxed);
        Some(waiter)
    }
}

/// A taken place. Dropping it gives it back.
pub(crate) struct Place<'a, M: Connect> {
    places: &'a Places<M>,
    lazy: Option<Lazy<M>>,
    silence: Silence,
}

impl<M: Connect> Place<'_, M> {
    /// What a call does if the connection does not answer.
    pub(crate) fn silence(&self) -> Silence {
        self.silence
    }

    /// The connection of this place, or a place for one that `manager` will open.
    pub(crate) fn lazy(&mut self, manager: &M) -> &mut Lazy<M> {
        self.lazy.get_or_insert_with(|| Lazy::new(manager.clone()))
    }
}

impl<M: Connect> Drop for Place<'_, M> {
    fn drop(&mut self) {
        let mut lazy = self.lazy.take();
        if thread::panicking()
            && let Some(lazy) = &mut lazy
        {
            lazy.discard_unusable();
        }
        self.places.give_back(lazy);
    }
}

#[cfg(test)]
mod tests;
