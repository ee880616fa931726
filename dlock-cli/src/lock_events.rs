//! What the observer reports of the lock, kept for messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dlock_core::{LockEvent, ReleaseError, duration};

use crate::args::Patience;
use crate::message::{report, report_if_writable, with_causes};

/// The events of the lock that messages need later.
pub(crate) struct RecordedEvents {
    name: String,
    /// The lock's key. Events of the mark of `--once`, which has a key of its own, are ignored: the
    /// answer of `once` covers them.
    key: OnceLock<String>,
    /// Whether the wait is shown: on a terminal only.
    shows_wait: bool,
    holder: Mutex<Option<String>>,
    renewal: Mutex<Option<String>>,
    /// Whether it was reported that renewals fail.
    fails: AtomicBool,
    /// How long the lock was waited for.
    waited: Mutex<Duration>,
    /// The end of the lease if it is not renewed any more.
    valid_until: Mutex<Option<Instant>>,
    release: Mutex<Option<ReleaseFailure>>,
}

/// Why the release of the lock failed.
pub(crate) enum ReleaseFailure {
    /// The lease was lost before the release; this is when it was noticed.
    Lost(Instant),
    NotReleased(String),
}

impl RecordedEvents {
    pub(crate) fn new(name: String, patience: Patience) -> Self {
        let waits = patience != Patience::AtMost(Duration::ZERO);
        RecordedEvents {
            name,
            key: OnceLock::new(),
            shows_wait: waits && rustix::termios::isatty(rustix::stdio::stderr()),
            holder: Mutex::new(None),
            renewal: Mutex::new(None),
            fails: AtomicBool::new(false),
            waited: Mutex::default(),
            valid_until: Mutex::new(None),
            release: Mutex::new(None),
        }
    }

    /// Sets the lock's key. Call it before the first event.
    pub(crate) fn set_key(&self, key: &str) {
        let _ = self.key.set(key.to_owned());
    }

    /// Records that the lease lasts for `left` from now.
    pub(crate) fn record_remaining(&self, left: Duration) {
        *lock(&self.valid_until) = Some(Instant::now() + left);
    }

    /// Returns whether the lease was still running at that moment, by its time.
    pub(crate) fn was_running_at(&self, moment: Instant) -> bool {
        lock(&self.valid_until).is_some_and(|end| moment < end)
    }

    /// How long the lock was waited for.
    pub(crate) fn waited(&self) -> Duration {
        *lock(&self.waited)
    }

    /// Why the last renewal failed.
    pub(crate) fn renewal_failure(&self) -> Option<String> {
        lock(&self.renewal).take()
    }

    /// Why the release failed.
    pub(crate) fn release_failure(&self) -> Option<ReleaseFailure> {
        lock(&self.release).take()
    }

    /// Records an event.
    pub(crate) fn record(&self, event: &LockEvent<'_>) {
        match event {
            LockEvent::Refused { held, .. } if self.shows_wait => {
                self.show_wait(match held.holder() {
                    Some(holder) if holder.is_kept() => {
                        format!("kept by the minimum hold time of {holder}, whose work is over")
                    }
                    Some(holder) => format!("held by {holder}"),
                    None => "held by an unknown holder".to_owned(),
                });
            }
            LockEvent::Acquired { key, waited, .. } if self.is_ours(key) => {
                *lock(&self.waited) = *waited;
            }
            LockEvent::RenewalFailed { key, error, .. } => {
                let error = with_causes(*error);
                *lock(&self.renewal) = Some(error.clone());
                if self.is_ours(key) {
                    self.renewals_fail(&error);
                }
            }
            LockEvent::Renewed { key, remaining, .. } => {
                *lock(&self.renewal) = None;
                if self.is_ours(key) {
                    self.record_remaining(*remaining);
                    self.renewals_work();
                }
            }
            LockEvent::ReleaseFailed { key, error, .. } if self.is_ours(key) => {
                *lock(&self.release) = Some(match error {
                    ReleaseError::Lost => ReleaseFailure::Lost(Instant::now()),
                    error => ReleaseFailure::NotReleased(with_causes(*error)),
                });
            }
            _ => {}
        }
    }

    /// Reports the first of several failures. It comes on the thread that renews, which must not
    /// wait for a reader.
    fn renewals_fail(&self, error: &str) {
        if self.fails.swap(true, Ordering::Relaxed) {
            return;
        }
        let left = lock(&self.valid_until)
            .map(|end| end.saturating_duration_since(Instant::now()))
            .map(|left| {
                let left = duration::format(Duration::from_secs(left.as_secs()));
                format!("; unless it can be renewed before, it ends in {left}")
            });
        report_if_writable(format_args!(
            "the lease of {} cannot be renewed ({error}){}",
            self.name,
            left.unwrap_or_default()
        ));
    }

    fn renewals_work(&self) {
        if self.fails.swap(false, Ordering::Relaxed) {
            report_if_writable(format_args!("the lease of {} is renewed again", self.name));
        }
    }

    fn is_ours(&self, key: &str) -> bool {
        self.key.get().is_some_and(|ours| ours == key)
    }

    fn show_wait(&self, holder: String) {
        let mut last = lock(&self.holder);
        if last.as_ref() != Some(&holder) {
            report(format_args!("waiting for {}, {holder}", self.name));
            *last = Some(holder);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
