//! A store in use: the datastore, its clock, and the threads that keep its leases.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::keeper::Keeper;
use crate::{Characteristics, Clock, Datastore, LockEvent, Observer};

/// A handle to a store in use. Clones are the same store.
///
/// Locks that are made from one `Store` share the two threads that keep their leases, and are renewed in batches where the
/// store can. Locks made from a bare [`Datastore`] each make a `Store` of their own: correct, only with threads of their own. So for many locks
/// make one `Store` and pass `&store`.
///
/// It derefs to the [`Datastore`].
#[derive(Clone)]
pub struct Store(Arc<Shared>);

pub(crate) struct Shared {
    datastore: Box<dyn Datastore>,
    characteristics: Characteristics,
    clock: Clock,
    observer: Option<Box<dyn Observer>>,
    keepers: Keepers,
}

impl Store {
    /// A store on the system's clock, observed by nobody.
    pub fn new(datastore: impl Datastore + 'static) -> Self {
        Self::builder(datastore).build()
    }

    /// A store with a clock or an observer of your own.
    pub fn builder(datastore: impl Datastore + 'static) -> StoreBuilder {
        StoreBuilder {
            datastore: Box::new(datastore),
            clock: Clock::BOOTTIME,
            observer: None,
        }
    }

    /// The clock that leases are measured on.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// What the datastore said of itself when the store was made.
    pub fn characteristics(&self) -> &Characteristics {
        &self.0.characteristics
    }

    /// The threads that keep this store's leases in this process.
    pub(crate) fn keeper(&self) -> &Keeper {
        self.keeper_of(std::process::id())
    }

    /// The same for who has asked for this process's id already: each look is a call to the system.
    pub(crate) fn keeper_of(&self, pid: u32) -> &Keeper {
        self.0.keepers.of(pid)
    }

    pub(crate) fn tell(&self, event: &LockEvent<'_>) {
        self.0.tell(event);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Shared {
    pub(crate) fn datastore(&self) -> &dyn Datastore {
        &*self.datastore
    }

    pub(crate) fn characteristics(&self) -> &Characteristics {
        &self.characteristics
    }

    pub(crate) fn tell(&self, event: &LockEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer.on(event);
        }
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keepers.stop();
    }
}

impl Deref for Store {
    type Target = dyn Datastore;

    fn deref(&self) -> &Self::Target {
        &*self.0.datastore
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("characteristics", &self.0.characteristics)
            .field("clock", &self.0.clock)
            .finish_non_exhaustive()
    }
}

/// Makes a [`Store`].
pub struct StoreBuilder {
    datastore: Box<dyn Datastore>,
    clock: Clock,
    observer: Option<Box<dyn Observer>>,
}

impl StoreBuilder {
    /// With this clock, instead of the system's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// With this observer.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// The store.
    pub fn build(self) -> Store {
        let characteristics = self.datastore.characteristics();
        let keepers = Keepers::new(&self.clock);
        Store(Arc::new(Shared {
            datastore: self.datastore,
            characteristics,
            clock: self.clock,
            observer: self.observer,
            keepers,
        }))
    }
}

impl fmt::Debug for StoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreBuilder")
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// One keeper for each process that has this memory: a forked child has none of its parent's threads, and its parent's
/// keeper may have been locked at the fork by a thread that the child lacks. So the child gets one of its own and
/// never touches the other. The list grows only by forks of forks.
struct Keepers {
    pid: u32,
    keeper: Keeper,
    clock: Clock,
    child: OnceLock<Box<Keepers>>,
}

impl Keepers {
    fn new(clock: &Clock) -> Self {
        Keepers {
            pid: std::process::id(),
            keeper: Keeper::new(clock),
            clock: clock.clone(),
            child: OnceLock::new(),
        }
    }

    fn of(&self, pid: u32) -> &Keeper {
        let mut keepers = self;
        while keepers.pid != pid {
            keepers = keepers
                .child
                .get_or_init(|| Box::new(Keepers::new(&self.clock)));
        }
        &keepers.keeper
    }

    fn stop(&self) {
        let pid = std::process::id();
        let mut keepers = Some(self);
        while let Some(of) = keepers {
            if of.pid == pid {
                of.keeper.stop();
            }
            keepers = of.child.get().map(|child| &**child);
        }
    }
}
