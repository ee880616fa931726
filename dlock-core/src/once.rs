//! A job that is done once.
//!
//! Each job has a mark: a second key beside the lock's. The mark is claimed and renewed together
//! with the lock, and described as "running". When the job is done, the mark stays in the store for
//! as long as the caller says, described as "done since". A process that acquires the lock and
//! finds such a mark does not run the job. If it finds a "running" mark, an earlier run has
//! crashed; that mark ends by itself.

use std::time::Duration;

use crate::acquire_error::AcquireError;
use crate::engine::io::Io;
use crate::engine::run_once::{self, Mark, OnceOutcome};
use crate::guard::LockGuard;
use crate::lock::Lock;
use crate::named::Named;
use crate::observer::LockEvent;
use crate::store::at_once;
use crate::time::wait::Wait;

impl Lock {
    /// Runs `f` under the lock unless `job` was done before. If `f` succeeds, the job counts as
    /// done for `keep`.
    ///
    /// The job runs exactly once, with two exceptions: it may run again if a lease is lost while it
    /// runs, or if the process dies after `f` has succeeded and before the job is marked. After an
    /// error or a panic of `f` the job may be run again.
    ///
    /// ```
    /// use dlock_core::{Lock, MemoryDatastore, OnceOutcome};
    /// use std::time::Duration;
    ///
    /// let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
    /// let hour = "2026-11-24T19";
    /// let day = Duration::from_secs(86_400);
    /// let import = || Ok::<_, std::io::Error>(42);
    ///
    /// assert_eq!(lock.once(hour, day, |_| import())??, OnceOutcome::Ran(42));
    /// assert!(matches!(lock.once(hour, day, |_| import())??, OnceOutcome::AlreadyDone { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire), and [`AcquireError::Invalid`] for an empty `job` or a
    /// `keep` that the store cannot keep. In these cases `f` was not called. The inner result is
    /// `f`'s.
    pub fn once<T, E>(
        &self,
        job: &str,
        keep: Duration,
        f: impl FnOnce(&LockGuard) -> Result<T, E>,
    ) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
        self.once_with(&Wait::none(), job, keep, f)
    }

    /// As [`once`](Self::once), waiting as `wait` says: for the lock, and for the end of a mark
    /// that a crashed run has left.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once).
    pub fn once_with<T, E>(
        &self,
        wait: &Wait,
        job: &str,
        keep: Duration,
        f: impl FnOnce(&LockGuard) -> Result<T, E>,
    ) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
        let store = self.store.characteristics();
        Named::check_job(job, keep, store)?;
        let deadline = wait.deadline(self.store.clock().now(), store.call_timeout);
        let guard = self.acquire_until(wait, deadline)?;
        let mark = Mark::new(self.id(), job, self.options(), store);
        let (store, wait) = (&self.store, (wait, deadline));
        let run = async |guard: &LockGuard| f(guard);
        let outcome = at_once(run_once::run(store, &mark, guard, wait, keep, run))?;
        if let Ok(OnceOutcome::AlreadyDone { since }) = outcome {
            let key = self.key();
            self.store
                .report(&LockEvent::AlreadyDone { key, job, since });
        }
        Ok(outcome)
    }

    /// The key of the mark that says that `job` was done, see [`once`](Self::once). Operators look
    /// at it, and free it so that the job runs again, by [`Inspect`](crate::Inspect).
    pub fn once_key(&self, job: &str) -> String {
        self.named.once_key(job, self.store.characteristics())
    }
}
