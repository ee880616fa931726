//! Sleeps that a suspended machine does not make longer.
//!
//! A condition variable stops counting while the machine is suspended; a lease goes on. So of all
//! threads that sleep for long, one wakes each second and compares the two clocks. If they have
//! moved apart it wakes the others, which read their clock again. A process with a thousand waiters
//! has one such wake-up a second, as one with a single waiter.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dlock_process::ProcessId;

use crate::time::instant::Time;
use crate::time::signal::Signal;
use crate::time::system;

/// How often the clocks are compared. A sleep that is not longer needs no comparison.
const EVERY: Duration = Duration::from_secs(1);
/// How far the clocks may be apart unnoticed.
const UNNOTICED: Duration = Duration::from_millis(100);
/// How long two readings may take to count as readings of one moment, and how often that is tried.
const ONE_MOMENT: Duration = Duration::from_millis(10);
const TRIES: usize = 8;

/// Waits until `signal` is notified, which it consumes, or until `until` on the clock of the
/// system. Returns whether it was notified.
pub(super) fn sleep_until(signal: &Signal, until: Time) -> bool {
    static SLEEPERS: OnceLock<(ProcessId, Sleepers)> = OnceLock::new();
    let start = || (ProcessId::current(), Sleepers::new(EVERY, Clocks::SYSTEM));
    let (process, sleepers) = SLEEPERS.get_or_init(start);
    if system::now().until(until) <= EVERY || *process != ProcessId::current() {
        // In a forked child the list is its parent's, and each thread looks for itself.
        return signal.wait(EVERY, || system::now().until(until));
    }
    sleepers.sleep_until(signal, until)
}

/// The clock of leases, and one that stops while the machine is suspended.
struct Clocks {
    lease: fn() -> Time,
    awake: fn() -> Duration,
}

impl Clocks {
    const SYSTEM: Clocks = Clocks {
        lease: system::now,
        awake: || {
            static START: OnceLock<Instant> = OnceLock::new();
            START.get_or_init(Instant::now).elapsed()
        },
    };

    /// How far the first is ahead of the second, if a thread is given the time to read both.
    fn apart(&self) -> Option<Time> {
        (0..TRIES).find_map(|_| {
            let (before, lease, after) = ((self.awake)(), (self.lease)(), (self.awake)());
            (after.saturating_sub(before) < ONE_MOMENT).then(|| lease.saturating_sub(after))
        })
    }
}

/// The threads that sleep for long.
struct Sleepers {
    every: Duration,
    clocks: Clocks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    asleep: BTreeMap<u64, Arc<Sleeper>>,
    /// How far the clocks were apart when the sleepers last read theirs.
    apart: Option<Time>,
}

struct Sleeper {
    signal: Signal,
    /// Whether it is the one that wakes to compare the clocks.
    compares: AtomicBool,
}

impl Sleepers {
    fn new(every: Duration, clocks: Clocks) -> Self {
        Sleepers {
            every,
            clocks,
            state: Mutex::default(),
        }
    }

    fn sleep_until(&self, signal: &Signal, until: Time) -> bool {
        let asleep = self.enter(signal);
        loop {
            // Both are read under the lock of the signal, which a nudge takes: it comes before
            // they are read, or wakes the sleep.
            let mut is_over = false;
            let time_left = || {
                if std::mem::replace(&mut is_over, true) {
                    return Duration::ZERO;
                }
                let left = (self.clocks.lease)().until(until);
                match asleep.sleeper.compares.load(Ordering::SeqCst) {
                    true => left.min(self.every),
                    false => left,
                }
            };
            if signal.wait(Duration::MAX, time_left) {
                return true;
            }
            if (self.clocks.lease)() >= until {
                return signal.take();
            }
            if asleep.sleeper.compares.load(Ordering::SeqCst) {
                self.compare();
            }
        }
    }

    fn enter(&self, signal: &Signal) -> Asleep<'_> {
        let mut state = self.state();
        if state.asleep.is_empty() {
            // Nobody has compared for a while.
            state.apart = self.clocks.apart();
        }
        let sleeper = Arc::new(Sleeper {
            signal: signal.clone(),
            compares: AtomicBool::new(state.asleep.is_empty()),
        });
        state.last += 1;
        let number = state.last;
        state.asleep.insert(number, Arc::clone(&sleeper));
        Asleep {
            sleepers: self,
            sleeper,
            number,
        }
    }

    /// Wakes all sleepers if the machine was suspended.
    fn compare(&self) {
        let Some(apart) = self.clocks.apart() else {
            return;
        };
        let mut state = self.state();
        let before = *state.apart.get_or_insert(apart);
        if before.until(apart) <= UNNOTICED {
            return;
        }
        state.apart = Some(apart);
        let asleep: Vec<_> = state.asleep.values().cloned().collect();
        drop(state);
        for sleeper in asleep {
            sleeper.signal.nudge();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that sleeps, until this is dropped.
struct Asleep<'a> {
    sleepers: &'a Sleepers,
    sleeper: Arc<Sleeper>,
    number: u64,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        let mut state = self.sleepers.state();
        state.asleep.remove(&self.number);
        let next = match self.sleeper.compares.load(Ordering::SeqCst) {
            true => state.asleep.values().next().cloned(),
            false => None,
        };
        if let Some(next) = &next {
            next.compares.store(true, Ordering::SeqCst);
        }
        drop(state);
        if let Some(next) = next {
            next.signal.nudge();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    const LONG: Duration = Duration::from_secs(30);

    /// Counts as seconds for which the machine was suspended.
    static SUSPENDED: AtomicU64 = AtomicU64::new(0);

    fn lease() -> Time {
        let suspended = Duration::from_secs(SUSPENDED.load(Ordering::SeqCst));
        system::now().saturating_add(suspended)
    }

    fn eventually(what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + LONG;
        while !is() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn comparing(sleepers: &Sleepers) -> usize {
        let state = sleepers.state();
        let compares = |sleeper: &&Arc<Sleeper>| sleeper.compares.load(Ordering::SeqCst);
        state.asleep.values().filter(compares).count()
    }

    #[test]
    fn one_of_the_sleepers_compares_the_clocks_and_a_suspension_ends_the_sleep_of_all() {
        let clocks = Clocks {
            lease,
            ..Clocks::SYSTEM
        };
        let sleepers = Sleepers::new(Duration::from_millis(20), clocks);
        let signals: Vec<_> = (0..5).map(|_| Signal::new()).collect();
        let hour = lease().saturating_add(Duration::from_secs(3600));
        thread::scope(|scope| {
            let sleepers = &sleepers;
            let asleep = |count| {
                eventually("they sleep", || sleepers.state().asleep.len() == count);
                assert_eq!(comparing(sleepers), 1);
            };
            let mut threads = Vec::new();
            for (count, signal) in signals.iter().enumerate() {
                threads.push(scope.spawn(move || sleepers.sleep_until(signal, hour)));
                asleep(count + 1);
            }
            // The first is the one that compares: another takes its place.
            for (count, signal) in [(4, &signals[0]), (3, &signals[1])] {
                signal.notify();
                assert!(threads.remove(0).join().unwrap(), "it was notified");
                asleep(count);
            }
            let apart = || sleepers.state().apart.unwrap();
            let before = apart();
            SUSPENDED.store(1800, Ordering::SeqCst);
            let is_noticed = || before.until(apart()) > Duration::from_secs(1700);
            eventually("the suspension is noticed", is_noticed);
            asleep(3);
            SUSPENDED.store(3600, Ordering::SeqCst);
            for thread in threads {
                assert!(!thread.join().unwrap(), "its time is over");
            }
        });
        assert!(sleepers.state().asleep.is_empty());
        assert!(signals.iter().all(|signal| !signal.take()));
    }

    #[test]
    fn a_long_sleep_on_the_clock_of_the_system_is_notified_and_ends() {
        let hour = system::now().saturating_add(Duration::from_secs(3600));
        let signal = Signal::new();
        signal.notify();
        assert!(sleep_until(&signal, hour) && !signal.take());
        let end = system::now().saturating_add(EVERY + Duration::from_millis(300));
        assert!(!sleep_until(&signal, end));
        assert!(system::now() >= end);
    }
}
