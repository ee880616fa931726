//! What a process writes down, while it works with locks as any user does.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock_core::{
    AcquireError, Characteristics, Clock, Datastore, Fencing, Layered, LockEvent, Store, Time,
};

use crate::log::Log;
use crate::witness::Witness;
use crate::{Harm, What};

thread_local! {
    /// How often the acquire of this thread was refused so far.
    static REFUSALS: Cell<u32> = const { Cell::new(0) };
}

/// Does what a user of one store does, and appends each step to a file of its own. Clones write to
/// the same file.
///
/// Each event is one small `write`, so a process may be killed at any moment and loses the step
/// that it was in, no other.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    log: Arc<Log>,
    store: Option<Store>,
    holdings: AtomicU64,
}

impl Recorder {
    /// A recorder that writes to `<folder>/<actor>.history`, for a store that is called `name` in
    /// the history. Names have no white space.
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
        let witness = Witness::new(Arc::clone(&log));
        let store = Store::builder(Layered::new(datastore, witness))
            .observer(|event: &LockEvent<'_>| {
                if matches!(event, LockEvent::Refused { .. }) {
                    REFUSALS.set(REFUSALS.get().saturating_add(1));
                }
            })
            .build();
        Self::opened(&log, store.characteristics());
        Ok(Self::over(log, Some(store)))
    }

    /// A recorder of async locks.
    #[cfg(feature = "tokio")]
    pub(super) fn of_async(log: Arc<Log>, characteristics: &Characteristics) -> Self {
        Self::opened(&log, characteristics);
        Self::over(log, None)
    }

    fn opened(log: &Log, characteristics: &Characteristics) {
        let opened = What::Opened {
            granularity: characteristics.granularity,
            fenced: characteristics.fencing != Fencing::None,
            confirms: characteristics.confirm_after.is_some(),
            wakes: characteristics.wakes,
        };
        let now = now();
        log.record("-", (now, now), opened);
    }

    /// A recorder for a process that breaks things in the store `name`, and opens none itself.
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

    /// Records that something was broken from then until now.
    pub fn fault(&self, name: &str, harm: Harm, since: Time) {
        let what = What::Fault {
            name: name.to_owned(),
            harm,
        };
        self.record("-", (since, now()), what);
    }

    /// Records that nothing is broken from now on, and that every key must be acquired within
    /// `patience`.
    pub fn calm(&self, patience: Duration) {
        let now = now();
        self.record("-", (now, now), What::Calm { patience });
    }

    /// Forgets the refusals of this thread, before an acquire.
    pub(super) fn begin() {
        REFUSALS.set(0);
    }

    /// How often the acquire of this thread was refused so far.
    pub(super) fn refusals() -> u32 {
        REFUSALS.get()
    }

    pub(super) fn refused(&self, key: &str, (before, refusals): (Time, u32), error: &AcquireError) {
        let what = match error {
            AcquireError::Held(_) => What::Refused { refusals },
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
        self.record(key, (before, now()), what);
    }

    pub(super) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.0.log)
    }

    /// The number of a new holding.
    pub(super) fn next_holding(&self) -> u64 {
        self.0.holdings.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn record(&self, key: &str, span: (Time, Time), what: What) {
        self.0.log.record(key, span, what);
    }
}

pub(super) fn now() -> Time {
    Clock::BOOTTIME.now()
}
