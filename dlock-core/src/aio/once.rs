//! A job that is done once, in async code.

use std::sync::Arc;
use std::time::Duration;

use super::continued::{Continued, OnDrop, Output, not_acquired_here};
use super::guard::LockGuard;
use super::lock::{InStore, Lock};
use crate::acquire_error::AcquireError;
use crate::engine::hold::Caller;
use crate::engine::io::Io;
use crate::engine::run_once::{self, Begun, Mark, OnceOutcome};
use crate::named::Named;
use crate::observer::LockEvent;
use crate::time::instant::Time;
use crate::time::wait::{Cancel, Wait};

impl Lock {
    /// Runs `f` under the lock unless `job` was done before; if `f` succeeds the job counts as done
    /// for `keep`.
    ///
    /// The job runs at least once, and at most once unless a lease is lost while it runs or the
    /// process dies between the success of `f` and the mark. After an error or a panic of `f`, or
    /// when the future is dropped while it runs, the job is free to be run again. If the future is
    /// dropped after that, the mark is made in the background.
    ///
    /// ```
    /// use dlock_core::aio::Lock;
    /// use dlock_core::{MemoryDatastore, OnceOutcome};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
    /// let hour = "2026-11-24T19";
    /// let day = Duration::from_secs(86_400);
    /// let import = async || Ok::<_, std::io::Error>(42);
    ///
    /// let first = lock.once(hour, day, async |_| import().await).await??;
    /// assert_eq!(first, OnceOutcome::Ran(42));
    /// let second = lock.once(hour, day, async |_| import().await).await??;
    /// assert!(matches!(second, OnceOutcome::AlreadyDone { .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire), and [`AcquireError::Invalid`] for an empty job or a
    /// `keep` that the store cannot keep; `f` was not called then. The inner result is `f`'s.
    pub async fn once<T, E>(
        &self,
        job: &str,
        keep: Duration,
        f: impl AsyncFnOnce(&LockGuard) -> Result<T, E>,
    ) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
        self.once_with(&Wait::none(), job, keep, f).await
    }

    /// As [`once`](Self::once), waiting as `wait` says: for the lock, and for the end of a mark
    /// that a crash left.
    ///
    /// # Errors
    ///
    /// As [`once`](Self::once).
    pub async fn once_with<T, E>(
        &self,
        wait: &Wait,
        job: &str,
        keep: Duration,
        f: impl AsyncFnOnce(&LockGuard) -> Result<T, E>,
    ) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
        let store = self.store().characteristics();
        Named::check_job(job, keep, store)?;
        let deadline = wait.deadline(self.store().clock().now(), store.call_timeout);
        let guard = self.acquire_with(wait).await?;
        let job: Arc<str> = job.into();
        // From here on both guards are released on every path, the mark first.
        let (guard, running) = match self.begun(&job, guard, wait, deadline).await? {
            Begun::Running(guard, running) => (guard, running),
            Begun::AlreadyDone { since } => {
                let (key, job) = (self.key(), &*job);
                let done = LockEvent::AlreadyDone { key, job, since };
                self.store().report(&done);
                return Ok(Ok(OnceOutcome::AlreadyDone { since }));
            }
        };
        let result = f(&guard).await;
        let marked = self.finished(&job, running, keep, result.is_ok()).await;
        let _ = guard.end(Caller::Drops).await;
        Ok(result.map(|value| match marked {
            true => OnceOutcome::Ran(value),
            false => OnceOutcome::RanUnmarked(value),
        }))
    }

    /// Claims the mark of the job.
    fn begun(
        &self,
        job: &Arc<str>,
        guard: LockGuard,
        wait: &Wait,
        deadline: Time,
    ) -> Continued<Result<Begun<LockGuard>, AcquireError>> {
        let dropped = Cancel::new();
        let wait = wait.clone().ended_by_drop(&dropped);
        let (lock, job) = (Arc::clone(self.in_store()), Arc::clone(job));
        let flow = async move {
            let mark = lock.mark(&job);
            // What an earlier run that was dropped still does about the mark.
            lock.begin(&wait, mark.key()).await?;
            let begun = run_once::begin(&lock.store, &mark, guard, (&wait, deadline)).await?;
            match begun {
                Begun::Running(guard, running) if wait.was_dropped() => {
                    let _ = running.end_unused().await;
                    let _ = guard.end_unused().await;
                    Err(AcquireError::Cancelled)
                }
                begun => Ok(begun),
            }
        };
        let on_drop = OnDrop::Cancel {
            dropped,
            begun: false,
        };
        Continued::new(self.store(), &self.in_store().named.key, on_drop, flow)
    }

    /// Leaves the mark of a job that ran, or frees it.
    fn finished(
        &self,
        job: &Arc<str>,
        running: LockGuard,
        keep: Duration,
        succeeded: bool,
    ) -> Continued<bool> {
        let (lock, job) = (Arc::clone(self.in_store()), Arc::clone(job));
        let flow = async move {
            let mark = lock.mark(&job);
            run_once::finish(&lock.store, &mark, running, keep, succeeded).await
        };
        let on_drop = OnDrop::CarryOut { begun: false };
        Continued::new(self.store(), &self.in_store().named.key, on_drop, flow)
    }
}

impl InStore {
    fn mark(&self, job: &str) -> Mark<'_> {
        let named = &self.named;
        Mark::new(&named.id, job, &named.options, self.store.characteristics())
    }
}

impl Output for Result<Begun<LockGuard>, AcquireError> {
    fn of_another_process() -> Self {
        Err(not_acquired_here())
    }
}

/// Whether a job was marked as done.
impl Output for bool {
    fn of_another_process() -> Self {
        false
    }
}
