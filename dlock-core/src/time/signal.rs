//! A sticky wake-up.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::time::user_code::contained;

/// A wake-up that is not lost if it comes before the waiter sleeps.
///
/// A store that can wake waiters receives one in [`Datastore::watch`](crate::Datastore::watch) and
/// calls [`notify`](Signal::notify), from any thread, when the key may be free. The waiter sleeps
/// on it in [`Clock::sleep_until`](crate::Clock::sleep_until), which consumes the notification.
/// Clones are the same signal.
#[derive(Clone, Default)]
pub struct Signal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    notified: bool,
    /// The waiter, if it is a task.
    waker: Option<Waker>,
}

impl Signal {
    /// A signal that has not been notified.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiter, or lets its next wait return at once. Never blocks.
    pub fn notify(&self) {
        self.wake(true);
    }

    /// Consumes a notification without waiting. Returns whether there was one.
    pub fn take(&self) -> bool {
        std::mem::take(&mut self.lock().notified)
    }

    /// Wakes the waiter so that it reads its clock again, and leaves no notification behind.
    pub(crate) fn nudge(&self) {
        self.wake(false);
    }

    fn wake(&self, notify: bool) {
        let mut state = self.lock();
        state.notified |= notify;
        let waker = state.waker.take();
        drop(state);
        self.0.changed.notify_all();
        // Outside of the lock: a waker may run any code.
        if let Some(waker) = waker {
            contained(|| waker.wake());
        }
    }

    /// Returns whether it is notified, without consuming that. If not, the next notification or
    /// nudge wakes `waker`. A signal has one such waker, the last that it was given.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_notified_or_wakes(&self, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut state = self.lock();
        let (notified, before) = (state.notified, state.waker.replace(waker));
        drop(state);
        drop(before);
        notified
    }

    /// Waits until notified, which it consumes, or until `time_left` is zero. Returns whether it
    /// was notified.
    ///
    /// It calls `time_left` again after every nudge and at least once per `recheck`, for clocks
    /// that do not run at the pace of the condition variable's own.
    pub(crate) fn wait(&self, recheck: Duration, time_left: impl FnMut() -> Duration) -> bool {
        self.wait_or_keep(false, recheck, time_left)
    }

    fn wait_or_keep(
        &self,
        keep: bool,
        recheck: Duration,
        mut time_left: impl FnMut() -> Duration,
    ) -> bool {
        let mut state = self.lock();
        loop {
            if state.notified {
                state.notified = keep;
                return true;
            }
            let left = time_left();
            if left.is_zero() {
                return false;
            }
            state = self
                .0
                .changed
                .wait_timeout(state, left.min(recheck))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// As [`wait`](Self::wait), but does not consume the notification.
    pub(crate) fn wait_keeping(&self, time_left: impl FnMut() -> Duration) -> bool {
        self.wait_or_keep(true, Duration::MAX, time_left)
    }

    /// Returns whether there is a notification that is not consumed.
    pub(crate) fn is_notified(&self) -> bool {
        self.lock().notified
    }

    /// Returns whether both are the same signal.
    pub(crate) fn is(&self, other: &Signal) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_nudged_waiter_reads_its_clock_again_and_is_not_notified() {
        let signal = Signal::new();
        let (reads, read) = mpsc::channel();
        let sleeper = signal.clone();
        thread::spawn(move || {
            let mut left = [Duration::MAX, Duration::ZERO].into_iter();
            let notified = sleeper.wait(Duration::MAX, || {
                reads.send(None).unwrap();
                left.next().unwrap()
            });
            reads.send(Some(notified)).unwrap();
        });
        let next = || read.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next(), None);
        // The waiter reads its clock under the lock that a nudge takes, so it sleeps when the nudge
        // comes.
        signal.nudge();
        assert_eq!((next(), next()), (None, Some(false)));
        assert!(!signal.take());
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn a_task_is_woken_once_by_a_notification_and_by_a_nudge() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::{Wake, Waker};

        /// Reads the signal when it is woken: nothing may be locked then.
        struct Woken(AtomicUsize, Signal);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                let notified = usize::from(self.1.is_notified());
                self.0.fetch_add(1 + 10 * notified, Ordering::SeqCst);
            }
        }

        let signal = Signal::new();
        let woken = Arc::new(Woken(AtomicUsize::new(0), signal.clone()));
        let waker = Waker::from(Arc::clone(&woken));
        let count = || woken.0.load(Ordering::SeqCst);
        assert!(!signal.is_notified_or_wakes(&waker));
        signal.nudge();
        assert_eq!((count(), signal.is_notified()), (1, false));
        signal.nudge();
        assert_eq!(count(), 1, "it was not given the waker again");
        assert!(!signal.is_notified_or_wakes(&waker));
        signal.notify();
        assert_eq!(count(), 12);
        assert!(signal.is_notified_or_wakes(&waker) && signal.take() && !signal.take());
    }
}
