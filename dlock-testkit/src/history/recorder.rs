//! What a process writes down, while it works with locks as any user does.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock_core::{
    AcquireError, Clock, Datastore, Fencing, FencingToken, Lock, LockEvent, LockGuard, Once,
    ReleaseError, Store, Time, Wait,
};

use super::log::Log;
use super::witness::Witness;
use super::{End, Harm, Resource, What};

/// Two looks at an unchanged lease differ by the time between two looks at the clock. What differs by more is written down.
pub(super) const NOISE: Duration = Duration::from_millis(2);

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
        let witness = Witness {
            store: Box::new(datastore),
            log: Arc::clone(&log),
        };
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

    fn record(&self, key: &str, span: (Time, Time), what: What) {
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

/// What was written down of a holding so far.
struct Ledger {
    recorder: Recorder,
    key: Arc<str>,
    holding: u64,
    until: Time,
    lost: bool,
}

impl Ledger {
    fn begin(recorder: &Recorder, lock: &Lock, before: Time, guard: &LockGuard) -> Self {
        let after = now();
        let until = after.saturating_add(guard.remaining());
        let holding = recorder.0.holdings.fetch_add(1, Ordering::Relaxed);
        let options = lock.options();
        let what = What::Granted {
            holding,
            fence: guard.fencing_token().map(FencingToken::get),
            ttl: options.ttl,
            until,
            refusals: REFUSALS.get(),
            min_hold: options.min_hold.unwrap_or_default(),
        };
        recorder.record(lock.key(), (before, after), what);
        Ledger {
            recorder: recorder.clone(),
            key: lock.key().into(),
            holding,
            until,
            lost: false,
        }
    }

    fn look(&mut self, guard: &LockGuard) -> Duration {
        let before = now();
        let remaining = guard.remaining();
        if self.lost {
            return remaining;
        }
        let (holding, until) = (self.holding, before.saturating_add(remaining));
        if remaining.is_zero() {
            self.lost = true;
            self.record((before, now()), What::Lost { holding });
        } else if until > self.until.saturating_add(NOISE) {
            self.until = until;
            self.record((before, now()), What::Extended { holding, until });
        } else if until.saturating_add(NOISE) < self.until {
            self.until = until;
            self.record((before, now()), What::Shortened { holding, until });
        }
        remaining
    }

    fn write(&mut self, guard: &LockGuard, resource: &Resource) -> bool {
        let Some(token) = guard.fencing_token().map(FencingToken::get) else {
            return false;
        };
        self.look(guard);
        let before = now();
        let accepted = resource.write(token).expect("the resource can be written");
        let what = What::Wrote {
            holding: self.holding,
            token,
            accepted,
        };
        self.record((before, now()), what);
        accepted
    }

    fn releasing(&self) -> Time {
        let now = now();
        let holding = self.holding;
        self.record((now, now), What::Releasing { holding });
        now
    }

    fn released(&self, before: Time, end: End) {
        let holding = self.holding;
        self.record((before, now()), What::Released { holding, end });
    }

    fn record(&self, span: (Time, Time), what: What) {
        self.recorder.record(&self.key, span, what);
    }
}

fn now() -> Time {
    Clock::BOOTTIME.now()
}
