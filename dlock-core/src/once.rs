//! A job that is done once.
//!
//! Beside the lock there is a mark, a key of its own, claimed and renewed with the lock and described as "running". When the
//! job is done the mark is left in the store for as long as the caller says, described as "done since". Whoever acquires the
//! lock and finds such a mark does not run the job. A "running" mark that is met under the lock is what a crash left: it ends by itself.

use std::process;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::drive::{self, Request, Won};
use crate::holder::Phase;
use crate::options::{OptionsError, between};
use crate::terms::Terms;
use crate::{
    AcquireError, DatastoreError, ErrorKind, Lock, LockGuard, LockOptions, Time, Wait, key,
};

/// What became of a job that is to be done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Once<T> {
    /// It ran, and is marked as done.
    Ran(T),
    /// It ran, and could not be marked: it may run again.
    RanUnmarked(T),
    /// Somebody did it before.
    AlreadyDone {
        /// When it was done, by the wall clock of the host that did it.
        since: SystemTime,
    },
}

impl Lock {
    /// Runs `f` under the lock unless `job` was done before; if `f` succeeds the job counts as done for `keep`.
    ///
    /// The job runs at least once, and at most once unless a lease is lost while it runs or the process dies between the success of `f` and
    /// the mark. After an error or a panic of `f` the job is free to be run again.
    ///
    /// ```
    /// use dlock_core::{Lock, MemoryDatastore, Once};
    /// use std::time::Duration;
    ///
    /// let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
    /// let hour = "2026-11-24T19";
    /// let day = Duration::from_secs(86_400);
    /// let import = || Ok::<_, std::io::Error>(42);
    ///
    /// assert_eq!(lock.once(hour, day, |_| import())??, Once::Ran(42));
    /// assert!(matches!(lock.once(hour, day, |_| import())??, Once::AlreadyDone { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire), and [`AcquireError::Invalid`] for an empty job or a `keep` that the store cannot keep; `f` was not
    /// called then. The inner result is `f`'s.
    pub fn once<T, E>(
        &self,
        job: &str,
        keep: Duration,
        f: impl FnOnce(&LockGuard) -> Result<T, E>,
    ) -> Result<Result<Once<T>, E>, AcquireError> {
        self.once_with(&Wait::none(), job, keep, f)
    }

    /// As [`once`](Self::once), waiting as `wait` says: for the lock, and for the end of a mark that a crash left.
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
    ) -> Result<Result<Once<T>, E>, AcquireError> {
        let store = self.store.characteristics();
        between("keep", keep, store.ttl_min, store.ttl_max)?;
        if job.is_empty() {
            return Err(OptionsError::Empty { what: "the job" }.into());
        }
        let deadline = wait.deadline(self.store.clock().now(), store.call_timeout);
        let guard = self.acquire_until(wait, deadline)?;
        let mark = Mark::of(self, job);
        let running = match mark.begin(wait, deadline) {
            Ok(running) if guard.is_valid() => running,
            Ok(running) => {
                running.release_unused();
                guard.release_unused();
                return Err(lost_while_waiting().into());
            }
            Err(AcquireError::Held(held)) if held.holder().is_some_and(crate::Holder::is_done) => {
                guard.release_unused();
                let since = held
                    .holder()
                    .map_or(SystemTime::UNIX_EPOCH, crate::Holder::since);
                return Ok(Ok(Once::AlreadyDone { since }));
            }
            Err(error) => {
                guard.release_unused();
                return Err(error);
            }
        };
        // From here on both guards release on every way out: the mark first.
        match f(&guard) {
            Ok(value) => {
                let marked = mark.finish(running, keep);
                Ok(Ok(if marked {
                    Once::Ran(value)
                } else {
                    Once::RanUnmarked(value)
                }))
            }
            Err(error) => {
                drop(running);
                Ok(Err(error))
            }
        }
    }
}

/// The mark of one job under one lock.
struct Mark<'a> {
    lock: &'a Lock,
    key: Arc<str>,
    terms: Terms,
}

impl<'a> Mark<'a> {
    fn of(lock: &'a Lock, job: &str) -> Self {
        let options = lock.options();
        let max_key = lock.store.characteristics().max_key;
        let key = key::once_key(&options.key_prefix, lock.id(), job, max_key).into();
        // It lives as long as the job runs: the lock's own limits are not for it.
        let options = LockOptions {
            min_hold: None,
            max_hold: None,
            ..options.clone()
        };
        Mark {
            lock,
            key,
            terms: Terms::new(&options, lock.store.characteristics()),
        }
    }

    /// Claims the mark as "running".
    fn begin(&self, wait: &Wait, deadline: Time) -> Result<LockGuard, AcquireError> {
        // Whoever got the lock at the last moment shall still be told about the mark.
        let least = self
            .lock
            .store
            .clock()
            .now()
            .saturating_add(self.terms.call_timeout / 10);
        let won = self.claim(self.terms.ttl, Phase::Running, wait, deadline.max(least))?;
        Ok(LockGuard::keep(&self.lock.store, won, self.terms.clone())?)
    }

    /// Leaves the mark as "done" for `keep`; whether that worked.
    fn finish(&self, running: LockGuard, keep: Duration) -> bool {
        if running
            .leave(keep, self.lock.holder(process::id(), Phase::Done))
            .is_ok()
        {
            return true;
        }
        // Its lease was lost, or the store could not be told: one fresh claim.
        let wait = Wait::none();
        let deadline = wait.deadline(self.lock.store.clock().now(), self.terms.call_timeout);
        match self.claim(keep, Phase::Done, &wait, deadline) {
            Ok(_) => true,
            // The answer was lost, not the mark.
            Err(AcquireError::Held(held)) => held.holder().is_some_and(crate::Holder::is_done),
            Err(_) => false,
        }
    }

    fn claim(
        &self,
        ttl: Duration,
        phase: Phase,
        wait: &Wait,
        deadline: Time,
    ) -> Result<Won, AcquireError> {
        let pid = process::id();
        let request = Request {
            pid,
            key: &self.key,
            ttl,
            holder: self.lock.holder(pid, phase).into(),
            retry: self.lock.options().retry,
            until_done: true,
        };
        drive::acquire(&self.lock.store, &request, wait, deadline)
    }
}

fn lost_while_waiting() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Timeout,
        "the lock was lost while the mark of an earlier, crashed run was waited for",
    )
}
