//! The clock that leases are measured on, and a fake one for tests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Signal, Time};

/// How long a sleeper trusts the condition variable before it looks at its clock again. A monotonic wait stops
/// while the machine sleeps, the lease does not.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a [`Store`](crate::Store) takes the time from.
///
/// [`Clock::BOOTTIME`], the default, goes on while the machine is suspended: a lease that ended during the
/// sleep is over when the process wakes. (`std::time::Instant` would stop.) On Linux it is `CLOCK_BOOTTIME`, on
/// Apple systems `CLOCK_MONOTONIC`, which counts sleep there; elsewhere the larger of what
/// `Instant` and `SystemTime` say has passed.
///
/// Tests take one from a [`FakeClock`].
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Boottime,
    Fake(Arc<Fake>),
}

impl Clock {
    /// The system's clock that does not stop in suspend.
    pub const BOOTTIME: Clock = Clock(Source::Boottime);

    /// The present instant.
    pub fn now(&self) -> Time {
        match &self.0 {
            Source::Boottime => system::now(),
            Source::Fake(fake) => fake.now(),
        }
    }

    /// Sleeps until `signal` is notified or `until` has come; whether it was notified. The notification is consumed.
    pub fn park(&self, signal: &Signal, until: Time) -> bool {
        match &self.0 {
            Source::Fake(fake) if fake.jumps => fake.jump(signal, until),
            _ => self.stand_by(signal, until),
        }
    }

    /// As [`park`](Self::park), for threads whose sleep does not make time pass.
    pub(crate) fn stand_by(&self, signal: &Signal, until: Time) -> bool {
        match &self.0 {
            Source::Boottime if until == Time::MAX => signal.wait(Duration::MAX, || Duration::MAX),
            Source::Boottime => signal.wait(LOOK_AGAIN, || system::now().until(until)),
            Source::Fake(fake) => fake.stand_by(signal, until),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::BOOTTIME
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Boottime => "Clock::BOOTTIME",
            Source::Fake(_) => "Clock(fake)",
        })
    }
}

/// A clock that stands still until it is told to move.
///
/// ```
/// use dlock_core::FakeClock;
/// use std::time::Duration;
///
/// let fake = FakeClock::new();
/// let clock = fake.clock();
/// let start = clock.now();
/// fake.advance(Duration::from_secs(3600));
/// assert_eq!(start.until(clock.now()), Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug)]
pub struct FakeClock(Arc<Fake>);

#[derive(Debug)]
struct Fake {
    now: AtomicU64,
    jumps: bool,
    parked: Mutex<Vec<Signal>>,
}

impl FakeClock {
    /// A clock that only [`advance`](Self::advance) moves: sleepers sleep until somebody does.
    pub fn new() -> Self {
        Self::starting(false)
    }

    /// A clock that a sleep moves: [`Clock::park`] jumps to its end at once. For runs of one thread through hours of
    /// virtual time, such as a wait for a lock. The threads that renew leases do not move it, nor keep pace with it.
    pub fn jumping() -> Self {
        Self::starting(true)
    }

    fn starting(jumps: bool) -> Self {
        // Not zero, so that "a second ago" exists from the start.
        let start = Duration::from_secs(1_000_000).as_nanos();
        FakeClock(Arc::new(Fake {
            now: AtomicU64::new(u64::try_from(start).unwrap_or(u64::MAX)),
            jumps,
            parked: Mutex::new(Vec::new()),
        }))
    }

    /// The clock to give to a store.
    pub fn clock(&self) -> Clock {
        Clock(Source::Fake(Arc::clone(&self.0)))
    }

    /// Moves the clock forward and wakes the sleepers whose time has come.
    pub fn advance(&self, by: Duration) {
        self.0.move_to(self.0.now().saturating_add(by));
    }
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::SeqCst))
    }

    fn move_to(&self, to: Time) {
        self.now.fetch_max(to.as_nanos(), Ordering::SeqCst);
        let parked = self
            .parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for signal in parked {
            signal.nudge();
        }
    }

    fn jump(&self, signal: &Signal, until: Time) -> bool {
        if signal.take() {
            return true;
        }
        self.move_to(until);
        false
    }

    fn stand_by(&self, signal: &Signal, until: Time) -> bool {
        self.parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(signal.clone());
        let notified = signal.wait(Duration::MAX, || self.now().until(until));
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = parked.iter().position(|other| other.is(signal)) {
            parked.swap_remove(place);
        }
        notified
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use rustix::time::{ClockId, clock_gettime};

    pub(super) fn now() -> crate::Time {
        super::from_timespec(clock_gettime(ClockId::Boottime))
    }
}

#[cfg(target_vendor = "apple")]
mod system {
    use rustix::time::{ClockId, clock_gettime};

    pub(super) fn now() -> crate::Time {
        super::from_timespec(clock_gettime(ClockId::Monotonic))
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn from_timespec(time: rustix::time::Timespec) -> Time {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod system {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant, SystemTime};

    use crate::Time;

    static START: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    static LATEST: AtomicU64 = AtomicU64::new(0);

    /// The larger of the two differences: a suspend that stops `Instant` shows in the wall clock, and a wall
    /// clock that is set forward ends leases early, which is the safe side. It never goes back.
    pub(super) fn now() -> Time {
        let (instant, wall) = *START.get_or_init(|| (Instant::now(), SystemTime::now()));
        let passed = instant
            .elapsed()
            .max(wall.elapsed().unwrap_or(Duration::ZERO));
        let now = Time::from_nanos(1_000_000_000)
            .saturating_add(passed)
            .as_nanos();
        Time::from_nanos(LATEST.fetch_max(now, Ordering::SeqCst).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_notification_before_the_sleep_is_not_lost() {
        let clock = FakeClock::new().clock();
        let signal = Signal::new();
        signal.notify();
        assert!(clock.park(&signal, Time::MAX));
        assert!(!signal.take(), "park consumes the notification");
    }

    #[test]
    fn advancing_wakes_only_when_the_time_has_come() {
        let fake = FakeClock::new();
        let clock = fake.clock();
        let until = clock.now().saturating_add(Duration::from_secs(10));
        let sleeper = thread::spawn({
            let clock = clock.clone();
            move || {
                let woken = clock.park(&Signal::new(), until);
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
    fn a_clock_that_is_advanced_by_hand_stands_while_somebody_sleeps() {
        let fake = FakeClock::new();
        let clock = fake.clock();
        let start = clock.now();
        let signal = Signal::new();
        let sleeper = thread::spawn({
            let (clock, signal) = (clock.clone(), signal.clone());
            move || clock.park(&signal, start.saturating_add(Duration::from_secs(10)))
        });
        while fake.0.parked.lock().unwrap().is_empty() {
            assert!(!sleeper.is_finished(), "it did not sleep");
            thread::yield_now();
        }
        assert_eq!(clock.now(), start);
        signal.notify();
        assert!(sleeper.join().unwrap());
        assert!(fake.0.parked.lock().unwrap().is_empty());
    }

    #[test]
    fn a_jumping_clock_sleeps_in_no_time() {
        let fake = FakeClock::jumping();
        let clock = fake.clock();
        let end = clock.now().saturating_add(Duration::from_secs(86_400));
        assert!(!clock.park(&Signal::new(), end));
        assert_eq!(clock.now(), end);
    }

    #[test]
    fn the_system_clock_runs_and_a_sleep_ends() {
        let start = Clock::BOOTTIME.now();
        let end = start.saturating_add(Duration::from_millis(20));
        assert!(!Clock::BOOTTIME.park(&Signal::new(), end));
        assert!(Clock::BOOTTIME.now() >= end);
    }
}
