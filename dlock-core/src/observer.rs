//! What happens to locks, for logs and metrics.

use std::time::Duration;

use crate::{DatastoreError, FencingToken, Held, ReleaseError};

/// Is told what happens to the locks of a store, for logs and metrics. Given to a store by
/// [`StoreBuilder::observer`](crate::StoreBuilder::observer).
///
/// It is called on the thread on which the thing happens, which may be the one that renews leases: do not block.
/// [`Lost`](LockEvent::Lost) and [`AtRisk`](LockEvent::AtRisk) come on a thread of their own.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn on(&self, event: &LockEvent<'_>);
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
    },
    /// A claim was refused; a waiter may see many of these.
    #[non_exhaustive]
    Refused {
        /// The lock's key.
        key: &'a str,
        /// By whom it is held.
        held: &'a Held,
    },
    /// Its lease was renewed.
    #[non_exhaustive]
    Renewed {
        /// The lock's key.
        key: &'a str,
        /// How long the lease lasts now.
        remaining: Duration,
    },
    /// A renewal failed; it is tried again until the lease's end.
    #[non_exhaustive]
    RenewalFailed {
        /// The lock's key.
        key: &'a str,
        /// What the store said.
        error: &'a DatastoreError,
    },
    /// Only the grace period is left of its lease. Told for the first time that it happens to a guard.
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
    },
    /// It was not released as it should.
    #[non_exhaustive]
    ReleaseFailed {
        /// The lock's key.
        key: &'a str,
        /// Why.
        error: &'a ReleaseError,
    },
}

impl<F: Fn(&LockEvent<'_>) + Send + Sync> Observer for F {
    fn on(&self, event: &LockEvent<'_>) {
        self(event);
    }
}
