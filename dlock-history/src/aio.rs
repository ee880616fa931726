//! Async locks that are held on the record, and dropped at any time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, AsyncInspect, DynAsyncDatastore, Lock, LockGuard, Store};
use dlock_core::{
    AcquireError, AcquireOutcome, Characteristics, Claim, Clock, DatastoreError, Extension, Holder,
    Lease, OnceOutcome, ReleaseError, ReleaseOutcome, Signal, Time, Wait, Watch,
};

use crate::ledger::Ledger;
use crate::log::Log;
use crate::recorder::{Recorder, now};
use crate::witness::Witness;
use crate::{End, Resource, What};

/// A [`Recorder`] for the async form. Each of its futures may be dropped: what is on record is
/// never more than what the program saw.
///
/// A grant that its acquire had not yet returned when it was dropped is on record nowhere. That the
/// store holds nothing for it afterwards is what [`dropped`](Self::dropped) records.
#[derive(Clone)]
pub struct AsyncRecorder {
    recorder: Recorder,
    store: Store,
    /// How many calls to the store failed.
    failures: Arc<AtomicU64>,
}

impl AsyncRecorder {
    /// As [`Recorder::create`].
    ///
    /// # Errors
    ///
    /// A file that cannot be made, or is there already.
    pub fn create(
        folder: &Path,
        actor: &str,
        name: &str,
        datastore: Arc<dyn DynAsyncDatastore>,
    ) -> io::Result<Self> {
        let log = Arc::new(Log::create(folder, actor, name)?);
        let failures = Arc::default();
        let store = Store::new(Witnessed {
            witness: Witness::new(Arc::clone(&log)),
            failures: Arc::clone(&failures),
            datastore,
        });
        let recorder = Recorder::of_async(log, store.characteristics());
        Ok(AsyncRecorder {
            recorder,
            store,
            failures,
        })
    }

    /// The store, to make locks of.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The recorder of what the program breaks itself.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Acquires.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire_with`].
    pub async fn acquire(&self, lock: &Lock, wait: &Wait) -> Result<AsyncHolding, AcquireError> {
        let before = now();
        match lock.acquire_with(wait).await {
            Ok(guard) => Ok(AsyncHolding {
                ledger: self.begins(lock, before, &guard),
                guard: Some(guard),
            }),
            Err(error) => {
                self.recorder.refused(lock.key(), (before, 0), &error);
                Err(error)
            }
        }
    }

    /// Runs `f` once, as [`Lock::once_with`].
    ///
    /// # Errors
    ///
    /// As that.
    pub async fn once<E>(
        &self,
        lock: &Lock,
        wait: &Wait,
        (job, keep): (&str, Duration),
        f: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<Result<OnceOutcome<()>, E>, AcquireError> {
        let before = now();
        let mut started = before;
        let result = lock
            .once_with(wait, job, keep, async |guard| {
                started = now();
                // Dropped with the job, before the guard.
                let _section = Section(self.begins(lock, before, guard));
                f().await
            })
            .await;
        match &result {
            Err(error) => self.recorder.refused(lock.key(), (before, 0), error),
            Ok(Ok(ran @ (OnceOutcome::Ran(()) | OnceOutcome::RanUnmarked(())))) => {
                let what = What::Ran {
                    job: job.to_owned(),
                    keep,
                    marked: matches!(ran, OnceOutcome::Ran(())),
                };
                self.recorder.record(lock.key(), (started, now()), what);
            }
            Ok(_) => {}
        }
        result
    }

    /// How many calls to the store failed so far: to be read before something begins that may be
    /// dropped, and given to [`dropped`](Self::dropped).
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// Waits for the clean-up of what was dropped, which began at `before` under the lock's
    /// [`label`](dlock_core::LockOptions::label), a text of its own. Records whether the store
    /// shows it as the holder nevertheless.
    ///
    /// # Panics
    ///
    /// If the file cannot be written.
    pub async fn dropped(&self, lock: &Lock, before: Time, failures: u64) {
        self.store.settled().await;
        let holder = match self.store.datastore().dyn_inspect() {
            Some(inspect) => inspect.holder(lock.key()).await.ok().flatten(),
            None => None,
        };
        let label = lock.options().label();
        let is_it = |holder: &Holder| holder.is_this_process() && holder.label() == label;
        // What was handed over to a waiter of this process has no token yet, and shows a text of
        // the process.
        let held = holder
            .filter(|held| held.fence().is_some())
            .is_some_and(|held| held.holder().is_some_and(is_it));
        let answered = self.failures() == failures;
        let what = What::Dropped {
            held: held && answered,
        };
        self.recorder.record(lock.key(), (before, now()), what);
    }

    fn begins(&self, lock: &Lock, before: Time, guard: &LockGuard) -> Ledger {
        Ledger::begin(
            &self.recorder,
            (lock.key(), lock.options()),
            (before, 0),
            guard,
        )
    }
}

/// An async lock that is held, with its record. Dropping it drops the guard, and records that.
pub struct AsyncHolding {
    guard: Option<LockGuard>,
    ledger: Ledger,
}

impl AsyncHolding {
    /// As [`Holding::look`](crate::Holding::look).
    ///
    /// # Panics
    ///
    /// Never: the guard is there.
    pub fn look(&mut self) -> Duration {
        self.ledger
            .look(self.guard.as_ref().expect("released by value only"))
    }

    /// As [`Holding::write`](crate::Holding::write).
    ///
    /// # Panics
    ///
    /// If the resource's file cannot be written.
    pub fn write(&mut self, resource: &Resource) -> bool {
        let guard = self.guard.as_ref().expect("released by value only");
        self.ledger.write(guard, resource)
    }

    /// Releases. If the future is dropped, the outcome is not on record.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`].
    ///
    /// # Panics
    ///
    /// Never: the guard is there.
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        let guard = self.guard.take().expect("released by value only");
        self.ledger.look(&guard);
        let before = self.ledger.releasing();
        let result = guard.release().await;
        let end = match &result {
            Ok(()) => End::Freed,
            Err(ReleaseError::Lost) => End::Lost,
            Err(_) => End::Unknown,
        };
        self.ledger.released(before, end);
        result
    }
}

impl Drop for AsyncHolding {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            let before = self.ledger.releasing();
            drop(guard);
            self.ledger.released(before, End::Dropped);
        }
    }
}

/// The record of a lock under which a job runs; the job may be dropped.
struct Section(Ledger);

impl Drop for Section {
    fn drop(&mut self) {
        self.0.releasing();
    }
}

/// A store whose denials, waiters and failures are written down.
struct Witnessed {
    witness: Witness,
    failures: Arc<AtomicU64>,
    datastore: Arc<dyn DynAsyncDatastore>,
}

impl Witnessed {
    fn failed<T>(&self, answer: &Result<T, DatastoreError>) {
        if answer.is_err() {
            self.failures.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn extended(
        &self,
        lease: &Lease,
        before: Time,
        answer: Result<Extension, DatastoreError>,
    ) -> Result<Extension, DatastoreError> {
        self.failed(&answer);
        if matches!(answer, Ok(Extension::Lost)) {
            self.witness.denied(lease, before);
        }
        answer
    }
}

#[deny(clippy::missing_trait_methods)]
impl AsyncDatastore for Witnessed {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        let before = now();
        let answer = self.datastore.acquire(claim, ttl).await;
        self.failed(&answer);
        if let (Some(_), Ok(answer)) = (claim.deadline(), &answer) {
            self.witness.waited(claim, before, answer);
        }
        answer
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let before = now();
        let answer = self.datastore.extend(lease, ttl).await;
        self.extended(lease, before, answer)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let before = now();
        let answer = self.datastore.release(lease).await;
        self.failed(&answer);
        if matches!(answer, Ok(ReleaseOutcome::NotHeld)) {
            self.witness.denied(lease, before);
        }
        answer
    }

    fn characteristics(&self) -> Characteristics {
        self.datastore.characteristics()
    }

    fn own_clock(&self) -> Option<&Clock> {
        self.datastore.own_clock()
    }

    fn is_polled_by_caller(&self) -> bool {
        self.datastore.is_polled_by_caller()
    }

    fn ends_its_calls(&self) -> bool {
        self.datastore.ends_its_calls()
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let answer = self.datastore.abandon(claim).await;
        self.failed(&answer);
        answer
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let watch = self.datastore.watch(claim, signal).await;
        self.failed(&watch);
        Ok(watch?.map(|watch| self.witness.watched(claim, watch)))
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let before = now();
        let answers = self.datastore.extend_many(leases).await;
        let extended =
            |(answer, (lease, _)): (_, &(Lease, Duration))| self.extended(lease, before, answer);
        answers.into_iter().zip(leases).map(extended).collect()
    }

    async fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        let before = now();
        let answer = self.datastore.confirm(lease).await;
        self.extended(lease, before, answer)
    }

    async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        let before = now();
        let answers = self.datastore.confirm_many(leases).await;
        let extended = |(answer, lease): (_, &Lease)| self.extended(lease, before, answer);
        answers.into_iter().zip(leases).map(extended).collect()
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        self.datastore.inspect()
    }
}
