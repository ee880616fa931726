//! How long a caller waits for a lock.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::time::instant::Time;
use crate::time::signal::Signal;

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
    /// Cancelled when the waiting future is dropped.
    #[cfg(feature = "tokio")]
    dropped: Option<Cancel>,
}

impl Wait {
    /// No wait: one try, which may take as long as one call to the store.
    pub fn none() -> Self {
        Self::within(Duration::ZERO)
    }

    /// At most this long. Zero is [`none`](Self::none).
    pub fn within(timeout: Duration) -> Self {
        Wait {
            within: Some(timeout),
            cancel: None,
            #[cfg(feature = "tokio")]
            dropped: None,
        }
    }

    /// Until the lock is free.
    pub fn forever() -> Self {
        Wait {
            within: None,
            cancel: None,
            #[cfg(feature = "tokio")]
            dropped: None,
        }
    }

    /// The same wait, which `cancel` ends early. If it is cancelled already, nothing is claimed,
    /// not even a free lock. A claim that is under way at the moment of the cancellation may still
    /// win.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// The same wait, which also ends when the waiting future is dropped.
    #[cfg(feature = "tokio")]
    pub(crate) fn ended_by_drop(mut self, dropped: &Cancel) -> Self {
        self.dropped = Some(dropped.clone());
        self
    }

    /// Returns whether the waiting future was dropped.
    #[cfg(feature = "tokio")]
    pub(crate) fn was_dropped(&self) -> bool {
        self.dropped.as_ref().is_some_and(Cancel::is_cancelled)
    }

    /// Registers `signal` to be notified by a cancellation until the result is dropped.
    pub(crate) fn subscribe(&self, signal: &Signal) -> CancelSubscriptions {
        let wake = |cancel: &Cancel| cancel.wake(signal);
        CancelSubscriptions {
            _cancel: self.cancel.as_ref().map(wake),
            #[cfg(feature = "tokio")]
            _dropped: self.dropped.as_ref().map(wake),
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        let is_cancelled =
            |cancel: &Option<Cancel>| cancel.as_ref().is_some_and(Cancel::is_cancelled);
        #[cfg(feature = "tokio")]
        if is_cancelled(&self.dropped) {
            return true;
        }
        is_cancelled(&self.cancel)
    }

    /// Returns whether the caller waits after a refusal.
    pub(crate) fn waits(&self) -> bool {
        self.within != Some(Duration::ZERO)
    }

    /// The end of a wait that starts now.
    pub(crate) fn deadline(&self, now: Time, call_timeout: Duration) -> Time {
        match self.within {
            None => Time::MAX,
            Some(Duration::ZERO) => now.saturating_add(call_timeout),
            Some(within) => now.saturating_add(within),
        }
    }
}

/// Ends waits from another thread, for good. Clones are the same value.
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

    /// Ends every wait that this value was given to, now and in the future.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        // Outside of the lock: a notification may run the waker of a task.
        let waiting = self.waiting().clone();
        for signal in &waiting {
            signal.notify();
        }
    }

    /// Returns whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Registers `signal` to be notified by a cancellation until the result is dropped.
    pub(crate) fn wake(&self, signal: &Signal) -> CancelSubscription {
        self.waiting().push(signal.clone());
        if self.is_cancelled() {
            signal.notify();
        }
        CancelSubscription {
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

/// The subscriptions of one waiter.
#[derive(Default)]
pub(crate) struct CancelSubscriptions {
    _cancel: Option<CancelSubscription>,
    #[cfg(feature = "tokio")]
    _dropped: Option<CancelSubscription>,
}

pub(crate) struct CancelSubscription {
    cancel: Cancel,
    signal: Signal,
}

impl Drop for CancelSubscription {
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
            assert!(wait.cancel.is_none());
        }
    }

    #[test]
    fn a_cancel_wakes_every_registered_waiter_and_forgets_those_that_left() {
        let cancel = Cancel::new();
        let (stays, left, late) = (Signal::new(), Signal::new(), Signal::new());
        let subscription = cancel.wake(&stays);
        drop(cancel.wake(&left));
        assert!(!cancel.is_cancelled() && !stays.take());
        cancel.cancel();
        assert!(cancel.is_cancelled() && stays.take() && !left.take());
        drop(subscription);
        let _late = cancel.wake(&late);
        assert!(late.take(), "a later waiter is not left to sleep");
        assert_eq!(cancel.waiting().len(), 1);
    }
}
