//! One way to put something in front of a store.

use std::time::Duration;

use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::datastore::{Datastore, Watch};
use crate::contract::error::DatastoreError;
use crate::contract::inspect::Inspect;
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::time::clock::Clock;
use crate::time::signal::Signal;

/// A layer stands between core and a store and sees each call. Use one to count calls, to measure
/// or log them, or to make them fail in a test.
///
/// Each method takes the store as an argument and, by default, forwards the call to it. So you
/// write only the methods that you need, and a method that [`Datastore`] gains later still reaches
/// the store. [`Layered`] puts the layer in front of the store.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::Duration;
/// use dlock_core::{
///     AcquireOutcome, Claim, Datastore, DatastoreError, Layer, Layered, Lock, MemoryDatastore,
/// };
///
/// /// Counts the claims that were refused.
/// #[derive(Default)]
/// struct Refusals(AtomicU64);
///
/// impl Layer for Refusals {
///     fn acquire(
///         &self,
///         store: &dyn Datastore,
///         claim: &Claim,
///         ttl: Duration,
///     ) -> Result<AcquireOutcome, DatastoreError> {
///         let outcome = store.acquire(claim, ttl)?;
///         if matches!(outcome, AcquireOutcome::Held(_)) {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///         Ok(outcome)
///     }
/// }
///
/// let store = std::sync::Arc::new(Layered::new(MemoryDatastore::new(), Refusals::default()));
/// let lock = Lock::new(store.clone(), "hourly-import");
/// let guard = lock.try_acquire()?;
/// assert!(lock.try_acquire().is_err());
/// assert_eq!(store.layer().0.load(Ordering::Relaxed), 1);
/// # drop(guard);
/// # Ok::<(), dlock_core::AcquireError>(())
/// ```
///
/// Core renews leases with [`extend_many`](Self::extend_many) and confirms them with
/// [`confirm_many`](Self::confirm_many). The store does not come back to the layer's `extend` or
/// `confirm` for each of these leases. So a layer that must see every extend, or every
/// confirmation, needs both methods of the pair.
///
/// The layered store must keep the laws of [`Datastore`]. If your layer changes an answer, run the
/// suite of `dlock-testkit` on the layered store.
pub trait Layer: Send + Sync {
    /// A claim on its way to [`Datastore::acquire`].
    ///
    /// # Errors
    ///
    /// As that.
    fn acquire(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        store.acquire(claim, ttl)
    }

    /// A call on its way to [`Datastore::extend`]. Renewals come through
    /// [`extend_many`](Self::extend_many).
    ///
    /// # Errors
    ///
    /// As that.
    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        store.extend(lease, ttl)
    }

    /// A call on its way to [`Datastore::release`].
    ///
    /// # Errors
    ///
    /// As that.
    fn release(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        store.release(lease)
    }

    /// What the store says of itself in [`Datastore::characteristics`].
    fn characteristics(&self, store: &dyn Datastore) -> Characteristics {
        store.characteristics()
    }

    /// The store's [`Datastore::own_clock`].
    fn own_clock<'a>(&'a self, store: &'a dyn Datastore) -> Option<&'a Clock> {
        store.own_clock()
    }

    /// A call on its way to [`Datastore::abandon`].
    ///
    /// # Errors
    ///
    /// As that.
    fn abandon(&self, store: &dyn Datastore, claim: &Claim) -> Result<(), DatastoreError> {
        store.abandon(claim)
    }

    /// A call on its way to [`Datastore::watch`].
    ///
    /// # Errors
    ///
    /// As that.
    fn watch(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        store.watch(claim, signal)
    }

    /// A call on its way to [`Datastore::extend_many`]: each renewal of a lease.
    ///
    /// # Errors
    ///
    /// As that.
    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        store.extend_many(leases)
    }

    /// A call on its way to [`Datastore::confirm`]. Core calls
    /// [`confirm_many`](Self::confirm_many).
    ///
    /// # Errors
    ///
    /// As that.
    fn confirm(&self, store: &dyn Datastore, lease: &Lease) -> Result<Extension, DatastoreError> {
        store.confirm(lease)
    }

    /// A call on its way to [`Datastore::confirm_many`]: each confirmation of a lease.
    ///
    /// # Errors
    ///
    /// As that.
    fn confirm_many(
        &self,
        store: &dyn Datastore,
        leases: &[Lease],
    ) -> Vec<Result<Extension, DatastoreError>> {
        store.confirm_many(leases)
    }

    /// What operators look into: the store's [`Datastore::inspect`].
    fn inspect<'a>(&'a self, store: &'a dyn Datastore) -> Option<&'a dyn Inspect> {
        store.inspect()
    }
}

/// A store with a [`Layer`] in front of it: a [`Datastore`] like any other.
///
/// Layers can be stacked: the store of one may be a `Layered` itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layered<D, L> {
    store: D,
    layer: L,
}

impl<D: Datastore, L: Layer> Layered<D, L> {
    /// `store`, each call to which goes through `layer`.
    pub fn new(store: D, layer: L) -> Self {
        Layered { store, layer }
    }

    /// The store behind the layer.
    pub fn store(&self) -> &D {
        &self.store
    }

    /// The layer.
    pub fn layer(&self) -> &L {
        &self.layer
    }
}

// A method of the trait that is not passed on would fall back to its default, and waiters would
// lose their wake-ups without a word.
#[deny(clippy::missing_trait_methods)]
impl<D: Datastore, L: Layer> Datastore for Layered<D, L> {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.layer.acquire(&self.store, claim, ttl)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.layer.extend(&self.store, lease, ttl)
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.layer.release(&self.store, lease)
    }

    fn characteristics(&self) -> Characteristics {
        self.layer.characteristics(&self.store)
    }

    fn own_clock(&self) -> Option<&Clock> {
        self.layer.own_clock(&self.store)
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.layer.abandon(&self.store, claim)
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.layer.watch(&self.store, claim, signal)
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        self.layer.extend_many(&self.store, leases)
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.layer.confirm(&self.store, lease)
    }

    fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        self.layer.confirm_many(&self.store, leases)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.layer.inspect(&self.store)
    }
}
