//! The waiters of a store, and how they learn that their turn has come.
//!
//! A waiter that was refused is in the key's queue in the server. Two threads serve all waiters of a store: one *listens* on a connection of
//! its own to what other processes' releases tell this one; the other *looks* at each key once a second, which keeps this process's waiters in
//! the queue and finds whatever was not heard. Neither grants anything: they wake a waiter, and the waiter claims.

mod listener;
mod looker;
mod state;

use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{Claim, Clock, DatastoreError, ErrorKind, Lease, OwnerToken, Signal, Watch};
use dlock_net::{Pool, deadline_in};

use crate::pool::ConnectionManager;
use crate::protocol::{Call, QueuePlace};
use state::{Hearing, State};

/// The waiters of one store. In a forked child there are none: it polls.
pub(crate) struct Waiters {
    pool: Arc<Pool<ConnectionManager>>,
    pid: u32,
    /// Made by the first waiter.
    shared: OnceLock<Arc<Shared>>,
}

/// What the waiters and the two threads share.
struct Shared {
    pool: Arc<Pool<ConnectionManager>>,
    /// What the queues call this store in this process: 64 random bits in hex.
    process: String,
    state: Mutex<State>,
    changed: Condvar,
}

impl Waiters {
    pub(crate) fn new(pool: Arc<Pool<ConnectionManager>>) -> Self {
        Waiters {
            pool,
            pid: process::id(),
            shared: OnceLock::new(),
        }
    }

    /// Lets `signal` be notified when the claim's turn has come; `None` if this user may not listen.
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
        if self.pid != process::id() {
            return Ok(None);
        }
        let shared = self.shared()?;
        if !shared.enter(claim, signal)? {
            return Ok(None);
        }
        let (shared, claim, pid) = (Arc::clone(shared), claim.clone(), self.pid);
        Ok(Some(Watch::new(move || {
            // In a forked child it is the parent that waits.
            if pid == process::id() {
                shared.leave(&claim, call_timeout);
            }
        })))
    }

    /// The name of this process for a claim that waits and can be woken, which is about to be made.
    pub(crate) fn process_of(&self, claim: &Claim) -> Option<&str> {
        let shared = self.of(claim)?;
        shared
            .state()
            .asks(claim.owner())
            .then_some(&*shared.process)
    }

    /// The name of this process for the release of a claim that won, if a copy of it may have been queued after its lease had ended.
    pub(crate) fn may_be_queued(&self, lease: &Lease) -> Option<&str> {
        let may_be = lease.grant().copy_may_follow;
        may_be
            .then(|| self.of(lease.claim()))?
            .map(|shared| &*shared.process)
    }

    /// The claim is given up. The name of this process, if the claim waited and may be in the queue: who asks tells the server.
    pub(crate) fn gives_up(&self, claim: &Claim) -> Option<&str> {
        let shared = self.of(claim)?;
        shared.state().leave(claim.owner());
        Some(&shared.process)
    }

    /// The server could not be told that a claim that waited was given up.
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
        // A claim that only tries, which is most of them, finds that out without a look at anything shared.
        claim.waits_until()?;
        let shared = self.shared.get()?;
        (self.pid == process::id()).then_some(shared)
    }

    fn shared(&self) -> Result<&Arc<Shared>, DatastoreError> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared);
        }
        let mut process = OwnerToken::random()?.to_string();
        process.truncate(16);
        Ok(self.shared.get_or_init(|| {
            Arc::new(Shared {
                pool: Arc::clone(&self.pool),
                process,
                state: Mutex::default(),
                changed: Condvar::new(),
            })
        }))
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        // The threads, which may be in the middle of a call, end by themselves.
        if let Some(shared) = self.shared.get().filter(|_| self.pid == process::id()) {
            shared.state().stop();
            shared.changed.notify_all();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code of others runs under this mutex, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a waiter, unless this process may not listen. The first one starts the threads, and all wait for the answer to the
    /// subscription. If the server cannot be reached just now, they wait all the same: the looks make up for what is not heard.
    fn enter(self: &Arc<Self>, claim: &Claim, signal: &Signal) -> Result<bool, DatastoreError> {
        let mut state = self.state();
        if let Some(run) = state.start() {
            let thread = |name: &str| thread::Builder::new().name(name.to_owned());
            let (listener, looker) = (Arc::clone(self), Arc::clone(self));
            let started = thread("dlock-listen")
                .spawn(move || listener::run(&listener, run))
                .and_then(|_| thread("dlock-look").spawn(move || looker::run(&looker, run)));
            if let Err(error) = started {
                state.end(run);
                return Err(DatastoreError::not_executed(ErrorKind::Refused, error));
            }
        }
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, claim.time_left(), |state| {
                state.hearing == Hearing::Starting
            })
            .unwrap_or_else(PoisonError::into_inner);
        // The threads may have ended meanwhile.
        if state.hearing == Hearing::Refused || !state.is_running() {
            return Ok(false);
        }
        if state.enter(claim.key(), claim.owner(), signal, Clock::BOOTTIME.now()) {
            self.changed.notify_all();
        }
        Ok(true)
    }

    /// The waiter goes. If it may be in the queue it leaves that too, and what it was handed and did not claim goes to the next.
    fn leave(&self, claim: &Claim, call_timeout: Duration) {
        let (key, owner) = (claim.key(), claim.owner());
        if !self.state().leave(owner) {
            return;
        }
        let left = self.pool.call(deadline_in(call_timeout), |connection| {
            connection.call(Call::Release {
                key,
                owner,
                process: Some(&self.process),
            })
        });
        if left.is_err() {
            self.still_queued(claim);
        }
    }

    fn still_queued(&self, claim: &Claim) {
        self.state().still_queued(claim.key(), claim.owner());
        self.changed.notify_all();
    }
}
