//! The state that fake clocks share with the threads that sleep on them.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::time::instant::Time;
use crate::time::signal::Signal;

/// The most stops in one advance: more than the renewals of a default lease in a day.
const MAX_STOPS: usize = 10_000;
/// How long an advance waits, on the real clock, for a call to a store that does not return.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same after a first wait was in vain.
const NO_PATIENCE: Duration = Duration::from_millis(20);

thread_local! {
    /// Whether this thread renews leases.
    static KEEPS: Cell<bool> = const { Cell::new(false) };
}

/// An instant that moves only on demand, and the threads that sleep until one.
pub(crate) struct Fake {
    now: AtomicU64,
    jumps: bool,
    threads: Mutex<Threads>,
    changed: Condvar,
}

#[derive(Default)]
struct Threads {
    asleep: Vec<Asleep>,
    /// The number of threads that renew leases.
    enlisted: usize,
    /// How many of those advance the clock themselves, inside a call to a store.
    advancing: usize,
    /// Grows with each change, to tell slow progress from none.
    changes: u64,
}

struct Asleep {
    signal: Signal,
    until: Time,
    keeps: bool,
}

impl Fake {
    /// A clock that [`advance`](Self::advance) moves, or each sleep if it `jumps`.
    pub(crate) fn new(jumps: bool) -> Self {
        // Not zero, so that tests can subtract from the first instant.
        let start = Duration::from_secs(1_000_000).as_nanos();
        Fake {
            now: AtomicU64::new(u64::try_from(start).unwrap_or(u64::MAX)),
            jumps,
            threads: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::SeqCst))
    }

    pub(crate) fn jumps(&self) -> bool {
        self.jumps
    }

    pub(crate) fn advance(&self, by: Duration) {
        // Stay before `Time::MAX`, which stands for "never": a sleep until then must not end.
        let last = Time::MAX.saturating_sub(Duration::from_nanos(1));
        let target = self.now().saturating_add(by).min(last);
        let keeps = KEEPS.get();
        if keeps {
            let mut threads = self.threads();
            threads.advancing += 1;
            threads.changes += 1;
            drop(threads);
            self.changed.notify_all();
        }
        let mut patience = PATIENCE;
        for _ in 0..MAX_STOPS {
            let next = self.next_stop(keeps, &mut patience);
            if next >= target {
                break;
            }
            self.move_to(next);
        }
        self.move_to(target);
        self.next_stop(keeps, &mut patience);
        if keeps {
            self.threads().advancing -= 1;
        }
    }

    /// Waits until the threads that renew leases have nothing to do at the present instant. Returns
    /// the next instant at which they have.
    fn next_stop(&self, keeps: bool, patience: &mut Duration) -> Time {
        let mut start = Instant::now();
        let mut threads = self.threads();
        let mut changes = threads.changes;
        loop {
            if std::mem::replace(&mut changes, threads.changes) != threads.changes {
                start = Instant::now();
            }
            let now = self.now();
            let idle = threads.asleep.iter().filter(|asleep| {
                asleep.keeps && asleep.until > now && !asleep.signal.is_notified()
            });
            // Two threads that advance the clock do not wait for each other.
            let advancing = if keeps { threads.advancing } else { 0 };
            let quiet = idle.count() + advancing >= threads.enlisted;
            let left = patience.saturating_sub(start.elapsed());
            if quiet || left.is_zero() {
                if !quiet {
                    *patience = NO_PATIENCE;
                }
                let sleepers = threads.asleep.iter().filter(|asleep| asleep.keeps);
                let times = sleepers.map(|asleep| asleep.until);
                return times
                    .filter(|until| *until > now)
                    .min()
                    .unwrap_or(Time::MAX);
            }
            // A notification of a signal changes the answer too, but does not wake this thread.
            let woken = self
                .changed
                .wait_timeout(threads, left.min(Duration::from_millis(5)));
            threads = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn move_to(&self, to: Time) {
        self.now.fetch_max(to.as_nanos(), Ordering::SeqCst);
        let asleep: Vec<Signal> = {
            let mut threads = self.threads();
            threads.changes += 1;
            let due = threads.asleep.iter().filter(|asleep| asleep.until <= to);
            due.map(|asleep| asleep.signal.clone()).collect()
        };
        for signal in asleep {
            signal.nudge();
        }
    }

    pub(crate) fn jump(&self, signal: &Signal, until: Time) -> bool {
        if signal.take() {
            return true;
        }
        self.move_to(until);
        false
    }

    pub(crate) fn sleep_until_realtime(&self, signal: &Signal, until: Time) -> bool {
        let asleep = self.fall_asleep(signal, until, KEEPS.get());
        // The thread counts as asleep until it is removed, so consume the notification only after
        // that.
        let notified = signal.wait_keeping(|| self.now().until(until));
        drop(asleep);
        if notified {
            signal.take();
        }
        notified
    }

    /// Registers a sleeper until the result is dropped.
    fn fall_asleep(&self, signal: &Signal, until: Time, keeps: bool) -> Sleeper<'_> {
        let signal = signal.clone();
        let mut threads = self.threads();
        threads.changes += 1;
        threads.asleep.push(Asleep {
            signal: signal.clone(),
            until,
            keeps,
        });
        drop(threads);
        self.changed.notify_all();
        Sleeper { fake: self, signal }
    }

    /// Registers the task that renews leases as asleep on `signal` until the result is dropped.
    #[cfg(feature = "tokio")]
    pub(crate) fn renewal_sleeps(&self, signal: &Signal) -> Sleeper<'_> {
        self.fall_asleep(signal, Time::MAX, true)
    }

    #[cfg(test)]
    pub(crate) fn has_no_sleepers(&self) -> bool {
        self.threads().asleep.is_empty()
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sleeper that is registered with its clock.
pub(crate) struct Sleeper<'a> {
    fake: &'a Fake,
    signal: Signal,
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut threads = self.fake.threads();
        let this = |asleep: &Asleep| asleep.signal.is(&self.signal);
        let left = threads.asleep.iter().position(this);
        let left = left.map(|place| threads.asleep.swap_remove(place));
        drop(threads);
        drop(left);
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake")
            .field("now", &self.now())
            .field("jumps", &self.jumps)
            .finish_non_exhaustive()
    }
}

/// The registration of a thread that renews leases, from before its start to its end.
pub(crate) struct Enlisted(Option<Arc<Fake>>);

impl Enlisted {
    pub(crate) fn none() -> Self {
        Enlisted(None)
    }

    pub(crate) fn of(fake: &Arc<Fake>) -> Self {
        fake.threads().enlisted += 1;
        Enlisted(Some(Arc::clone(fake)))
    }

    /// Makes the calling thread one that renews leases.
    #[cfg(feature = "tokio")]
    pub(crate) fn mark_thread() {
        KEEPS.set(true);
    }

    /// Runs the thread.
    pub(crate) fn run(self, thread: impl FnOnce()) {
        KEEPS.set(true);
        thread();
    }
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        if let Some(fake) = &self.0 {
            fake.threads().enlisted -= 1;
            fake.changed.notify_all();
        }
    }
}
