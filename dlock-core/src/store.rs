//! A store in use: the datastore, its clock, and the threads that keep its leases.

mod blocking;
mod per_process;

use std::fmt;
use std::sync::Arc;

use crate::ProcessId;
use crate::contract::characteristics::Characteristics;
use crate::contract::datastore::Datastore;
use crate::engine::renewal::Keeper;
use crate::observer::{Contained, LockEvent, Observer, StoreCall};
use crate::options::OptionsError;
use crate::time::clock::Clock;

pub use blocking::at_once;
pub(crate) use per_process::PerProcess;

/// A handle to a store in use. Clones are the same store.
///
/// Locks that are made from one `Store` share the threads that keep their leases, and are renewed
/// in batches where the store can. Locks made from a bare [`Datastore`] each make a `Store` of
/// their own: correct, only with threads of their own. So for many locks make one `Store` and pass
/// `&store`.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

pub(crate) struct Shared {
    datastore: Box<dyn Datastore>,
    characteristics: Characteristics,
    clock: Clock,
    observer: Option<Arc<dyn Observer>>,
    name: Box<str>,
    keepers: PerProcess<Keeper>,
}

impl Store {
    /// A store on its datastore's own clock, or else on the system's, without an observer.
    pub fn new(datastore: impl Datastore + 'static) -> Self {
        Self::builder(datastore).build()
    }

    /// A store with a clock or an observer of your own.
    pub fn builder(datastore: impl Datastore + 'static) -> StoreBuilder {
        let own_clock = datastore.own_clock().cloned();
        StoreBuilder::of(Box::new(datastore), own_clock)
    }

    /// The clock that leases are measured on.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The datastore inside.
    pub fn datastore(&self) -> &dyn Datastore {
        &*self.0.datastore
    }

    /// The name that [`StoreBuilder::name`] gave it; empty without one.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the datastore said of itself when the store was made.
    pub fn characteristics(&self) -> &Characteristics {
        &self.0.characteristics
    }

    /// The threads that keep this store's leases in this process.
    pub(crate) fn keeper(&self) -> &Keeper {
        self.keeper_of(ProcessId::current())
    }

    /// The same for a caller that knows its process already.
    pub(crate) fn keeper_of(&self, process: ProcessId) -> &Keeper {
        self.0.keepers.of(process, || Keeper::new(&self.0.clock))
    }
}

impl Shared {
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(keeper) = self.keepers.current() {
            keeper.stop();
        }
    }
}

impl<D: Datastore + 'static> From<D> for Store {
    fn from(datastore: D) -> Self {
        Store::new(datastore)
    }
}

impl From<&Store> for Store {
    fn from(store: &Store) -> Self {
        store.clone()
    }
}

impl From<Arc<Store>> for Store {
    fn from(store: Arc<Store>) -> Self {
        Store::clone(&store)
    }
}

impl From<&Arc<Store>> for Store {
    fn from(store: &Arc<Store>) -> Self {
        Store::clone(store)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("characteristics", &self.0.characteristics)
            .field("clock", &self.0.clock)
            .finish_non_exhaustive()
    }
}

/// Makes a [`Store`].
///
/// ```
/// use dlock_core::{Lock, LockEvent, MemoryDatastore, Store};
///
/// let store = Store::builder(MemoryDatastore::new())
///     .observer(|event: &LockEvent<'_>| {
///         if let LockEvent::Lost { key, .. } = event {
///             eprintln!("lost {key}");
///         }
///     })
///     .build();
/// let guard = Lock::new(&store, "hourly-import").try_acquire()?;
/// # drop(guard);
/// # Ok::<(), dlock_core::AcquireError>(())
/// ```
pub struct StoreBuilder<D = Box<dyn Datastore>> {
    pub(crate) datastore: D,
    pub(crate) clock: Clock,
    own_clock: Option<Clock>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) name: Box<str>,
}

impl<D> StoreBuilder<D> {
    /// For a datastore that counts on `own_clock` if it has one.
    pub(crate) fn of(datastore: D, own_clock: Option<Clock>) -> Self {
        StoreBuilder {
            datastore,
            clock: own_clock.clone().unwrap_or(Clock::BOOTTIME),
            own_clock,
            observer: None,
            name: Box::default(),
        }
    }

    /// With this clock, instead of the system's.
    ///
    /// A datastore that counts on a clock of its own, such as
    /// [`MemoryDatastore::with_clock`](crate::MemoryDatastore::with_clock), gives it to its store
    /// without being asked.
    ///
    /// # Errors
    ///
    /// [`OptionsError::Clocks`] if the datastore counts on another one: holder and datastore would
    /// not agree when a lease ends.
    pub fn clock(mut self, clock: Clock) -> Result<Self, OptionsError> {
        if self.own_clock.as_ref().is_some_and(|own| !own.is(&clock)) {
            return Err(OptionsError::Clocks);
        }
        self.clock = clock;
        Ok(self)
    }

    /// With this observer, after those that were given before.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        let observer = Contained(observer);
        self.observer = Some(match self.observer.take() {
            Some(before) => Arc::new(Both(before, observer)),
            None => Arc::new(observer),
        });
        self
    }

    /// With this name, the field `store` of its spans (feature `tracing`). Empty by default.
    #[must_use]
    pub fn name(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = name.into();
        self
    }
}

impl StoreBuilder {
    /// The store.
    pub fn build(self) -> Store {
        let characteristics = self.datastore.characteristics();
        let keepers = PerProcess::new(Keeper::new(&self.clock));
        Store(Arc::new(Shared {
            datastore: self.datastore,
            characteristics,
            clock: self.clock,
            observer: self.observer,
            name: self.name,
            keepers,
        }))
    }
}

impl<D> fmt::Debug for StoreBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreBuilder")
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// Two observers, in this order.
struct Both<O>(Arc<dyn Observer>, O);

impl<O: Observer> Observer for Both<O> {
    fn on(&self, event: &LockEvent<'_>) {
        self.0.on(event);
        self.1.on(event);
    }

    fn on_call(&self, call: &StoreCall<'_>) {
        self.0.on_call(call);
        self.1.on_call(call);
    }
}
