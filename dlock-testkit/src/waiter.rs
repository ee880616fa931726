//! One who waits for a lock in a thread of its own, as any user does.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dlock_core::{LockEvent, ReleaseError, Store, Time, Wait};

use crate::case::{Case, now};
use crate::client::PATIENCE;
use crate::subject::Handle;

const LEASE: Duration = Duration::from_secs(3);

/// One who waits for a lock, holds it for a moment and releases it.
pub(crate) struct Waiter(JoinHandle<Result<Time, String>>);

impl Waiter {
    /// Begins to wait for a lock that is held; returns when the waiter has its place in the queue, or is done.
    pub(crate) fn start(case: &Case<'_>, store: &Handle, id: &str, wait: Wait) -> Self {
        let (told, refusals) = mpsc::channel();
        let store = Store::builder(Arc::clone(store))
            .observer(move |event: &LockEvent<'_>| {
                if matches!(event, LockEvent::Refused { .. }) {
                    // Nobody listens any more when the waiter is queued.
                    let _ = told.send(());
                }
            })
            .build();
        // Its process may be killed with the lock in its hand: that bars the others no longer than a case waits.
        let ttl = case.live(LEASE);
        let lock = case.lock(&store, id, |options| options.with_ttl(ttl));
        let thread = thread::spawn(move || match lock.acquire_with(&wait) {
            Ok(guard) => {
                let served = now();
                match guard.release() {
                    // It was served all the same, on a machine too slow to renew a short lease.
                    Ok(()) | Err(ReleaseError::Lost) => Ok(served),
                    Err(error) => Err(format!("its release failed: {error:?}")),
                }
            }
            Err(error) => Err(error.to_string()),
        });
        let give_up = now().saturating_add(PATIENCE);
        // The first refusal makes it ask for a wake-up, the second is the answer to one who waits.
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

    /// Waits until it is done: when it was served, or why it was not.
    pub(crate) fn end(self) -> Result<Time, String> {
        match self.0.join() {
            Ok(end) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
