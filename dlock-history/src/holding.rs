//! Locks that are held on the record.

use std::cell::Cell;
use std::time::Duration;

use dlock_core::{AcquireError, Lock, LockGuard, OnceOutcome, ReleaseError, Time, Wait};

use crate::ledger::Ledger;
use crate::recorder::{Recorder, now};
use crate::{End, Resource, What};

impl Recorder {
    /// Acquires.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire_with`].
    ///
    /// # Panics
    ///
    /// If the file cannot be written, as every method that records.
    pub fn acquire(&self, lock: &Lock, wait: &Wait) -> Result<Holding, AcquireError> {
        Recorder::begin();
        let before = now();
        match lock.acquire_with(wait) {
            Ok(guard) => Ok(Holding {
                ledger: self.begins(lock, before, &guard),
                guard: Some(guard),
            }),
            Err(error) => {
                self.refused(lock.key(), (before, Recorder::refusals()), &error);
                Err(error)
            }
        }
    }

    /// Runs `f` under the lock, as [`Lock::locked_with`].
    ///
    /// # Errors
    ///
    /// As that.
    pub fn locked<R>(
        &self,
        lock: &Lock,
        wait: &Wait,
        f: impl FnOnce(&mut Section<'_>) -> R,
    ) -> Result<R, AcquireError> {
        Recorder::begin();
        let before = now();
        let result = lock.locked_with(wait, |guard| self.inside(lock, before, guard, f));
        if let Err(error) = &result {
            self.refused(lock.key(), (before, Recorder::refusals()), error);
        }
        result
    }

    /// Runs `f` once, as [`Lock::once_with`].
    ///
    /// # Errors
    ///
    /// As that.
    pub fn once<T, E>(
        &self,
        lock: &Lock,
        wait: &Wait,
        job: &str,
        keep: Duration,
        f: impl FnOnce(&mut Section<'_>) -> Result<T, E>,
    ) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
        Recorder::begin();
        let before = now();
        let started = Cell::new(before);
        let result = lock.once_with(wait, job, keep, |guard| {
            started.set(now());
            self.inside(lock, before, guard, f)
        });
        match &result {
            Err(error) => self.refused(lock.key(), (before, Recorder::refusals()), error),
            Ok(Ok(ran @ (OnceOutcome::Ran(_) | OnceOutcome::RanUnmarked(_)))) => {
                let what = What::Ran {
                    job: job.to_owned(),
                    keep,
                    marked: matches!(ran, OnceOutcome::Ran(_)),
                };
                self.record(lock.key(), (started.get(), now()), what);
            }
            Ok(_) => {}
        }
        result
    }

    fn begins(&self, lock: &Lock, before: Time, guard: &LockGuard) -> Ledger {
        let named = (lock.key(), lock.options());
        Ledger::begin(self, named, (before, Recorder::refusals()), guard)
    }

    fn inside<R>(
        &self,
        lock: &Lock,
        before: Time,
        guard: &LockGuard,
        f: impl FnOnce(&mut Section<'_>) -> R,
    ) -> R {
        let mut section = Section {
            guard,
            ledger: self.begins(lock, before, guard),
        };
        let result = f(&mut section);
        section.ledger.releasing();
        result
    }
}

/// A lock that is held, with its record.
pub struct Holding {
    guard: Option<LockGuard>,
    ledger: Ledger,
}

impl Holding {
    /// The guard.
    ///
    /// # Panics
    ///
    /// Never: it is there until the holding is released.
    pub fn guard(&self) -> &LockGuard {
        self.guard.as_ref().expect("released by value only")
    }

    /// How long the lease lasts, see [`LockGuard::remaining`]. What the guard says changes only
    /// with a look, as far as the history goes: look often.
    ///
    /// # Panics
    ///
    /// Never: the guard is there.
    pub fn look(&mut self) -> Duration {
        let guard = self.guard.as_ref().expect("released by value only");
        self.ledger.look(guard)
    }

    /// Writes to a guarded resource under the fencing token; whether it took it. Without token
    /// nothing is written.
    ///
    /// # Panics
    ///
    /// If the resource's file cannot be written.
    pub fn write(&mut self, resource: &Resource) -> bool {
        let guard = self.guard.as_ref().expect("released by value only");
        self.ledger.write(guard, resource)
    }

    /// Releases.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`].
    ///
    /// # Panics
    ///
    /// Never: the guard is there.
    pub fn release(mut self) -> Result<(), ReleaseError> {
        let guard = self.guard.take().expect("released by value only");
        self.ledger.look(&guard);
        let before = self.ledger.releasing();
        let result = guard.release();
        let end = match &result {
            Ok(()) => End::Freed,
            Err(ReleaseError::Lost) => End::Lost,
            Err(_) => End::Unknown,
        };
        self.ledger.released(before, end);
        result
    }
}

/// Drops the guard, and records that.
impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            let before = self.ledger.releasing();
            drop(guard);
            self.ledger.released(before, End::Dropped);
        }
    }
}

/// What a closure that runs under a lock sees of it.
pub struct Section<'a> {
    guard: &'a LockGuard,
    ledger: Ledger,
}

impl Section<'_> {
    /// As [`Holding::look`].
    pub fn look(&mut self) -> Duration {
        self.ledger.look(self.guard)
    }

    /// As [`Holding::write`].
    ///
    /// # Panics
    ///
    /// As that.
    pub fn write(&mut self, resource: &Resource) -> bool {
        self.ledger.write(self.guard, resource)
    }
}

#[cfg(test)]
mod tests {
    use dlock_core::{LockOptions, MemoryDatastore};

    use super::*;
    use crate::{Harm, History, Rules};
    use dlock_core::Clock;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn who_waits_is_on_record_from_its_place_in_the_queue_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let memory = MemoryDatastore::new();
        let open = |actor: &str| {
            let recorder = Recorder::create(folder.path(), actor, "memory", memory.clone());
            let recorder = recorder.unwrap();
            let lock = Lock::new(recorder.store(), "x");
            (recorder, lock)
        };
        let (a, lock_a) = open("a");
        let (b, lock_b) = open("b");
        let holding = a.acquire(&lock_a, &Wait::none()).unwrap();
        assert!(b.acquire(&lock_b, &Wait::within(ms(4000))).is_err());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| b.acquire(&lock_b, &Wait::forever()).unwrap().release());
            // Until its place is on record.
            let path = folder.path().join("b.history");
            let start = std::time::Instant::now();
            let queued = || {
                std::fs::read_to_string(&path)
                    .unwrap()
                    .contains(" queued 1")
            };
            while !queued() && start.elapsed() < ms(20_000) {
                std::thread::sleep(ms(5));
            }
            holding.release().unwrap();
            waiter.join().unwrap().unwrap();
        });
        let history = History::read(folder.path()).unwrap();
        let of_waiters: Vec<_> = history
            .events()
            .iter()
            .filter(|event| {
                use What::{Left, Queued, Served};
                matches!(event.what, Queued { .. } | Served { .. } | Left { .. })
            })
            .map(|event| (&*event.actor, &*event.key, event.what.to_string()))
            .collect();
        let said = ["queued 0", "left 0", "queued 1", "served 1"];
        let expected = said.map(|what| ("b", lock_b.key(), what.to_owned()));
        assert_eq!(of_waiters, expected);
        let report = history.check(&Rules::default());
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!((report.figures.queued, report.figures.served), (2, 1));
        assert_eq!(report.figures.turns, 1);
    }

    #[test]
    fn what_recorders_write_is_read_back_and_passes() {
        let folder = tempfile::tempdir().unwrap();
        let resource = Resource::at(folder.path().join("resource"));
        let memory = MemoryDatastore::new();
        let open = |actor: &str| {
            let recorder =
                Recorder::create(folder.path(), actor, "memory", memory.clone()).unwrap();
            // Long enough that a busy machine does not let the lease end before it is renewed.
            let options = LockOptions::builder().ttl(ms(9000));
            let lock = Lock::with_options(recorder.store(), "x", options).unwrap();
            (recorder, lock)
        };
        let (a, lock_a) = open("a");
        let (b, lock_b) = open("b");
        let mut holding = a.acquire(&lock_a, &Wait::none()).unwrap();
        assert!(holding.write(&resource));
        assert!(b.acquire(&lock_b, &Wait::none()).is_err());
        // Until it has been renewed.
        let start = std::time::Instant::now();
        let first = holding.ledger.until();
        while holding.ledger.until() <= first && start.elapsed() < ms(60_000) {
            holding.look();
            std::thread::sleep(ms(5));
        }
        drop(holding);
        let written = b.locked(&lock_b, &Wait::none(), |section| section.write(&resource));
        assert!(written.unwrap());
        let done = a.once(&lock_a, &Wait::none(), "job", ms(500), |section| {
            section.look();
            Ok::<_, ()>(7)
        });
        assert_eq!(done.unwrap().unwrap(), OnceOutcome::Ran(7));
        let faults = Recorder::of_faults(folder.path(), "f", "memory").unwrap();
        faults.fault("a word", Harm::Clock, Clock::BOOTTIME.now());
        faults.calm(ms(60_000));
        b.acquire(&lock_b, &Wait::none())
            .unwrap()
            .release()
            .unwrap();
        // A process that is killed while it writes leaves half a line.
        std::fs::write(folder.path().join("killed.history"), "17 18 memory").unwrap();

        let history = History::read(folder.path()).unwrap();
        let report = history.check(&Rules::default());
        assert!(report.violations.is_empty(), "{report}");
        let figures = &report.figures;
        assert_eq!((figures.grants, figures.contended, figures.jobs), (4, 1, 1));
        assert_eq!((figures.writes, figures.faults["a_word"]), (2, 1));
        assert!(figures.extended >= 1);
        std::fs::write(folder.path().join("bad.history"), "17 18 memory k what\n").unwrap();
        assert!(History::read(folder.path()).is_err());
    }
}
