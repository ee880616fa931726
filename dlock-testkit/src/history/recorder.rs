//! What a process writes down, while it works with locks as any user does.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock_core::{
    AcquireError, Clock, Datastore, Fencing, Lock, LockEvent, LockGuard, Once, ReleaseError, Store,
    Time, Wait,
};

use super::ledger::Ledger;
use super::log::Log;
use super::witness::Witness;
use super::{End, Harm, Resource, What};

thread_local! {
    /// How often the acquire of this thread was refused so far.
    static REFUSALS: Cell<u32> = const { Cell::new(0) };
}

/// Does what a user of one store does, and appends each step to a file of its own. Clones write to the same file.
///
/// Each event is one small `write`, so a process may be killed at any moment and loses the step that it was in, no other.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    log: Arc<Log>,
    store: Option<Store>,
    holdings: AtomicU64,
}

impl Recorder {
    /// A recorder that writes to `<folder>/<actor>.history`, for a store that is called `name` in the history. Names have no white space.
    ///
    /// # Errors
    ///
    /// A file that cannot be made, or is there already.
    pub fn create(
        folder: &Path,
        actor: &str,
        name: &str,
        datastore: impl Datastore + 'static,
    ) -> io::Result<Self> {
        let log = Arc::new(Log::create(folder, actor, name)?);
        let witness = Witness::new(Box::new(datastore), Arc::clone(&log));
        let store = Store::builder(witness)
            .observer(|event: &LockEvent<'_>| {
                if matches!(event, LockEvent::Refused { .. }) {
                    REFUSALS.set(REFUSALS.get().saturating_add(1));
                }
            })
            .build();
        let characteristics = store.characteristics();
        let opened = What::Opened {
            granularity: characteristics.granularity,
            fenced: characteristics.fencing != Fencing::None,
            confirms: characteristics.confirm_after.is_some(),
            wakes: characteristics.wakes,
        };
        let now = now();
        log.record("-", (now, now), opened);
        Ok(Self::over(log, Some(store)))
    }

    /// A recorder for whoever breaks things in the store `name`, and opens none itself.
    ///
    /// # Errors
    ///
    /// A file that cannot be made, or is there already.
    pub fn of_faults(folder: &Path, actor: &str, name: &str) -> io::Result<Self> {
        let log = Log::create(folder, actor, name)?;
        Ok(Self::over(Arc::new(log), None))
    }

    fn over(log: Arc<Log>, store: Option<Store>) -> Self {
        Recorder(Arc::new(Inner {
            log,
            store,
            holdings: AtomicU64::new(0),
        }))
    }

    /// The store, to make locks of.
    ///
    /// # Panics
    ///
    /// For a recorder [of faults](Self::of_faults).
    pub fn store(&self) -> &Store {
        self.0.store.as_ref().expect("a recorder with a store")
    }

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
        REFUSALS.set(0);
        let before = now();
        match lock.acquire_with(wait) {
            Ok(guard) => Ok(Holding {
                ledger: Ledger::begin(self, lock, before, &guard),
                guard: Some(guard),
            }),
            Err(error) => {
                self.refused(lock, before, &error);
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
        f: impl FnOnce(&mut Looker<'_>) -> R,
    ) -> Result<R, AcquireError> {
        REFUSALS.set(0);
        let before = now();
        let result = lock.locked_with(wait, |guard| self.inside(lock, before, guard, f));
        if let Err(error) = &result {
            self.refused(lock, before, error);
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
        f: impl FnOnce(&mut Looker<'_>) -> Result<T, E>,
    ) -> Result<Result<Once<T>, E>, AcquireError> {
        REFUSALS.set(0);
        let before = now();
        let started = Cell::new(before);
        let result = lock.once_with(wait, job, keep, |guard| {
            started.set(now());
            self.inside(lock, before, guard, f)
        });
        match &result {
            Err(error) => self.refused(lock, before, error),
            Ok(Ok(ran @ (Once::Ran(_) | Once::RanUnmarked(_)))) => {
                let what = What::Ran {
                    job: job.to_owned(),
                    keep,
                    marked: matches!(ran, Once::Ran(_)),
                };
                self.record(lock.key(), (started.get(), now()), what);
            }
            Ok(_) => {}
        }
        result
    }

    /// Records that something was broken from then until now.
    pub fn fault(&self, name: &str, harm: Harm, since: Time) {
        let what = What::Fault {
            name: name.to_owned(),
            harm,
        };
        self.record("-", (since, now()), what);
    }

    /// Records that nothing is broken from now on, and that every key must be acquired within `patience`.
    pub fn calm(&self, patience: Duration) {
        let now = now();
        self.record("-", (now, now), What::Calm { patience });
    }

    fn inside<R>(
        &self,
        lock: &Lock,
        before: Time,
        guard: &LockGuard,
        f: impl FnOnce(&mut Looker<'_>) -> R,
    ) -> R {
        let mut looker = Looker {
            guard,
            ledger: Ledger::begin(self, lock, before, guard),
        };
        let result = f(&mut looker);
        looker.ledger.releasing();
        result
    }

    fn refused(&self, lock: &Lock, before: Time, error: &AcquireError) {
        let what = match error {
            AcquireError::Held(_) => What::Refused {
                refusals: REFUSALS.get(),
            },
            AcquireError::Datastore(error) => What::Failed {
                why: format!("{:?}", error.kind()),
            },
            AcquireError::Cancelled => What::Failed {
                why: "Cancelled".to_owned(),
            },
            other => What::Failed {
                why: other.to_string(),
            },
        };
        self.record(lock.key(), (before, now()), what);
    }

    /// The number of a new holding, and how often its acquire was refused before.
    pub(super) fn next_holding(&self) -> (u64, u32) {
        let number = self.0.holdings.fetch_add(1, Ordering::Relaxed);
        (number, REFUSALS.get())
    }

    pub(super) fn record(&self, key: &str, span: (Time, Time), what: What) {
        self.0.log.record(key, span, what);
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

    /// How long the lease lasts, see [`LockGuard::remaining`]. What the guard says changes only with a look, as far as the history goes: look often.
    ///
    /// # Panics
    ///
    /// Never: the guard is there.
    pub fn look(&mut self) -> Duration {
        let guard = self.guard.as_ref().expect("released by value only");
        self.ledger.look(guard)
    }

    /// Writes to a guarded resource under the fencing token; whether it took it. Without token nothing is written.
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
pub struct Looker<'a> {
    guard: &'a LockGuard,
    ledger: Ledger,
}

impl Looker<'_> {
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

pub(super) fn now() -> Time {
    Clock::BOOTTIME.now()
}

#[cfg(test)]
mod tests {
    use dlock_core::{LockOptions, MemoryDatastore};

    use super::super::{History, Rules};
    use super::*;

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
        assert!(b.acquire(&lock_b, &Wait::within(ms(20))).is_err());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| b.acquire(&lock_b, &Wait::forever()).unwrap().release());
            std::thread::sleep(ms(200));
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
            let options = LockOptions::default().with_ttl(ms(200));
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
        while start.elapsed() < ms(300) {
            holding.look();
            std::thread::sleep(ms(5));
        }
        drop(holding);
        let written = b.locked(&lock_b, &Wait::none(), |looker| looker.write(&resource));
        assert!(written.unwrap());
        let done = a.once(&lock_a, &Wait::none(), "job", ms(500), |looker| {
            looker.look();
            Ok::<_, ()>(7)
        });
        assert_eq!(done.unwrap().unwrap(), Once::Ran(7));
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
