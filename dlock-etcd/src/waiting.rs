//! The waiters of a store, and how they learn that their turn has come.
//!
//! A waiter that was refused has a place in the key's queue in the cluster, and waits until the
//! place before its own is deleted, or, if it is the first, the key. Two threads serve all waiters
//! of a store. The *watcher* asks, on a connection of its own, to be notified of these deletions.
//! The *heartbeat* renews, once a second, the lease with which all places of this process end if
//! it dies. Neither thread grants anything. Each wakes a waiter, and the waiter claims.

#[cfg(feature = "tokio")]
mod aio;
mod heartbeat;
mod state;
mod watcher;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Clock, DatastoreError, ErrorKind, Signal, Time, Watch, at_once,
};
use dlock_net::{Alert, OfProcess, Pool, deadline_in};

use crate::ConnectionManager;
use crate::operations::queue::{self, Queue};
use state::{Lease, State};

/// The waiters of one store. In a forked child there are none: it polls.
pub(crate) struct Waiters {
    pool: Arc<Pool<ConnectionManager>>,
    shared: OfProcess<Shared>,
}

/// What the waiters and the two threads share.
struct Shared {
    pool: Arc<Pool<ConnectionManager>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the watcher.
    alert: Alert,
    /// As `changed`, for async waiters, where the lease is concerned.
    #[cfg(feature = "tokio")]
    answered: tokio::sync::Notify,
}

/// A claim of one who waits, while it is made.
pub(crate) struct Turn<'a> {
    shared: &'a Shared,
    claim: &'a Claim,
}

impl Waiters {
    pub(crate) fn new(pool: Arc<Pool<ConnectionManager>>) -> Self {
        Waiters {
            pool,
            shared: OfProcess::default(),
        }
    }

    /// Notifies `signal` when the claim's turn has come.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or no file descriptor.
    pub(crate) fn watch(
        &self,
        claim: &Claim,
        signal: &Signal,
        call_timeout: Duration,
    ) -> Result<Option<Watch>, DatastoreError> {
        let Some(shared) = self.shared()? else {
            return Ok(None);
        };
        shared.enter(claim, signal)?;
        let (shared, claim) = (Arc::clone(shared), claim.clone());
        let watch = self
            .shared
            .watch(move |_| shared.leave(&claim, call_timeout));
        Ok(Some(watch))
    }

    /// What the claim, which is about to be made by a call that ends at `end`, must know of the
    /// queue; `None` if it does not wait.
    pub(crate) fn turn<'a>(&'a self, claim: &'a Claim, end: Time) -> Option<Turn<'a>> {
        // Where nobody has waited yet, that is all.
        let shared = self.shared.get()?;
        let waits = shared.state().claims(claim.owner(), end);
        waits.then_some(Turn { shared, claim })
    }

    /// The place of a claim that is given up, if it may have one.
    pub(crate) fn gives_up(&self, claim: &Claim) -> Option<Arc<str>> {
        let shared = self.shared.get()?;
        let now = Clock::BOOTTIME.now();
        shared.with_state(|state| state.gives_up(claim.owner(), now))
    }

    fn shared(&self) -> Result<Option<&Arc<Shared>>, DatastoreError> {
        self.shared.get_or_make(|| {
            let alert = Alert::new()
                .map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
            Ok(Shared {
                pool: Arc::clone(&self.pool),
                state: Mutex::default(),
                changed: Condvar::new(),
                alert,
                #[cfg(feature = "tokio")]
                answered: tokio::sync::Notify::new(),
            })
        })
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        // The threads, which may be in the middle of a call, end by themselves, and the places with
        // their lease.
        if let Some(shared) = self.shared.get() {
            let ended = shared.with_state(State::stop);
            shared.notify_threads();
            if let Some(lease) = ended.lease {
                heartbeat::end(Arc::clone(shared), lease);
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under this mutex, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and then notifies the waiters whose turn may have come, and the watcher
    /// if it has something to send.
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let done = change(&mut state);
        let (woken, has_requests) = (state.take_woken(), state.has_requests());
        drop(state);
        woken.iter().for_each(Signal::notify);
        if has_requests {
            self.alert.raise();
        }
        done
    }

    fn notify_threads(&self) {
        self.alert.raise();
        self.lease_changed();
    }

    /// The lease may have been answered, or the heartbeat thread has something to do.
    fn lease_changed(&self) {
        self.changed.notify_all();
        #[cfg(feature = "tokio")]
        self.answered.notify_waiters();
    }

    /// Adds a waiter. The first one starts the threads, and all wait until there is a lease for
    /// their places. If the cluster cannot be reached just now, they wait all the same: they are
    /// woken when there is one.
    fn enter(self: &Arc<Self>, claim: &Claim, signal: &Signal) -> Result<(), DatastoreError> {
        let state = self.start(claim, signal)?;
        let is_open = |state: &mut State| state.lease == Lease::Unknown && state.is_running();
        let waited = self
            .changed
            .wait_timeout_while(state, claim.time_left(), is_open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// Adds the waiter, and starts the threads unless they run.
    fn start(
        self: &Arc<Self>,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<MutexGuard<'_, State>, DatastoreError> {
        let mut state = self.state();
        if let Some(run) = state.start(Clock::BOOTTIME.now()) {
            let thread = |name: &str| thread::Builder::new().name(name.to_owned());
            let (watcher, heartbeat) = (Arc::clone(self), Arc::clone(self));
            let started = thread("dlock-heartbeat")
                .spawn(move || heartbeat::run(&heartbeat, run))
                .and_then(|_| thread("dlock-watcher").spawn(move || watcher::run(&watcher, run)));
            if let Err(error) = started {
                let ended = state.end(run);
                drop(state);
                drop(ended);
                return Err(DatastoreError::not_executed(ErrorKind::Refused, error));
            }
        }
        state.enter(claim.owner(), signal);
        Ok(state)
    }

    /// Removes the waiter, here and in the queue.
    fn leave(&self, claim: &Claim, call_timeout: Duration) {
        let now = Clock::BOOTTIME.now();
        let Some(place) = self.with_state(|state| state.leave(claim.owner(), now)) else {
            return;
        };
        let places = [place];
        let deadline = deadline_in(call_timeout);
        let left = self
            .pool
            .call_urgent(deadline, |link, _| at_once(queue::leave(link, &places)));
        if left.is_err() {
            let [place] = places;
            drop(self.with_state(|state| state.leaves_later(place, None)));
            self.changed.notify_all();
        } else {
            self.state().left(&places);
        }
    }
}

impl Queue for Turn<'_> {
    fn lease(&self) -> Option<i64> {
        self.shared.state().granted_lease()
    }

    fn place(&self) -> Option<Arc<str>> {
        self.shared.state().place(self.claim.owner())
    }

    fn enters(&self, place: Arc<str>) {
        let (owner, now) = (self.claim.owner(), Clock::BOOTTIME.now());
        self.shared
            .with_state(|state| state.enters(owner, place, now));
    }

    fn waits_behind(&self, watched: Arc<str>, since: i64) {
        let (owner, now) = (self.claim.owner(), Clock::BOOTTIME.now());
        self.shared
            .with_state(|state| state.waits_behind(owner, watched, since, now));
    }

    fn lease_ended(&self, lease: i64) {
        let now = Clock::BOOTTIME.now();
        if self
            .shared
            .with_state(|state| state.lease_ended(lease, now))
        {
            self.shared.lease_changed();
        }
    }
}

impl Turn<'_> {
    /// The claim was answered.
    pub(crate) fn ended(self, outcome: &Result<AcquireOutcome, DatastoreError>) {
        let is_granted = matches!(outcome, Ok(AcquireOutcome::Granted(_)));
        let (owner, now) = (self.claim.owner(), Clock::BOOTTIME.now());
        self.shared
            .with_state(|state| state.answered(owner, is_granted, now));
    }
}

#[cfg(test)]
mod tests;
