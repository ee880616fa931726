//! A sticky wake-up.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A wake-up that is not lost when it comes before anybody waits for it.
///
/// A store that can wake waiters is given one by [`Datastore::watch`](crate::Datastore::watch) and calls
/// [`notify`](Signal::notify) from whatever thread hears the news. The waiter sleeps on it through
/// [`Clock::park`](crate::Clock::park), which consumes the notification. Clones are the same signal.
#[derive(Clone, Default)]
pub struct Signal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    notified: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// A signal that has not been notified.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiter, or lets its next wait return at once. Never blocks.
    pub fn notify(&self) {
        *self.lock() = true;
        self.0.changed.notify_all();
    }

    /// Consumes a notification without waiting; whether there was one.
    pub fn take(&self) -> bool {
        std::mem::take(&mut *self.lock())
    }

    /// Wakes the waiter so that it looks at its clock again; leaves no notification behind.
    pub(crate) fn nudge(&self) {
        drop(self.lock());
        self.0.changed.notify_all();
    }

    /// Waits until notified (and consumes that) or until `time_left` is zero; whether it was notified.
    ///
    /// `time_left` is asked again after every nudge and at least once per `look_again`, for clocks that do not
    /// run at the pace of the condition variable's own.
    pub(crate) fn wait(
        &self,
        look_again: Duration,
        mut time_left: impl FnMut() -> Duration,
    ) -> bool {
        let mut notified = self.lock();
        loop {
            if std::mem::take(&mut *notified) {
                return true;
            }
            let left = time_left();
            if left.is_zero() {
                return false;
            }
            notified = self
                .0
                .changed
                .wait_timeout(notified, left.min(look_again))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether both are the same signal.
    pub(crate) fn is(&self, other: &Signal) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0
            .notified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn who_is_nudged_looks_at_the_clock_again_and_is_not_notified() {
        let signal = Signal::new();
        let (looks, looked) = mpsc::channel();
        let sleeper = signal.clone();
        thread::spawn(move || {
            let mut left = [Duration::MAX, Duration::ZERO].into_iter();
            let notified = sleeper.wait(Duration::MAX, || {
                looks.send(None).unwrap();
                left.next().unwrap()
            });
            looks.send(Some(notified)).unwrap();
        });
        let next = || looked.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next(), None);
        // It looks under the lock that a nudge takes: so it sleeps by then.
        signal.nudge();
        assert_eq!((next(), next()), (None, Some(false)));
        assert!(!signal.take());
    }
}
