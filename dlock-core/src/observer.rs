//! What happens to locks, for logs and metrics.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::acquire_error::{AcquireError, ReleaseError};
use crate::contract::error::DatastoreError;
use crate::contract::grant::FencingToken;
use crate::contract::outcome::HeldBy;
use crate::time::clock::Clock;
use crate::time::instant::Time;
use crate::time::user_code::contained;

/// Receives what happens to the locks of a store, for logs and metrics. Given to a store by
/// [`StoreBuilder::observer`](crate::StoreBuilder::observer).
///
/// The events of an acquire or a release come on the thread of the caller, before its call returns:
/// [`Acquired`](LockEvent::Acquired), [`NotAcquired`](LockEvent::NotAcquired),
/// [`Refused`](LockEvent::Refused), [`Waiting`](LockEvent::Waiting),
/// [`WaitEnded`](LockEvent::WaitEnded), [`AlreadyDone`](LockEvent::AlreadyDone),
/// [`Released`](LockEvent::Released) and [`ReleaseFailed`](LockEvent::ReleaseFailed). The others
/// come on one thread of the store, in their order: an observer that blocks there holds up nothing
/// but later events. When it is a thousand events behind, renewals are left out; losses never are.
///
/// In the async form those of an acquire or a release come where its future is polled: an observer
/// must not block there. What goes on after a drop reports from a thread of dlock.
///
/// A panic of an observer ends in it: the lock, other observers and later events are not affected.
/// dlock does not report it; the panic hook of the program does, by default on stderr.
///
/// Events come in pairs that can be counted against each other. Each `Acquired` is followed by one
/// `Released` or `ReleaseFailed` when its guard ends, so the difference is the number of guards.
/// Each `Waiting` is followed by one `WaitEnded`. Each call that starts to acquire ends with one
/// `Acquired` or `NotAcquired`. [`Lock::once`](crate::Lock::once) acquires two keys, the lock's and
/// that of its mark.
pub trait Observer: Send + Sync {
    /// Something happened to a lock.
    fn on(&self, event: &LockEvent<'_>);

    /// A call to the store has ended. By default nothing.
    ///
    /// Comes on the thread that made the call. That may be the thread that renews all leases of the
    /// store, so this must not block.
    fn on_call(&self, call: &StoreCall<'_>) {
        let _ = call;
    }
}

/// A call to a store that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoreCall<'a> {
    /// What was called.
    pub operation: Operation,
    /// From the call to its answer, with the time in which it waited for a connection.
    pub took: Duration,
    /// How many locks it was about: more than one only for batches.
    pub locks: usize,
    /// What failed; for a batch the error of the first lock that has one.
    pub error: Option<&'a DatastoreError>,
}

/// A call that is under way, and whose end an observer receives.
pub(crate) struct MeasuredCall<'a> {
    observer: &'a dyn Observer,
    clock: &'a Clock,
    operation: Operation,
    start: Time,
}

impl<'a> MeasuredCall<'a> {
    /// A call that begins now; `None` without an observer.
    #[inline]
    pub(crate) fn begin(
        observer: &'a Option<Arc<dyn Observer>>,
        clock: &'a Clock,
        operation: Operation,
    ) -> Option<Self> {
        let start = Self::start(observer, clock)?;
        Self::since(start, observer, clock, operation)
    }

    /// When a call begins that begins now; `None` without an observer.
    #[inline]
    pub(crate) fn start(observer: &Option<Arc<dyn Observer>>, clock: &Clock) -> Option<Time> {
        observer.as_ref().map(|_| clock.now())
    }

    /// A call that began at `start`. A future keeps only that.
    #[inline]
    pub(crate) fn since(
        start: Time,
        observer: &'a Option<Arc<dyn Observer>>,
        clock: &'a Clock,
        operation: Operation,
    ) -> Option<Self> {
        observer.as_deref().map(|observer| MeasuredCall {
            observer,
            clock,
            operation,
            start,
        })
    }

    /// Reports that it has ended, about this many locks.
    pub(crate) fn end(self, locks: usize, error: Option<&DatastoreError>) {
        let took = self.start.until(self.clock.now());
        self.observer.on_call(&StoreCall {
            operation: self.operation,
            took,
            locks,
            error,
        });
    }
}

/// The calls to a store, named like the methods of [`Datastore`](crate::Datastore).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Claims a key.
    Acquire,
    /// Extends one lease.
    Extend,
    /// Renews a batch of leases.
    ExtendMany,
    /// Checks a batch of leases.
    ConfirmMany,
    /// Frees a key.
    Release,
    /// Gives up a claim whose answer was lost.
    Abandon,
    /// Begins to wait.
    Watch,
}

impl Operation {
    /// Its name in metrics and traces: `acquire`, `extend_many`.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Acquire => "acquire",
            Operation::Extend => "extend",
            Operation::ExtendMany => "extend_many",
            Operation::ConfirmMany => "confirm_many",
            Operation::Release => "release",
            Operation::Abandon => "abandon",
            Operation::Watch => "watch",
        }
    }
}

/// What happened to the lock with this key.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockEvent<'a> {
    /// It was acquired.
    #[non_exhaustive]
    Acquired {
        /// The lock's key.
        key: &'a str,
        /// Its fencing token, if the store has them.
        fence: Option<FencingToken>,
        /// From the call to the grant.
        waited: Duration,
    },
    /// It was not acquired: held until the deadline, cancelled, or the store failed.
    #[non_exhaustive]
    NotAcquired {
        /// The lock's key.
        key: &'a str,
        /// Why.
        error: &'a AcquireError,
        /// From the call to its end.
        waited: Duration,
    },
    /// A call that acquires was refused for the first time, and waits.
    #[non_exhaustive]
    Waiting {
        /// The lock's key.
        key: &'a str,
    },
    /// The wait is over, with the lock or without it.
    #[non_exhaustive]
    WaitEnded {
        /// The lock's key.
        key: &'a str,
        /// From [`Waiting`](Self::Waiting) to now.
        waited: Duration,
    },
    /// A claim was refused; a waiter may see many of these.
    #[non_exhaustive]
    Refused {
        /// The lock's key.
        key: &'a str,
        /// Who holds it.
        held: &'a HeldBy,
    },
    /// Its lease was renewed.
    #[non_exhaustive]
    Renewed {
        /// The lock's key.
        key: &'a str,
        /// How long the lease lasts now.
        remaining: Duration,
        /// How long after it was due the renewal was sent. It nears a third of the time to live
        /// when the store, or this machine, cannot keep up.
        late: Duration,
    },
    /// A renewal failed; it is tried again until the lease's end.
    #[non_exhaustive]
    RenewalFailed {
        /// The lock's key.
        key: &'a str,
        /// Why.
        error: &'a DatastoreError,
    },
    /// Only the grace period is left of its lease. Reported once for each guard.
    #[non_exhaustive]
    AtRisk {
        /// The lock's key.
        key: &'a str,
    },
    /// Its lease ended while the guard lived.
    #[non_exhaustive]
    Lost {
        /// The lock's key.
        key: &'a str,
    },
    /// It was released, or left to end with its `min_hold`.
    #[non_exhaustive]
    Released {
        /// The lock's key.
        key: &'a str,
        /// From the grant to the release.
        held: Duration,
    },
    /// [`Lock::once`](crate::Lock::once) found that the job was done before and did not run it.
    #[non_exhaustive]
    AlreadyDone {
        /// The lock's key.
        key: &'a str,
        /// The job.
        job: &'a str,
        /// When it was done, by the wall clock of the host that did it.
        since: SystemTime,
    },
    /// Its release failed.
    #[non_exhaustive]
    ReleaseFailed {
        /// The lock's key.
        key: &'a str,
        /// From the grant to the release, or to the end of the lease if that came first.
        held: Duration,
        /// Why.
        error: &'a ReleaseError,
    },
}

/// An observer whose panics end in it. Each observer of a store is one, so no event can unwind into
/// the flow that reports it: a panic between a grant and its guard would leave the key held with no
/// owner.
pub(crate) struct Contained<O>(pub(crate) O);

impl<O: Observer> Observer for Contained<O> {
    fn on(&self, event: &LockEvent<'_>) {
        contained(|| self.0.on(event));
    }

    fn on_call(&self, call: &StoreCall<'_>) {
        contained(|| self.0.on_call(call));
    }
}

impl<F: Fn(&LockEvent<'_>) + Send + Sync> Observer for F {
    fn on(&self, event: &LockEvent<'_>) {
        self(event);
    }
}
