//! A worker process on tokio: its tasks use async locks, and are dropped at any time, alone or with
//! their runtime.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::aio::Lock;
use dlock_core::{Cancel, Clock, LockOptions, Time, Wait};
use dlock_history::{AsyncHolding, AsyncRecorder, Harm, Resource};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::backend::{Backend, LockSpec, PREFIX};
use crate::random::Random;
use crate::worker::{JOB_EVERY, JOB_KEEP, Job, stopped_by_the_parent};

/// The tasks of a runtime.
const TASKS: u64 = 3;
/// Tasks that were asked to end have ended after this time.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

pub(crate) fn run(job: &Job<'_>) -> Result<(), Failure> {
    let mut random = Random::new(job.seed, &[]);
    let store = job.backend.open_async(job.url, &mut random)?;
    let recorder = AsyncRecorder::create(job.folder, job.actor, job.backend.name(), store)?;
    let (stop, cancel) = stopped_by_the_parent();
    let worker = Arc::new(Worker {
        recorder,
        backend: job.backend,
        resources: job.resources.to_owned(),
        breaks_until: job.breaks_until,
        stop,
        cancel,
        labels: AtomicU64::new(0),
    });
    for life in 0.. {
        let runtime = runtime(random.percent(50))?;
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let random = Random::new(job.seed, &[life, task]);
                runtime.spawn(Arc::clone(&worker).works(random))
            })
            .collect();
        let end = Instant::now() + random.millis(500..6000);
        let ends = || worker.is_over() || (worker.may_break() && Instant::now() >= end);
        runtime.block_on(async {
            while !ends() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        if worker.is_over() {
            runtime.block_on(async {
                for task in tasks {
                    let ended = timeout(ENDS_WITHIN, task).await;
                    ended.map_err(|_| "a task hangs")??;
                }
                worker.recorder.store().settled().await;
                Ok::<(), Failure>(())
            })?;
            return Ok(());
        }
        let since = now();
        drop(runtime);
        let recorder = worker.recorder.recorder();
        recorder.fault("runtime-ended", Harm::None, since);
    }
    Ok(())
}

fn runtime(is_one_thread: bool) -> Result<Runtime, Failure> {
    let mut builder = match is_one_thread {
        true => Builder::new_current_thread(),
        false => Builder::new_multi_thread(),
    };
    Ok(builder.worker_threads(2).enable_all().build()?)
}

struct Worker {
    recorder: AsyncRecorder,
    backend: Backend,
    resources: PathBuf,
    breaks_until: Time,
    stop: Arc<AtomicBool>,
    cancel: Cancel,
    labels: AtomicU64,
}

impl Worker {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether it may still disturb itself.
    fn may_break(&self) -> bool {
        now() < self.breaks_until
    }

    async fn works(self: Arc<Self>, mut random: Random) {
        while !self.is_over() {
            self.turn(&mut random).await;
            sleep(random.millis(0..20)).await;
        }
    }

    /// One acquire, and a hold if it succeeds. Any part of it may be dropped.
    async fn turn(&self, random: &mut Random) {
        let name = random.pick(self.backend.locks());
        let Ok(lock) = self.lock(name, random) else {
            return;
        };
        let (before, failures) = (now(), self.recorder.failures());
        let resource = Resource::at(self.resources.join(name.id));
        let is_dropped = match random.within(0..10) {
            0 => {
                let drops_after = random.millis(0..60);
                let job = self.once(&lock, random.clone());
                dropped_after(drops_after, job).await
            }
            1..5 => {
                let wait = self.wait(random);
                let drops_after = random.pick(&[0, 1, 2, 5, 20, 100, 400]);
                let acquire = self.recorder.acquire(&lock, &wait);
                match timeout(Duration::from_millis(drops_after), acquire).await {
                    Ok(Ok(holding)) => self.hold(holding, name, &resource, random).await,
                    Ok(Err(_)) => false,
                    Err(_) => true,
                }
            }
            _ => {
                let wait = self.wait(random);
                match self.recorder.acquire(&lock, &wait).await {
                    Ok(holding) => self.hold(holding, name, &resource, random).await,
                    Err(error) => {
                        if !error.is_held() {
                            sleep(random.millis(5..60)).await;
                        }
                        false
                    }
                }
            }
        };
        if is_dropped {
            self.recorder.dropped(&lock, before, failures).await;
        }
    }

    /// A lock whose label no other has, so that its holder is known in the store.
    fn lock(&self, name: LockSpec, random: &mut Random) -> Result<Lock, Failure> {
        let label = self.labels.fetch_add(1, Ordering::Relaxed);
        let options = LockOptions::builder()
            .key_prefix(PREFIX)
            .ttl(name.ttl)
            .renew(random.percent(80))
            .label(format!("turn {label}"));
        let store = self.recorder.store();
        Ok(Lock::with_options(store, name.id, options)?)
    }

    fn wait(&self, random: &mut Random) -> Wait {
        let wait = match random.within(0..100) {
            0..40 => Wait::none(),
            40..88 => Wait::within(random.millis(30..3000)),
            _ => Wait::forever(),
        };
        wait.cancelled_by(&self.cancel)
    }

    /// Works under the lock, and releases it. Returns whether the release was dropped.
    async fn hold(
        &self,
        mut holding: AsyncHolding,
        name: LockSpec,
        resource: &Resource,
        random: &mut Random,
    ) -> bool {
        let holds = match random.within(0..20) {
            _ if name.hot => random.millis(0..5),
            0..17 => random.millis(0..60),
            _ => name.ttl * 5 / 4,
        };
        let start = Instant::now();
        loop {
            let is_valid = !holding.look().is_zero();
            if random.percent(if is_valid { 20 } else { 60 }) {
                holding.write(resource);
            }
            if !is_valid || start.elapsed() >= holds || self.is_over() {
                break;
            }
            if random.percent(1) && self.may_break() {
                let since = now();
                // As code does that should not: the executor's thread does nothing else.
                thread::sleep(name.ttl * 5 / 4);
                let recorder = self.recorder.recorder();
                recorder.fault("executor-blocked", Harm::None, since);
                continue;
            }
            sleep(random.millis(2..15)).await;
        }
        match random.within(0..10) {
            0..5 => {
                // The history has the outcome.
                let _ = holding.release().await;
                false
            }
            5..8 => dropped_after(random.millis(0..3), holding.release()).await,
            _ => {
                drop(holding);
                true
            }
        }
    }

    async fn once(&self, lock: &Lock, mut random: Random) {
        let job = format!("job-{}", now().as_nanos() / JOB_EVERY);
        let wait = self.wait(&mut random);
        let works = async || {
            sleep(random.millis(0..60)).await;
            if random.percent(10) { Err(()) } else { Ok(()) }
        };
        let done = self.recorder.once(lock, &wait, (&job, JOB_KEEP), works);
        drop(done.await);
    }
}

/// Runs a future for so long. Returns whether it was dropped then.
async fn dropped_after<T>(after: Duration, future: impl Future<Output = T>) -> bool {
    timeout(after, future).await.is_err()
}

fn now() -> Time {
    Clock::BOOTTIME.now()
}
