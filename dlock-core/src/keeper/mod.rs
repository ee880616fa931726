//! The two threads that keep the leases of a store.
//!
//! The timing thread keeps deadlines and declares loss. It does no I/O and runs no user code, so nothing can make it late. The
//! renewal worker makes the calls. A server that hangs holds up the renewals of its own store and no other.

mod timing;
mod worker;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{io, thread};

use crate::callback::Callback;
use crate::held_lease::HeldLease;
use crate::store::Shared;
use crate::{Clock, Signal, Time};

/// Keeps the leases of one store in one process. Its threads start with the first lease and end with the store.
pub(crate) struct Keeper(Arc<Inner>);

/// Names a lease that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

struct Inner {
    clock: Clock,
    state: Mutex<State>,
    /// Wakes the timing thread.
    timing: Signal,
    /// Wakes the worker.
    work: Signal,
}

#[derive(Default)]
struct State {
    timing_started: bool,
    worker_started: bool,
    stopped: bool,
    last_ticket: u64,
    kept: HashMap<Ticket, Kept>,
    /// When to look at which lease; in step with `kept`.
    agenda: BTreeSet<(Time, Ticket)>,
    /// When the timing thread looks next without being woken.
    next_look: Option<Time>,
    extends: VecDeque<Job>,
    confirms: VecDeque<Job>,
    /// Whether it is the turn of the confirmations.
    confirm_next: bool,
    /// Callbacks for which there was no thread.
    undelivered: Vec<Callback>,
}

struct Kept {
    lease: Weak<HeldLease>,
    look_at: Time,
}

struct Job {
    ticket: Ticket,
    lease: Arc<HeldLease>,
}

impl Keeper {
    pub(crate) fn new(clock: &Clock) -> Self {
        Keeper(Arc::new(Inner {
            clock: clock.clone(),
            state: Mutex::default(),
            timing: Signal::new(),
            work: Signal::new(),
        }))
    }

    /// Keeps `lease` until [`forget`](Self::forget), or until nobody else refers to it.
    ///
    /// # Errors
    ///
    /// When the threads cannot be started.
    pub(crate) fn keep(&self, lease: &Arc<HeldLease>, store: &Arc<Shared>) -> io::Result<Ticket> {
        let mut state = self.0.state();
        self.0.start(&mut state, store)?;
        state.last_ticket += 1;
        let ticket = Ticket(state.last_ticket);
        let kept = Kept {
            lease: Arc::downgrade(lease),
            look_at: lease.next_look(),
        };
        self.0.note(&mut state, ticket, kept.look_at);
        state.kept.insert(ticket, kept);
        Ok(ticket)
    }

    /// Keeps the lease no longer.
    pub(crate) fn forget(&self, ticket: Ticket) {
        let mut state = self.0.state();
        if let Some(kept) = state.kept.remove(&ticket) {
            state.agenda.remove(&(kept.look_at, ticket));
        }
    }

    /// Calls them, each on a thread of its own, now or as soon as there is one to be had.
    pub(crate) fn call(&self, callbacks: Vec<Callback>) {
        self.0.call(callbacks);
    }

    /// Ends the threads.
    pub(crate) fn stop(&self) {
        self.0.state().stopped = true;
        self.0.timing.notify();
        self.0.work.notify();
    }
}

impl Inner {
    fn start(self: &Arc<Self>, state: &mut State, store: &Arc<Shared>) -> io::Result<()> {
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        if !state.timing_started {
            let inner = Arc::clone(self);
            thread("dlock-timing").spawn(move || timing::run(&inner))?;
            state.timing_started = true;
        }
        if !state.worker_started {
            let (inner, store) = (Arc::clone(self), Arc::downgrade(store));
            thread("dlock-renewal").spawn(move || worker::run(&inner, &store))?;
            state.worker_started = true;
        }
        Ok(())
    }

    /// Sets when the timing thread looks at a lease next.
    fn look_at(&self, state: &mut State, ticket: Ticket, at: Time) {
        let Some(kept) = state.kept.get_mut(&ticket) else {
            return;
        };
        state.agenda.remove(&(kept.look_at, ticket));
        kept.look_at = at;
        self.note(state, ticket, at);
    }

    /// Puts a lease on the agenda, and wakes the timing thread if it would sleep too long.
    fn note(&self, state: &mut State, ticket: Ticket, at: Time) {
        state.agenda.insert((at, ticket));
        if state.next_look.is_some_and(|next| at < next) {
            self.timing.notify();
        }
    }

    fn call(&self, callbacks: Vec<Callback>) {
        if self.try_call(callbacks) {
            return;
        }
        self.timing.notify();
    }

    /// Calls them; whether there was a thread for each. For the others the timing thread tries again.
    fn try_call(&self, callbacks: Vec<Callback>) -> bool {
        let left: Vec<_> = callbacks
            .into_iter()
            .filter(|callback| !callback.spawn())
            .collect();
        let all = left.is_empty();
        if !all {
            self.state().undelivered.extend(left);
        }
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
