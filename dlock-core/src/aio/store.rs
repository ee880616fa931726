//! An async store in use: the datastore, its clock, and what runs for it in the background.

use std::fmt;
use std::sync::Arc;

use super::background::Background;
use super::boxed::DynAsyncDatastore;
use super::datastore::AsyncDatastore;
use super::future::Boxed;
use crate::ProcessId;
use crate::contract::characteristics::Characteristics;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::observer::Observer;
use crate::store::{PerProcess, StoreBuilder};
use crate::time::clock::Clock;

/// A handle to an async store in use. Clones are the same store.
///
/// Locks that are made from one `Store` share the threads that keep their leases, and are renewed
/// in batches where the store can. Locks made from a bare [`AsyncDatastore`] each make a `Store` of
/// their own: correct, only with threads of their own. So for many locks make one `Store` and pass
/// `&store`.
///
/// With its first acquire a store starts three threads: one keeps the time and declares losses, one
/// runs what users gave to [`on_lost`](super::LockGuard::on_lost), and one is a runtime of tokio
/// that renews the leases and finishes what was dropped half-way. So neither depends on the runtime
/// of the program: it may be blocked, paused, shut down, or not there at all. The threads end with
/// the store.
///
/// ```
/// use dlock_core::MemoryDatastore;
/// use dlock_core::aio::{Lock, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::new(MemoryDatastore::new());
/// let import = Lock::new(&store, "hourly-import");
/// let export = Lock::new(&store, "hourly-export");
/// let guards = (import.try_acquire().await?, export.try_acquire().await?);
///
/// drop(guards); // released in the background
/// store.settled().await; // before the program ends
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store(pub(super) Arc<Shared>);

pub(super) struct Shared {
    /// `None` while it is dropped.
    datastore: Option<Box<dyn DynAsyncDatastore>>,
    pub(super) is_polled_by_caller: bool,
    pub(super) ends_its_calls: bool,
    pub(super) characteristics: Characteristics,
    pub(super) clock: Clock,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) name: Box<str>,
    background: PerProcess<Background>,
}

impl Store {
    /// A store on the system's clock, without an observer.
    pub fn new(datastore: impl AsyncDatastore + 'static) -> Self {
        Self::builder(datastore).build()
    }

    /// A store with a clock or an observer of your own.
    ///
    /// An observer of an async store must not block: it is called where the future is polled.
    pub fn builder(
        datastore: impl AsyncDatastore + 'static,
    ) -> StoreBuilder<Box<dyn DynAsyncDatastore>> {
        let own_clock = datastore.own_clock().cloned();
        StoreBuilder::of(Box::new(datastore), own_clock)
    }

    /// The clock that leases are measured on.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The name that [`StoreBuilder::name`] gave it; empty without one.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the datastore said of itself when the store was made.
    pub fn characteristics(&self) -> &Characteristics {
        &self.0.characteristics
    }

    /// The datastore inside the store.
    pub fn datastore(&self) -> &dyn DynAsyncDatastore {
        self.0.datastore()
    }

    /// Waits until nothing goes on in the background: what dropped guards and dropped futures left
    /// to do, and what ended waits still send to the store, so that no place in a queue is kept for
    /// them.
    ///
    /// Call it at the end of a graceful shutdown, when all tasks that use locks have ended. What is
    /// still on its way when `main` returns may be lost; its key then stays taken until its lease
    /// ends by itself. The wait is bounded: every call to a store ends, at the latest shortly after
    /// its [`call_timeout`](Characteristics::call_timeout).
    pub async fn settled(&self) {
        if let Some(background) = self.0.background.current() {
            background.pending().settled().await;
        }
    }

    /// What runs for the store in this process.
    pub(super) fn background(&self) -> &Background {
        self.background_of(ProcessId::current())
    }

    pub(super) fn background_of(&self, process: ProcessId) -> &Background {
        let make = || Background::new(&self.0.clock);
        self.0.background.of(process, make)
    }

    /// Starts all that an acquisition may need, before its first claim.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub(super) fn start(&self) -> Result<&Background, DatastoreError> {
        let background = self.background();
        match background.start(self.0.observer.is_some()) {
            Ok(_) => Ok(background),
            Err(error) => Err(DatastoreError::not_executed(ErrorKind::Refused, error)
                .during("starting the threads that keep the lease")),
        }
    }

    /// Lets a flow about `key` go on in the background.
    pub(super) fn go_on<T: Send + 'static>(&self, key: &Arc<str>, flow: Boxed<'static, T>) {
        let background = self.background();
        // A flow that has begun has started it.
        if let Some(runtime) = background.handle() {
            let work = background.pending().begin(Some(key));
            runtime.spawn(async move {
                drop(flow.await);
                drop(work);
            });
        }
    }
}

impl Shared {
    pub(super) fn datastore(&self) -> &dyn DynAsyncDatastore {
        self.datastore
            .as_deref()
            .expect("it is there until the store is dropped")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(background) = self.background.current() {
            background.stop();
        }
        if !self.background.is_own() {
            // In a forked child: a socket that is dropped here is dropped from the list on which
            // the runtime of the parent waits.
            std::mem::forget(self.datastore.take());
        }
    }
}

impl StoreBuilder<Box<dyn DynAsyncDatastore>> {
    /// The store.
    pub fn build(self) -> Store {
        let background = PerProcess::new(Background::new(&self.clock));
        let is_polled_by_caller = self.datastore.dyn_is_polled_by_caller();
        Store(Arc::new(Shared {
            is_polled_by_caller,
            // A task on the store's own runtime also needs that runtime to be free.
            ends_its_calls: is_polled_by_caller && self.datastore.dyn_ends_its_calls(),
            characteristics: self.datastore.dyn_characteristics(),
            datastore: Some(self.datastore),
            clock: self.clock,
            observer: self.observer,
            name: self.name,
            background,
        }))
    }
}

impl<D: AsyncDatastore + 'static> From<D> for Store {
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
