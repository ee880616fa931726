//! The waiters of a store, and how they learn that their turn has come.
//!
//! A waiter that was refused is in the key's queue in the server. Two threads serve all waiters of
//! a store. The *subscriber* receives, on a connection of its own, the messages that other
//! processes' releases send to this one. The *heartbeat* calls the server for each key once a
//! second: that keeps this process's waiters in the queue and finds what a lost message would have
//! reported. Neither thread grants anything. Each wakes a waiter, and the waiter claims.

#[cfg(feature = "tokio")]
mod aio;
mod heartbeat;
mod state;
mod subscriber;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{Claim, Clock, DatastoreError, ErrorKind, Lease, OwnerToken, Signal, Watch};
use dlock_net::{OfProcess, deadline_in};

use crate::operations::{Call, Keys, QueuePlace};
use crate::servers::Servers;
use state::{State, SubscriptionState};

/// How many digits the name of a process has. In a cluster it has one more: the scripts must know
/// that the number of a message's receivers says nothing there.
const PROCESS: usize = 16;

/// The waiters of one store. In a forked child there are none: it polls.
pub(crate) struct Waiters {
    servers: Servers,
    shared: OfProcess<Shared>,
}

/// What the waiters and the two threads share.
struct Shared {
    servers: Servers,
    /// What the queues call this store in this process: random hex digits, [`PROCESS`] of them.
    process: String,
    state: Mutex<State>,
    changed: Condvar,
    /// The same for async waiters, where the subscription is concerned.
    #[cfg(feature = "tokio")]
    answered: tokio::sync::Notify,
}

impl Waiters {
    pub(crate) fn new(servers: Servers) -> Self {
        Waiters {
            servers,
            shared: OfProcess::default(),
        }
    }

    /// Notifies `signal` when the claim's turn has come. Returns `None` if this user may not
    /// subscribe.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or no randomness.
    pub(crate) fn watch(
        &self,
        claim: &Claim,
        signal: &Signal,
        call_timeout: Duration,
    ) -> Result<Option<Watch>, DatastoreError> {
        let Some(shared) = self.shared()? else {
            return Ok(None);
        };
        if !shared.enter(claim, signal)? {
            return Ok(None);
        }
        let (shared, claim) = (Arc::clone(shared), claim.clone());
        let watch = self
            .shared
            .watch(move |_| shared.leave(&claim, call_timeout));
        Ok(Some(watch))
    }

    /// The name of this process for a claim that waits and is about to be made, if this process
    /// receives messages, and whether a refusal is to queue the claim.
    pub(crate) fn process_of(&self, claim: &Claim) -> (Option<&str>, bool) {
        let Some(shared) = self.of(claim) else {
            return (None, false);
        };
        let mut state = shared.state();
        let queues = state.asks(claim.owner());
        let named = queues || state.is_running();
        (named.then_some(&*shared.process), queues)
    }

    /// A claim was released, or may have been.
    pub(crate) fn ends(&self, claim: &Claim) {
        if let Some(shared) = self.of(claim) {
            shared.state().ended(claim.owner());
        }
    }

    /// The name of this process for the release of a claim that won, if a copy of it may have been
    /// queued after its lease had ended.
    pub(crate) fn may_be_queued(&self, lease: &Lease) -> Option<&str> {
        let may_be = lease.grant().copy_may_follow;
        may_be
            .then(|| self.of(lease.claim()))?
            .map(|shared| &*shared.process)
    }

    /// The name of this process in the record of a claim that won, if it is there, and the keys
    /// that its release probably needs.
    pub(crate) fn record_of(&self, claim: &Claim) -> (Option<&str>, Keys) {
        let Some(shared) = self.of(claim) else {
            return (None, Keys::Few);
        };
        let state = shared.state();
        let keys = match state.is_contended(claim.key(), claim.owner()) {
            true => Keys::All,
            false => Keys::Few,
        };
        (state.is_running().then_some(&*shared.process), keys)
    }

    /// Ends a claim that is given up. Returns the name of this process if the claim may be in the
    /// queue; the caller then informs the server.
    pub(crate) fn gives_up(&self, claim: &Claim) -> Option<&str> {
        let shared = self.of(claim)?;
        let mut state = shared.state();
        state.leave(claim.owner());
        state.ended(claim.owner());
        drop(state);
        Some(&shared.process)
    }

    /// The server could not be informed that a claim that waited was given up.
    pub(crate) fn still_queued(&self, claim: &Claim) {
        if let Some(shared) = self.of(claim) {
            shared.still_queued(claim);
        }
    }

    pub(crate) fn granted(&self, claim: &Claim) {
        if let Some(shared) = self.of(claim) {
            shared.state().granted(claim.owner());
        }
    }

    /// The claim is in the queue; the holder's lease ends in `left`.
    pub(crate) fn queued(&self, claim: &Claim, place: QueuePlace, left: Option<Duration>) {
        let Some(shared) = self.of(claim) else { return };
        let end = left.filter(|_| place.is_first).map(deadline_in);
        if shared.state().queued(claim.owner(), place.generation, end) {
            shared.changed.notify_all();
        }
    }

    fn of(&self, claim: &Claim) -> Option<&Shared> {
        // A claim that only tries, which is most of them, finds that out without a look at anything
        // shared.
        claim.deadline()?;
        self.shared.get().map(|shared| &**shared)
    }

    fn shared(&self) -> Result<Option<&Arc<Shared>>, DatastoreError> {
        self.shared.get_or_make(|| {
            let mut process = OwnerToken::random()?.to_string();
            process.truncate(PROCESS + usize::from(self.servers.are_many()));
            Ok(Shared {
                servers: self.servers.clone(),
                process,
                state: Mutex::default(),
                changed: Condvar::new(),
                #[cfg(feature = "tokio")]
                answered: tokio::sync::Notify::new(),
            })
        })
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        // The threads, which may be in the middle of a call, end by themselves.
        if let Some(shared) = self.shared.get() {
            drop(shared.with_state(State::stop));
            shared.changed.notify_all();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under this mutex, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and then notifies the waiters whose turn may have come.
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let done = change(&mut state);
        let woken = state.take_woken();
        drop(state);
        woken.iter().for_each(Signal::notify);
        done
    }

    /// The subscription may have been answered, or the threads may have ended.
    fn subscription_changed(&self) {
        self.changed.notify_all();
        #[cfg(feature = "tokio")]
        self.answered.notify_waiters();
    }

    /// Adds a waiter, unless this process may not subscribe. The first waiter starts the threads,
    /// and all wait until the subscription is answered. If the server cannot be reached just now,
    /// they wait all the same: the heartbeats find what no message reports.
    fn enter(self: &Arc<Self>, claim: &Claim, signal: &Signal) -> Result<bool, DatastoreError> {
        let state = self.start()?;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, claim.time_left(), |state| {
                state.subscription == SubscriptionState::Starting
            })
            .unwrap_or_else(PoisonError::into_inner);
        Ok(self.add(&mut state, claim, signal))
    }

    /// Starts the threads unless they run.
    fn start(self: &Arc<Self>) -> Result<MutexGuard<'_, State>, DatastoreError> {
        let mut state = self.state();
        if let Some(run) = state.start() {
            let thread = |name: &str| thread::Builder::new().name(name.to_owned());
            let (subscriber, heartbeat) = (Arc::clone(self), Arc::clone(self));
            let started = thread("dlock-subscriber")
                .spawn(move || subscriber::run(&subscriber, run))
                .and_then(|_| {
                    thread("dlock-heartbeat").spawn(move || heartbeat::run(&heartbeat, run))
                });
            if let Err(error) = started {
                let over = state.end(run);
                drop(state);
                drop(over);
                return Err(DatastoreError::not_executed(ErrorKind::Refused, error));
            }
        }
        Ok(state)
    }

    /// Adds the waiter, now that the subscription is answered or takes too long.
    fn add(&self, state: &mut State, claim: &Claim, signal: &Signal) -> bool {
        // The threads may have ended meanwhile.
        if state.subscription == SubscriptionState::Refused || !state.is_running() {
            return false;
        }
        if state.enter(claim.key(), claim.owner(), signal, Clock::BOOTTIME.now()) {
            self.changed.notify_all();
        }
        true
    }

    /// Removes the waiter, here and in the server's queue if it may be there. A lock that was
    /// handed to it and not claimed goes to the next waiter.
    fn leave(&self, claim: &Claim, call_timeout: Duration) {
        let (key, owner) = (claim.key(), claim.owner());
        let mut state = self.state();
        if !state.leave(owner) {
            return;
        }
        state.ended(owner);
        drop(state);
        let call = Call::Leave {
            key,
            owner,
            process: &self.process,
        };
        let left = self.servers.call(deadline_in(call_timeout), call);
        if left.is_err() {
            self.still_queued(claim);
        }
    }

    fn still_queued(&self, claim: &Claim) {
        self.state().still_queued(claim.key(), claim.owner());
        self.changed.notify_all();
    }
}
