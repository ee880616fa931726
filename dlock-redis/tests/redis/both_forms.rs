//! A store in both of its forms, so that a test which breaks a set of servers needs one set.

use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Datastore, DatastoreError, Extension, Lease, ReleaseOutcome,
};
use dlock_redis::RedisDatastore;

use crate::support::*;

/// A store as its user calls it.
pub(crate) struct Caller {
    pub(crate) store: RedisDatastore,
    #[cfg(feature = "tokio")]
    runtime: Option<tokio::runtime::Runtime>,
}

/// One caller of each form. Each has a store of its own, as if it were another process.
pub(crate) fn callers(open: impl Fn() -> RedisDatastore) -> Vec<Caller> {
    let blocking = Caller {
        store: open(),
        #[cfg(feature = "tokio")]
        runtime: None,
    };
    #[cfg(feature = "tokio")]
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let with_futures = Caller {
            store: open(),
            runtime: Some(runtime.unwrap()),
        };
        vec![blocking, with_futures]
    }
    #[cfg(not(feature = "tokio"))]
    vec![blocking]
}

#[cfg(feature = "tokio")]
macro_rules! call {
    ($caller:expr, $method:ident($($argument:expr),*)) => {
        match &$caller.runtime {
            None => Datastore::$method(&$caller.store, $($argument),*),
            Some(runtime) => runtime.block_on(
                dlock_core::aio::AsyncDatastore::$method(&$caller.store, $($argument),*)
            ),
        }
    };
}

#[cfg(not(feature = "tokio"))]
macro_rules! call {
    ($caller:expr, $method:ident($($argument:expr),*)) => {
        Datastore::$method(&$caller.store, $($argument),*)
    };
}

impl Caller {
    pub(crate) fn acquire(&self, claim: &Claim) -> Result<AcquireOutcome, DatastoreError> {
        call!(self, acquire(claim, TTL))
    }

    /// Acquires for [`TTL`].
    pub(crate) fn acquired(&self, claim: &Claim) -> Lease {
        Lease::new(claim.clone(), granted(self.acquire(claim)))
    }

    pub(crate) fn extend(&self, lease: &Lease, sequence: u64) -> Result<Extension, DatastoreError> {
        call!(self, extend(&call(lease, sequence), TTL))
    }

    pub(crate) fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        call!(self, extend_many(leases))
    }

    /// Extends; whether it is still ours.
    pub(crate) fn extended(&self, lease: &Lease, sequence: u64) -> bool {
        match self.extend(lease, sequence).unwrap() {
            Extension::Extended(_) => true,
            Extension::Lost => false,
        }
    }

    /// Releases; whether it was ours.
    pub(crate) fn released(&self, lease: &Lease) -> bool {
        call!(self, release(&call(lease, 1))).unwrap() == ReleaseOutcome::Released
    }

    pub(crate) fn abandon(&self, claim: &Claim) {
        call!(self, abandon(claim)).unwrap();
    }
}
