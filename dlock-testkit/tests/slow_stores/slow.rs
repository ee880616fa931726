//! The store in memory behind a long wire.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    Layer, Layered, Lease, MemoryDatastore, ReleaseOutcome, Signal, Time, Watch,
};

/// The store in memory behind the wire.
pub(crate) type SlowStore = Layered<MemoryDatastore, Slow>;

/// Makes each call take a fixed time: half of it before the store acts, half after.
pub(crate) struct Slow {
    way: Duration,
    ttl_min: Duration,
    /// How many calls are left that take no time.
    fast: AtomicU32,
}

impl Slow {
    pub(crate) fn by(latency: Duration) -> SlowStore {
        Self::over_memory(latency, Duration::ZERO, 0)
    }

    /// The same after this number of calls, which take no time.
    pub(crate) fn by_after(latency: Duration, calls: u32) -> SlowStore {
        Self::over_memory(latency, Duration::ZERO, calls)
    }

    /// A fast store that keeps no lease for less than ten seconds.
    pub(crate) fn for_ten_seconds_at_least() -> SlowStore {
        Self::over_memory(Duration::ZERO, Duration::from_secs(10), 0)
    }

    fn over_memory(latency: Duration, ttl_min: Duration, fast: u32) -> SlowStore {
        let slow = Slow {
            way: latency / 2,
            ttl_min,
            fast: AtomicU32::new(fast),
        };
        Layered::new(MemoryDatastore::new(), slow)
    }

    /// Carries out a call that takes its time, unless its end comes before.
    fn call<T>(
        &self,
        not_after: Time,
        act: impl FnOnce() -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        let one_less = |left: u32| left.checked_sub(1);
        let is_fast = self.fast.fetch_update(SeqCst, SeqCst, one_less).is_ok();
        if is_fast {
            return act();
        }
        self.travel(not_after, false)?;
        let answer = act()?;
        self.travel(not_after, true)?;
        Ok(answer)
    }

    fn travel(&self, not_after: Time, executed: bool) -> Result<(), DatastoreError> {
        let left = Clock::BOOTTIME.now().until(not_after);
        thread::sleep(left.min(self.way));
        if left > self.way || self.way.is_zero() {
            return Ok(());
        }
        // The request may be on its way still; here it never arrives.
        let error = DatastoreError::maybe_executed(ErrorKind::Timeout, "no answer in time");
        Err(error.with_execution(executed || !left.is_zero()))
    }
}

impl Layer for Slow {
    fn acquire(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics(store).check_ttl(ttl)?;
        self.call(claim.not_after(), || store.acquire(claim, ttl))
    }

    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        self.characteristics(store).check_ttl(ttl)?;
        self.call(lease.not_after(), || store.extend(lease, ttl))
    }

    fn release(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        self.call(lease.not_after(), || store.release(lease))
    }

    fn characteristics(&self, store: &dyn Datastore) -> Characteristics {
        let memory = store.characteristics();
        let (least, most) = (memory.ttl_min.max(self.ttl_min), memory.ttl_max);
        // Longer than a machine stalls, which a slow call is likely to meet.
        let patient = memory.with_call_timeout(Duration::from_secs(10));
        patient.with_ttl(least, most)
    }

    fn abandon(&self, store: &dyn Datastore, claim: &Claim) -> Result<(), DatastoreError> {
        self.call(claim.not_after(), || store.abandon(claim))
    }

    fn watch(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        self.call(claim.not_after(), || store.watch(claim, signal))
    }

    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        leases
            .iter()
            .map(|(lease, ttl)| self.extend(store, lease, *ttl))
            .collect()
    }

    fn confirm(&self, store: &dyn Datastore, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.call(lease.not_after(), || store.confirm(lease))
    }

    fn confirm_many(
        &self,
        store: &dyn Datastore,
        leases: &[Lease],
    ) -> Vec<Result<Extension, DatastoreError>> {
        leases
            .iter()
            .map(|lease| self.confirm(store, lease))
            .collect()
    }
}
