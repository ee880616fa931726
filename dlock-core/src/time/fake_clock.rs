//! A clock for tests that moves only when a test moves it.

use std::sync::Arc;
use std::time::Duration;

use crate::time::clock::Clock;
use crate::time::fake::Fake;

/// A clock that stands still until a test moves it.
///
/// Give it to the datastore; the store takes its datastore's clock. To a store whose datastore has
/// no clock of its own give it with [`StoreBuilder::clock`](crate::StoreBuilder::clock).
///
/// ```
/// use dlock_core::{FakeClock, Lock, MemoryDatastore, Store};
/// use std::time::Duration;
///
/// let fake = FakeClock::new();
/// let memory = MemoryDatastore::with_clock(fake.clock());
/// let store = Store::new(memory);
/// let guard = Lock::new(&store, "job").try_acquire()?;
/// fake.advance(Duration::from_secs(3600));
/// assert!(guard.is_valid(), "it was renewed all the time");
/// # Ok::<(), dlock_core::AcquireError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FakeClock(Arc<Fake>);

impl FakeClock {
    /// A clock that only [`advance`](Self::advance) moves. Sleepers sleep until it does.
    pub fn new() -> Self {
        Self::starting(false)
    }

    /// A clock that each sleep moves: [`Clock::sleep_until`] jumps to the end of the sleep at once.
    /// It is for tests of one thread through hours of virtual time, such as a wait for a lock. The
    /// threads that renew leases neither move it nor keep pace with it.
    pub fn jumping() -> Self {
        Self::starting(true)
    }

    fn starting(jumps: bool) -> Self {
        FakeClock(Arc::new(Fake::new(jumps)))
    }

    /// The clock to pass to a store.
    pub fn clock(&self) -> Clock {
        Clock::fake(Arc::clone(&self.0))
    }

    /// Moves the clock forward by `by` and wakes the sleepers whose time has come.
    ///
    /// It stops at each instant at which a lease is due for a check, and goes on when the due
    /// renewal is done. So one long step renews as often as many short ones. When it returns, due
    /// renewals are done and losses are declared; callbacks may still run.
    ///
    /// It waits at most a few seconds of real time for a call to the store, and makes at most
    /// 10_000 stops.
    pub fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::instant::Time;
    use crate::time::signal::Signal;
    use std::thread;

    #[test]
    fn a_notification_before_the_sleep_is_not_lost() {
        let clock = FakeClock::new().clock();
        let signal = Signal::new();
        signal.notify();
        assert!(clock.sleep_until(&signal, Time::MAX));
        assert!(!signal.take(), "the sleep consumes the notification");
    }

    #[test]
    fn advancing_wakes_only_when_the_time_has_come() {
        let fake = FakeClock::new();
        let clock = fake.clock();
        let until = clock.now().saturating_add(Duration::from_secs(10));
        let sleeper = thread::spawn({
            let clock = clock.clone();
            move || {
                let woken = clock.sleep_until(&Signal::new(), until);
                (woken, clock.now())
            }
        });
        for _ in 0..10 {
            fake.advance(Duration::from_secs(1));
        }
        let (woken, at) = sleeper.join().unwrap();
        assert!(!woken && at >= until);
    }

    #[test]
    fn a_clock_that_does_not_jump_stands_still_while_a_thread_sleeps() {
        let fake = FakeClock::new();
        let clock = fake.clock();
        let start = clock.now();
        let signal = Signal::new();
        let sleeper = thread::spawn({
            let (clock, signal) = (clock.clone(), signal.clone());
            move || clock.sleep_until(&signal, start.saturating_add(Duration::from_secs(10)))
        });
        while fake.0.has_no_sleepers() {
            assert!(!sleeper.is_finished(), "it did not sleep");
            thread::yield_now();
        }
        assert_eq!(clock.now(), start);
        signal.notify();
        assert!(sleeper.join().unwrap());
        assert!(fake.0.has_no_sleepers());
    }

    #[test]
    fn a_sleep_on_a_jumping_clock_ends_at_once() {
        let fake = FakeClock::jumping();
        let clock = fake.clock();
        let end = clock.now().saturating_add(Duration::from_secs(86_400));
        assert!(!clock.sleep_until(&Signal::new(), end));
        assert_eq!(clock.now(), end);
    }
}
