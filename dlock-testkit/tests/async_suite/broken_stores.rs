//! Async stores that break one promise each.

use std::sync::Mutex;
use std::time::Duration;

use dlock_core::aio::AsyncDatastore;
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    Lease, MemoryDatastore, OwnerToken, ReleaseOutcome, Signal, Watch,
};
use tokio::runtime::Handle;

use super::suspending::suspend;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    ExtendsOnTheRuntimeOfTheAcquire,
    MixesUpAnswers,
    KeepsDroppedWatches,
    FreesTheKeyOfADroppedExtend,
    ShortensTheLeaseOfADroppedExtend,
}

type Answer = Result<AcquireOutcome, DatastoreError>;

/// The store in memory, with a fault.
pub(crate) struct BrokenStore {
    memory: MemoryDatastore,
    fault: Fault,
    /// The runtimes on which owners have claimed.
    runtimes: Mutex<Vec<(OwnerToken, Handle)>>,
    /// The answer that the next call gets.
    answer: Mutex<Option<Answer>>,
}

impl BrokenStore {
    pub(crate) fn new(fault: Fault) -> Self {
        BrokenStore {
            memory: MemoryDatastore::new(),
            fault,
            runtimes: Mutex::default(),
            answer: Mutex::default(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

/// Does something with a value when the call that has it is dropped.
struct WhenDropped<T, D: FnMut(T)>(Option<T>, D);

impl<T, D: FnMut(T)> Drop for WhenDropped<T, D> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            (self.1)(value);
        }
    }
}

impl AsyncDatastore for BrokenStore {
    async fn acquire(&self, claim: &Claim, ttl: Duration) -> Answer {
        if let Ok(runtime) = Handle::try_current() {
            self.runtimes.lock().unwrap().push((claim.owner(), runtime));
        }
        suspend().await;
        let stale = self.answer.lock().unwrap().take();
        let answer = Datastore::acquire(&self.memory, claim, ttl);
        let keeps = self.has(Fault::MixesUpAnswers);
        let mut undelivered = WhenDropped(Some(answer), |answer| {
            if keeps {
                *self.answer.lock().unwrap() = Some(answer);
            }
        });
        suspend().await;
        let answer = undelivered.0.take().unwrap();
        stale.unwrap_or(answer)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let turn = {
            let runtimes = self.runtimes.lock().unwrap();
            let own = runtimes.iter().find(|(owner, _)| *owner == lease.owner());
            own.map(|(_, runtime)| runtime.spawn(async {}))
        };
        if self.has(Fault::ExtendsOnTheRuntimeOfTheAcquire)
            && let Some(turn) = turn
        {
            let left = lease.claim().time_left();
            if tokio::time::timeout(left, turn).await.is_err() {
                let text = "the runtime is busy";
                return Err(DatastoreError::not_executed(ErrorKind::Timeout, text));
            }
        }
        let mut half_way = WhenDropped(Some(()), |()| match self.fault {
            Fault::FreesTheKeyOfADroppedExtend => drop(Datastore::release(&self.memory, lease)),
            Fault::ShortensTheLeaseOfADroppedExtend => {
                let least = Datastore::characteristics(&self.memory).ttl_min;
                drop(Datastore::extend(&self.memory, lease, least));
            }
            _ => {}
        });
        suspend().await;
        half_way.0 = None;
        Datastore::extend(&self.memory, lease, ttl)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        suspend().await;
        Datastore::release(&self.memory, lease)
    }

    fn characteristics(&self) -> Characteristics {
        Datastore::characteristics(&self.memory)
    }

    fn own_clock(&self) -> Option<&Clock> {
        Datastore::own_clock(&self.memory)
    }

    fn is_polled_by_caller(&self) -> bool {
        self.has(Fault::ExtendsOnTheRuntimeOfTheAcquire)
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        suspend().await;
        let watch = Datastore::watch(&self.memory, claim, signal)?;
        let keeps = self.has(Fault::KeepsDroppedWatches);
        let mut asked = WhenDropped(watch, |watch| {
            if keeps {
                std::mem::forget(watch);
            }
        });
        suspend().await;
        Ok(asked.0.take())
    }
}
