//! How long a caller waits for a lock.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Signal, Time};

/// How long a caller waits for a lock that is held.
///
/// ```
/// use dlock_core::{Cancel, Wait};
/// use std::time::Duration;
///
/// let cancel = Cancel::new();
/// let wait = Wait::within(Duration::from_secs(30)).cancelled_by(&cancel);
/// cancel.cancel(); // from any thread: the wait ends at once
/// # let _ = wait;
/// ```
#[derive(Debug, Clone)]
pub struct Wait {
    within: Option<Duration>,
    cancel: Option<Cancel>,
}

impl Wait {
    /// Not at all: one try, which may take as long as one call to the store.
    pub fn none() -> Self {
        Self::within(Duration::ZERO)
    }

    /// At most this long. Zero is [`none`](Self::none).
    pub fn within(timeout: Duration) -> Self {
        Wait {
            within: Some(timeout),
            cancel: None,
        }
    }

    /// Until the lock is free.
    pub fn forever() -> Self {
        Wait {
            within: None,
            cancel: None,
        }
    }

    /// The same wait, ended early by `cancel`.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    pub(crate) fn cancel(&self) -> Option<&Cancel> {
        self.cancel.as_ref()
    }

    /// Whether a refusal is waited out at all.
    pub(crate) fn waits(&self) -> bool {
        self.within != Some(Duration::ZERO)
    }

    /// When a wait that starts now ends.
    pub(crate) fn deadline(&self, now: Time, call_timeout: Duration) -> Time {
        match self.within {
            None => Time::MAX,
            Some(Duration::ZERO) => now.saturating_add(call_timeout),
            Some(within) => now.saturating_add(within),
        }
    }
}

/// Ends waits from another thread, once and for all. Clones are the same.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    waiting: Mutex<Vec<Signal>>,
}

impl Cancel {
    /// Not cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every wait that it was given to, and those to come.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        for signal in self.waiting().iter() {
            signal.notify();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Notifies `signal` too from now on, until the answer is dropped.
    pub(crate) fn wake(&self, signal: &Signal) -> Waking {
        self.waiting().push(signal.clone());
        if self.is_cancelled() {
            signal.notify();
        }
        Waking {
            cancel: self.clone(),
            signal: signal.clone(),
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Signal>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

pub(crate) struct Waking {
    cancel: Cancel,
    signal: Signal,
}

impl Drop for Waking {
    fn drop(&mut self) {
        let mut waiting = self.cancel.waiting();
        if let Some(place) = waiting.iter().position(|other| other.is(&self.signal)) {
            waiting.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Duration = Duration::from_secs(2);

    #[test]
    fn a_wait_ends_when_it_says() {
        let now = Time::from_nanos(1);
        let second = Duration::from_secs(1);
        for (wait, waits, deadline) in [
            (Wait::none(), false, now.saturating_add(CALL)),
            (
                Wait::within(Duration::ZERO),
                false,
                now.saturating_add(CALL),
            ),
            (Wait::within(second), true, now.saturating_add(second)),
            (Wait::forever(), true, Time::MAX),
        ] {
            assert_eq!(wait.waits(), waits, "{wait:?}");
            assert_eq!(wait.deadline(now, CALL), deadline, "{wait:?}");
            assert!(wait.cancel().is_none());
        }
    }

    #[test]
    fn a_cancel_wakes_whom_it_was_given_and_forgets_who_left() {
        let cancel = Cancel::new();
        let (stays, left, late) = (Signal::new(), Signal::new(), Signal::new());
        let waking = cancel.wake(&stays);
        drop(cancel.wake(&left));
        assert!(!cancel.is_cancelled() && !stays.take());
        cancel.cancel();
        assert!(cancel.is_cancelled() && stays.take() && !left.take());
        drop(waking);
        let _late = cancel.wake(&late);
        assert!(late.take(), "who comes later is not left to sleep");
        assert_eq!(cancel.waiting().len(), 1);
    }
}
