//! A waiter for a lock in its own thread, through the public interface.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dlock_core::{LockEvent, ReleaseError, Time, Wait};

use crate::case::{Case, now};
use crate::client::PATIENCE;
use crate::form::{Handle, Store};

const LEASE: Duration = Duration::from_secs(3);

/// Waits for a lock, holds it for a moment and releases it.
pub(crate) struct Waiter(JoinHandle<Result<Time, String>>);

impl Waiter {
    /// Begins to wait for a lock that is held. Returns when the waiter has its place in the queue,
    /// or is done.
    pub(crate) fn start(case: &Case<'_>, store: &Handle, id: &str, wait: Wait) -> Self {
        let (told, refusals) = mpsc::channel();
        let store = Store::observed(store.clone(), move |event| {
            if matches!(event, LockEvent::Refused { .. }) {
                // There is no receiver any more once the waiter is queued.
                let _ = told.send(());
            }
        });
        // Its process may be killed while it holds the lock. Then the lease must end before the
        // case stops waiting.
        let ttl = case.live(LEASE);
        let lock = case.lock(&store, id, |options| options.ttl(ttl));
        let thread = thread::spawn(move || match lock.acquire_with(&wait) {
            Ok(guard) => {
                let served = now();
                match guard.release() {
                    // It was served, but the machine was too slow to renew a short lease.
                    Ok(()) | Err(ReleaseError::Lost) => Ok(served),
                    // Or the release came to its end before it was answered, as its lease will.
                    Err(ReleaseError::Unknown(error) | ReleaseError::NotReleased(error))
                        if error.is_transient() =>
                    {
                        Ok(served)
                    }
                    Err(error) => Err(format!("its release failed: {error:?}")),
                }
            }
            Err(error) => Err(error.to_string()),
        });
        let give_up = now().saturating_add(PATIENCE);
        // After the first refusal it asks for a wake-up; the second one answers a queued waiter.
        let mut left = 2;
        while left > 0 && !thread.is_finished() && now() < give_up {
            match refusals.recv_timeout(Duration::from_millis(10)) {
                Ok(()) => left -= 1,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Waiter(thread)
    }

    /// Waits until the waiter is done. Returns when it was served, or why it was not.
    pub(crate) fn end(self) -> Result<Time, String> {
        match self.0.join() {
            Ok(end) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
