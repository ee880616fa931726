//! The system's clock that goes on while the machine is suspended.

use crate::time::instant::Time;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn now() -> Time {
    use rustix::time::{ClockId, clock_gettime};
    from_timespec(clock_gettime(ClockId::Boottime))
}

#[cfg(target_vendor = "apple")]
pub(super) fn now() -> Time {
    use rustix::time::{ClockId, clock_gettime};
    from_timespec(clock_gettime(ClockId::Monotonic))
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn from_timespec(time: rustix::time::Timespec) -> Time {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The larger of the two elapsed times. A suspend that stops `Instant` shows in the wall clock; a
/// wall clock that is set forward ends leases early, which is the safe side. The result never
/// decreases.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub(super) fn now() -> Time {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant, SystemTime};

    static START: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    static LATEST: AtomicU64 = AtomicU64::new(0);

    let (instant, wall) = *START.get_or_init(|| (Instant::now(), SystemTime::now()));
    let passed = instant
        .elapsed()
        .max(wall.elapsed().unwrap_or(Duration::ZERO));
    let now = Time::from_nanos(1_000_000_000)
        .saturating_add(passed)
        .as_nanos();
    Time::from_nanos(LATEST.fetch_max(now, Ordering::SeqCst).max(now))
}
