//! A worker process: it uses locks as users do, in a random order, until its standard input ends.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{AcquireError, Cancel, Clock, Lock, LockOptions, Time, Wait};
use dlock_history::{Holding, Recorder, Resource, Section};

use crate::Failure;
use crate::backend::{Backend, LockSpec, PREFIX};
use crate::dozing::Dozing;
use crate::random::Random;
use crate::sabotage::Sabotage;

/// The id of a job of `once` changes after this many nanoseconds.
pub(crate) const JOB_EVERY: u64 = 2_000_000_000;
/// How long such a job counts as done.
pub(crate) const JOB_KEEP: Duration = Duration::from_secs(15);
pub(crate) struct Job<'a> {
    pub(crate) backend: Backend,
    pub(crate) url: &'a str,
    pub(crate) folder: &'a Path,
    pub(crate) resources: &'a Path,
    pub(crate) actor: &'a str,
    pub(crate) seed: u64,
    /// The end of the time in which it may stop itself.
    pub(crate) breaks_until: Time,
    pub(crate) sabotage: Option<Sabotage>,
}

struct Worker<'a> {
    job: &'a Job<'a>,
    recorder: Recorder,
    random: Random,
    stop: Arc<AtomicBool>,
    cancel: Cancel,
}

pub(crate) fn run(job: &Job<'_>) -> Result<(), Failure> {
    let mut random = Random::new(job.seed, &[]);
    let mut store = job.backend.open(job.url, &mut random)?;
    if let Some(sabotage) = job.sabotage {
        store = Box::new(sabotage.of(store));
    }
    let (store, dozing) = Dozing::over(store, job.breaks_until, random.clone());
    let recorder = Recorder::create(job.folder, job.actor, job.backend.name(), store)?;
    dozing.record_to(&recorder);
    let (stop, cancel) = stopped_by_the_parent();
    let mut worker = Worker {
        job,
        recorder,
        random,
        stop,
        cancel,
    };
    while !worker.is_over() {
        worker.turn()?;
        let pause = worker.random.millis(0..20);
        thread::sleep(pause);
    }
    Ok(())
}

/// The flag and the cancel that the end of this worker sets.
pub(crate) fn stopped_by_the_parent() -> (Arc<AtomicBool>, Cancel) {
    let (stop, cancel) = (Arc::new(AtomicBool::new(false)), Cancel::new());
    thread::spawn({
        let (stop, cancel) = (Arc::clone(&stop), cancel.clone());
        move || {
            // The standard input ends when the parent process closes it or is gone.
            let _ = io::stdin().read(&mut [0]);
            stop.store(true, Ordering::SeqCst);
            cancel.cancel();
        }
    });
    (stop, cancel)
}

impl Worker<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// One acquire, and a hold if it succeeds.
    fn turn(&mut self) -> Result<(), Failure> {
        let name = self.name();
        let lock = self.lock(name)?;
        let resource = Resource::at(self.job.resources.join(name.id));
        let holds = self.hold_time(name);
        match self.random.within(0..100) {
            0..8 => self.once(&lock, holds, &resource),
            8..16 => {
                let wait = self.wait();
                let (over, mut random) = (Arc::clone(&self.stop), self.random.clone());
                let ran = self.recorder.locked(&lock, &wait, |section| {
                    work(section, holds, &resource, &over, &mut random);
                });
                self.after(ran.err());
            }
            16..24 => {
                // The caller cancels its wait.
                let (cancel, soon) = (Cancel::new(), self.random.millis(1..400));
                let wait = Wait::within(Duration::from_secs(3)).cancelled_by(&cancel);
                let canceller = thread::spawn(move || {
                    thread::sleep(soon);
                    cancel.cancel();
                });
                let acquired = self.recorder.acquire(&lock, &wait);
                let _ = canceller.join();
                self.hold(acquired, holds, &resource);
            }
            _ => {
                let wait = self.wait();
                let acquired = self.recorder.acquire(&lock, &wait);
                self.hold(acquired, holds, &resource);
            }
        }
        Ok(())
    }

    /// Two in three acquires use the locks that are held for moments only.
    fn name(&mut self) -> LockSpec {
        let hot = self.random.percent(67);
        let locks = self.job.backend.locks().iter();
        let names: Vec<_> = locks.filter(|name| name.hot == hot).copied().collect();
        self.random.pick(&names)
    }

    fn lock(&mut self, name: LockSpec) -> Result<Lock, Failure> {
        let LockSpec { id, ttl, .. } = name;
        let options = LockOptions::builder().key_prefix(PREFIX).ttl(ttl);
        let options = match self.random.within(0..10) {
            0 if !name.hot => options.min_hold(ttl * 2 / 3),
            1 => options.max_hold(ttl * 3 / 2),
            2 | 3 => options.renew(false),
            _ => options,
        };
        // The store's shortest time to live also bounds the time of a hold.
        let options = match Lock::with_options(self.recorder.store(), id, options) {
            Ok(lock) => return Ok(lock),
            Err(_) => LockOptions::builder().key_prefix(PREFIX).ttl(ttl),
        };
        Ok(Lock::with_options(self.recorder.store(), id, options)?)
    }

    fn wait(&mut self) -> Wait {
        let wait = match self.random.within(0..100) {
            0..40 => Wait::none(),
            40..88 => Wait::within(self.random.millis(30..3000)),
            // Waits until it is served, at most to the end of the round.
            _ => Wait::forever(),
        };
        wait.cancelled_by(&self.cancel)
    }

    /// Mostly short, sometimes so long that the lease must be renewed.
    fn hold_time(&mut self, name: LockSpec) -> Duration {
        let ttl = name.ttl;
        match self.random.within(0..20) {
            _ if name.hot => self.random.millis(0..5),
            0..15 => self.random.millis(0..15),
            15..18 => self.random.millis(50..600),
            _ => ttl * 5 / 4 + self.random.millis(0..1000),
        }
    }

    fn once(&mut self, lock: &Lock, holds: Duration, resource: &Resource) {
        let job = format!("job-{}", Clock::BOOTTIME.now().as_nanos() / JOB_EVERY);
        let wait = self.wait();
        let fails = self.random.percent(10);
        let (over, mut random) = (Arc::clone(&self.stop), self.random.clone());
        let ran = self.recorder.once(lock, &wait, &job, JOB_KEEP, |section| {
            work(section, holds, resource, &over, &mut random);
            if fails { Err(()) } else { Ok(()) }
        });
        self.after(ran.err());
    }

    fn hold(
        &mut self,
        acquired: Result<Holding, AcquireError>,
        holds: Duration,
        resource: &Resource,
    ) {
        let mut holding = match acquired {
            Ok(holding) => holding,
            Err(error) => return self.after(Some(error)),
        };
        work(&mut holding, holds, resource, &self.stop, &mut self.random);
        if self.random.percent(80) {
            // The history has the outcome.
            let _ = holding.release();
        }
    }

    /// Waits a little after an error of the store.
    fn after(&mut self, error: Option<AcquireError>) {
        if error.is_some_and(|error| !error.is_held()) {
            thread::sleep(self.random.millis(5..60));
        }
    }
}

/// The work under a lock: check the lease, and write with its token.
trait Held {
    fn look(&mut self) -> Duration;
    fn write(&mut self, resource: &Resource) -> bool;
}

impl Held for Holding {
    fn look(&mut self) -> Duration {
        Holding::look(self)
    }

    fn write(&mut self, resource: &Resource) -> bool {
        Holding::write(self, resource)
    }
}

impl Held for Section<'_> {
    fn look(&mut self) -> Duration {
        Section::look(self)
    }

    fn write(&mut self, resource: &Resource) -> bool {
        Section::write(self, resource)
    }
}

fn work(
    held: &mut impl Held,
    holds: Duration,
    resource: &Resource,
    over: &AtomicBool,
    random: &mut Random,
) {
    let start = Instant::now();
    loop {
        let valid = !held.look().is_zero();
        // A worker that has lost its lock may not know it yet, or may write nevertheless.
        if random.percent(if valid { 20 } else { 60 }) {
            held.write(resource);
        }
        if !valid || start.elapsed() >= holds || over.load(Ordering::SeqCst) {
            return;
        }
        thread::sleep(random.millis(2..15));
    }
}
