//! The run-once flow: claims the mark of a job under the lock, and leaves it when the job is done.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::acquire_error::AcquireError;
use crate::contract::characteristics::Characteristics;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::holder::{Holder, Phase};
use crate::contract::key;
use crate::contract::outcome::HeldBy;
use crate::engine::acquire::{self, Request, Won};
use crate::engine::hold::Holding;
use crate::engine::hold::{Caller, End};
use crate::engine::io::Io;
use crate::engine::lease_policy::LeasePolicy;
use crate::options::LockOptions;
use crate::time::instant::Time;
use crate::time::wait::Wait;

/// The outcome of a job that is to run once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnceOutcome<T> {
    /// It ran, and is marked as done.
    Ran(T),
    /// It ran, but could not be marked as done: it may run again.
    RanUnmarked(T),
    /// It was done before, and did not run now.
    AlreadyDone {
        /// When it was done, by the wall clock of the host that did it.
        since: SystemTime,
    },
}

/// The mark of one job under one lock. It is a key of its own.
pub struct Mark<'a> {
    key: Arc<str>,
    policy: LeasePolicy,
    options: &'a LockOptions,
}

/// Holds a lock or a mark for a user, and ends the hold when it is dropped.
pub trait Guard<S> {
    /// The guard of this hold.
    fn around(io: &S, holding: Holding) -> Self;

    fn holding(&mut self) -> &mut Holding;
}

/// Runs `job` under `lock` unless it was done before. If it succeeds, it counts as done for `keep`.
///
/// # Errors
///
/// If the mark cannot be claimed, or the lock was lost meanwhile. The inner result is the job's.
pub async fn run<S: Io, G: Guard<S>, T, E>(
    io: &S,
    mark: &Mark<'_>,
    lock: G,
    wait: (&Wait, Time),
    keep: Duration,
    job: impl AsyncFnOnce(&G) -> Result<T, E>,
) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
    let (lock, running) = match begin(io, mark, lock, wait).await? {
        Begun::Running(lock, running) => (lock, running),
        Begun::AlreadyDone { since } => return Ok(Ok(OnceOutcome::AlreadyDone { since })),
    };
    let result = job(&lock).await;
    let marked = finish(io, mark, running, keep, result.is_ok()).await;
    Ok(result.map(|value| match marked {
        true => OnceOutcome::Ran(value),
        false => OnceOutcome::RanUnmarked(value),
    }))
}

/// What came of the start of a job.
pub enum Begun<G> {
    /// It is to run, under the lock and its mark. From here on both guards are released on every
    /// path, the mark first.
    Running(G, G),
    /// It was done before, and the lock is released.
    AlreadyDone { since: SystemTime },
}

/// Claims the mark of a job under its lock.
///
/// # Errors
///
/// If the mark cannot be claimed, or the lock was lost meanwhile. The lock is released then.
pub async fn begin<S: Io, G: Guard<S>>(
    io: &S,
    mark: &Mark<'_>,
    mut lock: G,
    (wait, deadline): (&Wait, Time),
) -> Result<Begun<G>, AcquireError> {
    let begun = mark.claim_as_running(io, wait, deadline).await;
    let not_run = match begun {
        Ok(running) if !lock.holding().remaining(io).is_zero() => {
            return Ok(Begun::Running(lock, G::around(io, running)));
        }
        Ok(mut running) => {
            let _ = running.end(io, End::Free, Caller::Waits).await;
            Err(lost_while_waiting().into())
        }
        Err(AcquireError::Held(held)) if is_done(&held) => {
            let since = held.holder().map_or(SystemTime::UNIX_EPOCH, Holder::since);
            Ok(Begun::AlreadyDone { since })
        }
        Err(error) => Err(error),
    };
    let _ = lock.holding().end(io, End::Free, Caller::Waits).await;
    not_run
}

/// Marks a job that succeeded as done for `keep`; frees the mark of one that failed. Returns
/// whether it is marked as done.
pub async fn finish<S: Io, G: Guard<S>>(
    io: &S,
    mark: &Mark<'_>,
    mut running: G,
    keep: Duration,
    succeeded: bool,
) -> bool {
    if !succeeded {
        let running = running.holding();
        let _ = running.end(io, End::AsOptionsSay, Caller::Drops).await;
        return false;
    }
    mark.finish(io, running.holding(), keep).await
}

impl<'a> Mark<'a> {
    /// The mark of `job` under the lock `id`.
    pub fn new(id: &str, job: &str, options: &'a LockOptions, store: &Characteristics) -> Self {
        let key = key::once_key(options.key_prefix(), id, job, store.max_key).into();
        // The mark is held as long as the job runs, so the lock's own limits do not apply to it.
        let policy = LeasePolicy {
            min_hold: None,
            max_hold: None,
            ..LeasePolicy::new(options, store)
        };
        Mark {
            key,
            policy,
            options,
        }
    }

    #[cfg(feature = "tokio")]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Claims the mark as "running".
    async fn claim_as_running<S: Io>(
        &self,
        io: &S,
        wait: &Wait,
        deadline: Time,
    ) -> Result<Holding, AcquireError> {
        // A caller that got the lock just before its deadline still has time to read the mark.
        let least = io
            .clock()
            .now()
            .saturating_add(self.policy.call_timeout / 10);
        let deadline = deadline.max(least);
        let start = Holding::start(io);
        let kept = match self
            .claim(io, self.policy.ttl, Phase::Running, wait, deadline)
            .await
        {
            Ok(won) => {
                let mut running = Holding::new(won, self.policy.clone());
                let kept = running.keep(io, start).await;
                kept.map(|()| running).map_err(AcquireError::from)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &kept {
            Holding::not_acquired(io, start, &self.key, error);
        }
        kept
    }

    /// Leaves the mark as "done" for `keep`. Returns whether that worked.
    async fn finish<S: Io>(&self, io: &S, running: &mut Holding, keep: Duration) -> bool {
        let done = io.holder_text(io.process(), self.label(), Phase::Done);
        let left = running
            .end(io, End::Keep(keep, Some(done.into())), Caller::Waits)
            .await;
        if left.is_ok() {
            return true;
        }
        // The mark's lease was lost, or the store could not be reached: try one fresh claim.
        let wait = Wait::none();
        let deadline = wait.deadline(io.clock().now(), self.policy.call_timeout);
        match self.claim(io, keep, Phase::Done, &wait, deadline).await {
            Ok(_) => true,
            // The earlier call has marked the job; only its answer was lost.
            Err(AcquireError::Held(held)) => is_done(&held),
            Err(_) => false,
        }
    }

    async fn claim<S: Io>(
        &self,
        io: &S,
        ttl: Duration,
        phase: Phase,
        wait: &Wait,
        deadline: Time,
    ) -> Result<Won, AcquireError> {
        let process = io.process();
        let request = Request {
            process,
            key: &self.key,
            ttl,
            holder: io.holder_text(process, self.label(), phase).into(),
            retry: self.options.retry(),
            until_done: true,
        };
        acquire::acquire(io, &request, wait, deadline).await
    }

    fn label(&self) -> Option<&str> {
        self.options.label()
    }
}

fn is_done(held: &HeldBy) -> bool {
    held.holder().is_some_and(Holder::is_done)
}

fn lost_while_waiting() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Timeout,
        "the lock was lost while waiting for the mark of a crashed run to expire",
    )
}
