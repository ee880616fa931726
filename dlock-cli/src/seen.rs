//! What the store tells of the lock on the way, for messages.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dlock_core::{LockEvent, ReleaseError};

use crate::args::Patience;
use crate::say::{chain, say};

/// What the store told of the lock on the way, for messages.
pub(crate) struct Seen {
    name: String,
    /// The lock's key: the mark of `--once` has one of its own, and what becomes of it is told by the answer.
    key: OnceLock<String>,
    /// Whether somebody watches the wait.
    shows_wait: bool,
    holder: Mutex<Option<String>>,
    renewal: Mutex<Option<String>>,
    release: Mutex<Option<ReleaseFailure>>,
}

/// Why the lock was not released as it should.
pub(crate) enum ReleaseFailure {
    Lost,
    NotReleased(String),
}

impl Seen {
    pub(crate) fn new(name: String, patience: Patience) -> Self {
        let waits = patience != Patience::AtMost(Duration::ZERO);
        Seen {
            name,
            key: OnceLock::new(),
            shows_wait: waits && rustix::termios::isatty(rustix::stdio::stderr()),
            holder: Mutex::new(None),
            renewal: Mutex::new(None),
            release: Mutex::new(None),
        }
    }

    /// Names the lock, before the first event.
    pub(crate) fn is_about(&self, key: &str) {
        let _ = self.key.set(key.to_owned());
    }

    /// Why the last renewal failed.
    pub(crate) fn renewal_failure(&self) -> Option<String> {
        lock(&self.renewal).take()
    }

    /// Why the release failed.
    pub(crate) fn release_failure(&self) -> Option<ReleaseFailure> {
        lock(&self.release).take()
    }

    /// Takes note of an event.
    pub(crate) fn note(&self, event: &LockEvent<'_>) {
        match event {
            LockEvent::Refused { held, .. } if self.shows_wait => self.show_wait(
                held.holder()
                    .map_or_else(|| "an unknown holder".to_owned(), ToString::to_string),
            ),
            LockEvent::RenewalFailed { error, .. } => *lock(&self.renewal) = Some(chain(*error)),
            LockEvent::Renewed { .. } => *lock(&self.renewal) = None,
            LockEvent::ReleaseFailed { key, error, .. }
                if self.key.get().is_some_and(|ours| ours == key) =>
            {
                *lock(&self.release) = Some(match error {
                    ReleaseError::Lost => ReleaseFailure::Lost,
                    error => ReleaseFailure::NotReleased(chain(*error)),
                });
            }
            _ => {}
        }
    }

    fn show_wait(&self, holder: String) {
        let mut last = lock(&self.holder);
        if last.as_ref() != Some(&holder) {
            say(format_args!("waiting for {}, held by {holder}", self.name));
            *last = Some(holder);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
