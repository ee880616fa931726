//! Async locks that break one promise each.

use std::future::{Future, pending, ready};
use std::mem::forget;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use dlock_core::aio::{Boxed, Lock, LockGuard};
use dlock_core::{AcquireError, OnceOutcome, ReleaseError, Wait};
use dlock_testkit::__AsyncCalls;

use super::suspending::suspend;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    ForgetsDroppedAcquires,
    KeepsTheGrantOfDroppedAcquires,
    AcquiresAnotherLock,
    IgnoresCancels,
    ReleasesOnlyWhenPolled,
    ForgetsDroppedReleases,
    ForgetsDroppedGuards,
    ForgetsGuardsDroppedInTasks,
    DetachesLockedJobs,
    MarksDroppedJobs,
    ForgetsDroppedJobs,
    LeavesDroppedJobsUnmarked,
    NeverReportsALoss,
    ReportsALossAtOnce,
    ReportsALossToTheFirst,
    GoesOnAfterTheLoss,
    DetachesCancelledJobs,
    CancelsAtOnce,
}

/// The calls of the async form, of which one is broken.
pub(crate) struct Broken {
    flaw: Flaw,
    lost: AtomicUsize,
}

impl Broken {
    pub(crate) fn new(flaw: Flaw) -> Self {
        Broken {
            flaw,
            lost: AtomicUsize::new(0),
        }
    }
}

type Job<'a> = Boxed<'a, Result<(), &'static str>>;

impl __AsyncCalls for Broken {
    fn acquire(&self, lock: &Lock, wait: &Wait) -> Boxed<'static, Result<LockGuard, AcquireError>> {
        let real = lock.acquire_with(wait);
        match self.flaw {
            Flaw::ForgetsDroppedAcquires => Box::pin(Leaky::of(real)),
            Flaw::KeepsTheGrantOfDroppedAcquires => Box::pin(WhenDropped::then(real, |real| {
                drop(waited_for(real).map(forget));
            })),
            Flaw::IgnoresCancels => Box::pin(lock.acquire_within(Duration::from_secs(2))),
            Flaw::AcquiresAnotherLock => {
                let (id, options) = (format!("not-{}", lock.id()), lock.options().clone());
                let other = Lock::with_options(lock.store(), id, options).unwrap();
                Box::pin(other.acquire_with(wait))
            }
            _ => Box::pin(real),
        }
    }

    fn release(&self, guard: LockGuard) -> Boxed<'static, Result<(), ReleaseError>> {
        match self.flaw {
            Flaw::ReleasesOnlyWhenPolled => {
                let mut guard = Forgotten(Some(guard));
                Box::pin(async move { guard.0.take().unwrap().release().await })
            }
            Flaw::ForgetsDroppedReleases => Box::pin(Leaky::of(guard.release())),
            _ => Box::pin(guard.release()),
        }
    }

    fn drop_guard(&self, guard: LockGuard) {
        let is_in_task = tokio::runtime::Handle::try_current().is_ok();
        match self.flaw {
            Flaw::ForgetsDroppedGuards => forget(guard),
            Flaw::ForgetsGuardsDroppedInTasks if is_in_task => forget(guard),
            _ => drop(guard),
        }
    }

    fn lost<'a>(&self, guard: &'a LockGuard) -> Boxed<'a, ()> {
        let before = self.lost.fetch_add(1, Ordering::SeqCst);
        match self.flaw {
            Flaw::NeverReportsALoss => Box::pin(pending()),
            Flaw::ReportsALossAtOnce => Box::pin(ready(())),
            // The case itself looks once, before its tasks.
            Flaw::ReportsALossToTheFirst if before > 1 => Box::pin(pending()),
            _ => Box::pin(guard.lost()),
        }
    }

    fn locked_or_cancel<'a>(
        &self,
        lock: &'a Lock,
        job: Job<'a>,
    ) -> Boxed<'a, Result<Option<()>, AcquireError>> {
        match self.flaw {
            Flaw::GoesOnAfterTheLoss => Box::pin(async move {
                let locked = lock.locked(async move |_| job.await).await;
                locked.map(Result::ok)
            }),
            Flaw::CancelsAtOnce => Box::pin(ready(Ok(None))),
            _ => {
                let job: Job<'a> = match self.flaw {
                    Flaw::DetachesCancelledJobs => Box::pin(Leaky::of(job)),
                    _ => job,
                };
                Box::pin(async move {
                    let ended = lock.locked_or_cancel(async move |_| job.await).await?;
                    Ok(ended.map(|_| ()))
                })
            }
        }
    }

    fn locked<'a>(&self, lock: &'a Lock, job: Job<'a>) -> Boxed<'a, Result<(), AcquireError>> {
        let job: Job<'a> = match self.flaw {
            Flaw::DetachesLockedJobs => Box::pin(Leaky::of(job)),
            _ => job,
        };
        Box::pin(async move { lock.locked(async move |_| job.await).await.map(|_| ()) })
    }

    fn once<'a>(
        &self,
        lock: &'a Lock,
        keep: Duration,
        job: Job<'a>,
    ) -> Boxed<'a, Result<Result<OnceOutcome<()>, &'static str>, AcquireError>> {
        let marks = move |job: Job<'a>| lock.once("job", keep, async move |_| job.await);
        match self.flaw {
            Flaw::ForgetsDroppedJobs => Box::pin(Leaky::of(Box::pin(marks(job)))),
            Flaw::MarksDroppedJobs => {
                let lock = lock.clone();
                Box::pin(WhenDropped::then(Box::pin(marks(job)), move |real| {
                    drop(real);
                    let done =
                        async move { lock.once("job", keep, async |_| done()).await.is_ok() };
                    assert!(waited_for(done));
                }))
            }
            Flaw::LeavesDroppedJobsUnmarked => Box::pin(async move {
                if let Err(reason) = lock.locked(async |_| job.await).await? {
                    return Ok(Err(reason));
                }
                suspend().await;
                marks(Box::pin(ready(done()))).await
            }),
            _ => Box::pin(marks(job)),
        }
    }
}

fn done() -> Result<(), &'static str> {
    Ok(())
}

/// Waits for a future in a thread of its own: this one may be a runtime's.
fn waited_for<T: Send>(future: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| {
        let waits = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(future)
        };
        scope.spawn(waits).join().unwrap()
    })
}

/// A value that is not dropped.
struct Forgotten<T>(Option<T>);

impl<T> Drop for Forgotten<T> {
    fn drop(&mut self) {
        forget(self.0.take());
    }
}

/// A future that does something else with another one that was polled than to drop it.
struct WhenDropped<F, D: FnOnce(F)> {
    future: Option<F>,
    then: Option<D>,
    is_begun: bool,
}

/// A future that, as a bare one, leaves what it has begun.
type Leaky<F> = WhenDropped<F, fn(F)>;

impl<F> Leaky<F> {
    fn of(future: F) -> Self {
        WhenDropped {
            future: Some(future),
            then: Some(forget),
            is_begun: false,
        }
    }
}

impl<F, D: FnOnce(F)> WhenDropped<F, D> {
    fn then(future: F, then: D) -> Self {
        WhenDropped {
            future: Some(future),
            then: Some(then),
            is_begun: false,
        }
    }
}

impl<F: Future + Unpin, D: FnOnce(F) + Unpin> Future for WhenDropped<F, D> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.is_begun = true;
        let polled = Pin::new(self.future.as_mut().unwrap()).poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<F, D: FnOnce(F)> Drop for WhenDropped<F, D> {
    fn drop(&mut self) {
        if let (Some(future), Some(then), true) =
            (self.future.take(), self.then.take(), self.is_begun)
        {
            then(future);
        }
    }
}
