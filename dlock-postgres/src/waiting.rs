//! The waiters of a store, and how they learn that their turn has come.
//!
//! A waiter that was refused is in the key's queue in the database. One thread serves all waiters
//! of a store, the *listener*, with a connection of its own. On it come the notifications of other
//! processes' releases, and once a second it makes a heartbeat, which keeps this process's waiters
//! in their queues and finds leases that have ended. Behind a pooler nothing can be received: there
//! it asks ten times a second. The thread grants nothing: a waiter is woken, and claims.

#[cfg(feature = "tokio")]
mod leaver;
mod listener;
mod state;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{Claim, Clock, DatastoreError, ErrorKind, HeldBy, OwnerToken, Signal, Watch};
use dlock_net::{OfProcess, Pool, deadline_in};

use crate::error::{is_answer, is_of_locked_row};
use crate::operations::{Call, HEARTBEAT_EVERY};
use crate::pool::ConnectionManager;
use state::State;

/// How many digits the name of a process has. It is the end of its channel's name, which may have
/// 63 bytes; the name of a key would be too long for that.
const PROCESS: usize = 16;
/// A waiter in a queue is woken. If the database has lost the queue and nobody has noticed, it asks
/// again after this time.
const UNTIL_WOKEN: Duration = Duration::from_secs(20);

/// After which time one that could not be taken off its queue, since another transaction has locked
/// the key's row, is tried again. The server would let it wait for the row; whatever serves several
/// waiters does not, or the row of one key would hold up those of all others.
const LOCKED_AGAIN: Duration = Duration::from_millis(50);

/// The waiters of one store. In a forked child there are none: it polls.
pub(crate) struct Waiters {
    pool: Arc<Pool<ConnectionManager>>,
    shared: OfProcess<Shared>,
}

/// What the waiters and the thread share.
struct Shared {
    pool: Arc<Pool<ConnectionManager>>,
    /// What the queues call this store in this process: random hex digits, [`PROCESS`] of them.
    process: String,
    state: Mutex<State>,
    changed: Condvar,
    /// A waiter of async code is off its queue.
    #[cfg(feature = "tokio")]
    left: tokio::sync::Notify,
}

impl Waiters {
    pub(crate) fn new(pool: Arc<Pool<ConnectionManager>>) -> Self {
        Waiters {
            pool,
            shared: OfProcess::default(),
        }
    }

    /// Notifies `signal` when the claim's turn has come. This waits for nothing; the end of the
    /// watch takes the waiter off the queue, by one call.
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
        shared.enter(claim, signal)?;
        let (shared, owner) = (Arc::clone(shared), claim.owner());
        let watch = self
            .shared
            .watch(move |_| shared.leave(owner, call_timeout));
        Ok(Some(watch))
    }

    /// The name of this process for a claim that waits and is about to be made. With it, a refusal
    /// queues the claim.
    pub(crate) fn process_of(&self, claim: &Claim) -> Option<&str> {
        let shared = self.of(claim)?;
        let asks = shared.state().asks(claim.owner());
        asks.then_some(&*shared.process)
    }

    pub(crate) fn granted(&self, claim: &Claim) {
        if let Some(shared) = self.of(claim) {
            shared.state().granted(claim.owner());
        }
    }

    /// When a waiter in the queue asks again if it is not woken. The next one in the queue asks
    /// when it knows of no lease any more: a mark may say "done" by then, which wakes nobody.
    pub(crate) fn retry_in(&self, claim: &Claim, held: &HeldBy, is_next: bool) -> Duration {
        let now = Clock::BOOTTIME.now();
        let is_served = self
            .of(claim)
            .is_some_and(|shared| shared.state().is_served(now));
        match held.expires_in() {
            _ if !is_served => HEARTBEAT_EVERY,
            Some(left) if is_next => left.clamp(HEARTBEAT_EVERY, UNTIL_WOKEN),
            _ => UNTIL_WOKEN,
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
            process.truncate(PROCESS);
            Ok(Shared {
                pool: Arc::clone(&self.pool),
                process,
                state: Mutex::default(),
                changed: Condvar::new(),
                #[cfg(feature = "tokio")]
                left: tokio::sync::Notify::new(),
            })
        })
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        // The thread, which may be in the middle of a call, ends by itself.
        if let Some(shared) = self.shared.get() {
            shared.state().stop();
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

    /// Adds a waiter. The first one starts the thread.
    fn enter(self: &Arc<Self>, claim: &Claim, signal: &Signal) -> Result<(), DatastoreError> {
        let mut state = self.state();
        if let Some(run) = state.start() {
            let shared = Arc::clone(self);
            let thread = thread::Builder::new().name("dlock-listener".to_owned());
            if let Err(error) = thread.spawn(move || listener::run(&shared, run)) {
                state.end(run);
                return Err(DatastoreError::not_executed(ErrorKind::Refused, error));
            }
        }
        state.enter(claim.owner(), signal);
        drop(state);
        // The listener may have paused for want of waiters.
        self.changed.notify_all();
        Ok(())
    }

    /// Removes the waiter, here and in the queue if it may be there. A lock that was handed to it
    /// and not claimed goes to the next waiter.
    fn leave(&self, owner: OwnerToken, call_timeout: Duration) {
        if self.state().leave(owner) {
            self.call_leave(owner, call_timeout, call_timeout);
        }
    }

    /// Takes a waiter off the queue, if that is possible within this wait for the key's row.
    fn call_leave(&self, owner: OwnerToken, call_timeout: Duration, wait: Duration) -> Left {
        // If this fails, the waiter costs the others nothing until its turn comes: then this
        // process is notified, and gives the lock back.
        let left = self
            .pool
            .call_urgent(deadline_in(call_timeout), |server, _| {
                server.call(&Call::Leave(owner, wait))
            });
        match left {
            Err(error) if is_of_locked_row(&error) => Left::RowIsLocked,
            Err(error) if !is_answer(&error) => Left::NoAnswer,
            Ok(_) | Err(_) => Left::Answered,
        }
    }
}

/// What became of a waiter that was to be taken off its queue.
enum Left {
    /// It is off the queue, or will not be.
    Answered,
    /// Nothing: another transaction has locked the key's row.
    RowIsLocked,
    NoAnswer,
}

#[cfg(test)]
mod tests;
