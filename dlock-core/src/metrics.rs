//! An observer that counts and measures with the `metrics` crate.
//!
//! Any exporter of that crate shows what it records: Prometheus, StatsD, and others. See
//! [`MetricsObserver`] for the names.

use metrics::{Label, SharedString, counter, gauge, histogram};

use crate::observer::{LockEvent, Observer, StoreCall};
use crate::outcome_word::{RELEASE_FAILURES, of_acquire, of_release};

/// The counters whose only labels are `store` and `key`.
const COUNTERS: [&str; 6] = [
    "dlock_acquired_total",
    "dlock_refused_total",
    "dlock_lost_total",
    "dlock_at_risk_total",
    "dlock_renewal_failed_total",
    "dlock_already_done_total",
];

/// An [`Observer`] that records what happens to locks with the `metrics` crate.
///
/// Give it to a store by [`StoreBuilder::observer`](crate::StoreBuilder::observer); it records
/// through whatever recorder the program has installed, and costs little more than nothing without
/// one. Times are in seconds.
///
/// | name | kind | labels | what |
/// | --- | --- | --- | --- |
/// | `dlock_acquire_wait_seconds` | histogram | `store`, `outcome` | from the call that acquires to its end; `outcome` is `acquired`, `held`, `cancelled` or `failed` |
/// | `dlock_hold_seconds` | histogram | `store` | from the grant to the release |
/// | `dlock_renewal_lag_seconds` | histogram | `store` | how long after it was due a renewal was sent |
/// | `dlock_store_call_seconds` | histogram | `store`, `op`, `outcome` | one call to the store; `outcome` is `ok` or `error` |
/// | `dlock_acquired_total` | counter | `store` | locks that were acquired |
/// | `dlock_refused_total` | counter | `store` | claims that were refused; a waiter may see many |
/// | `dlock_lost_total` | counter | `store` | leases that ended while the guard lived |
/// | `dlock_at_risk_total` | counter | `store` | leases of which only the grace period was left |
/// | `dlock_renewal_failed_total` | counter | `store` | renewals that failed and are tried again |
/// | `dlock_release_failed_total` | counter | `store`, `outcome` | releases that failed; `outcome` is `lost`, `not_released` or `unknown` |
/// | `dlock_already_done_total` | counter | `store` | jobs of `once` that had been done before |
/// | `dlock_held` | gauge | `store` | guards that live |
/// | `dlock_waiting` | gauge | `store` | calls that wait for a lock |
///
/// Keys are no labels unless [`with_keys`](Self::with_keys) asks for it: a key for each customer
/// would make a time series for each customer.
///
/// ```
/// use dlock_core::metrics::MetricsObserver;
/// use dlock_core::{Lock, MemoryDatastore, Store};
///
/// let store = Store::builder(MemoryDatastore::new())
///     .observer(MetricsObserver::new("memory"))
///     .build();
/// let guard = Lock::new(&store, "hourly-import").try_acquire()?; // dlock_held{store="memory"} is 1
/// # drop(guard);
/// # Ok::<(), dlock_core::AcquireError>(())
/// ```
#[derive(Debug, Clone)]
pub struct MetricsObserver {
    store: SharedString,
    keys: bool,
}

impl MetricsObserver {
    /// An observer whose metrics have this label `store`. Install the recorder before.
    ///
    /// Its counters and `dlock_held` begin at zero here, not with their first event: in Prometheus
    /// a counter whose first value is one has not increased, so an alarm would miss the first loss.
    pub fn new(store: impl Into<String>) -> Self {
        let observer = MetricsObserver {
            store: SharedString::from(store.into()),
            keys: false,
        };
        observer.begin_at_zero("");
        observer
    }

    /// Adds the label `key` to everything but `dlock_store_call_seconds`. For programs with few
    /// keys. The counters of a key begin at zero when the key is acquired for the first time.
    #[must_use]
    pub fn with_keys(mut self) -> Self {
        self.keys = true;
        self
    }

    /// Makes the recorder know what alarms look at.
    fn begin_at_zero(&self, key: &str) {
        for name in COUNTERS {
            counter!(name, self.labels(key)).increment(0);
        }
        gauge!("dlock_held", self.labels(key)).increment(0.0);
        for outcome in RELEASE_FAILURES {
            let labels = self.labels_and_outcome(key, outcome);
            counter!("dlock_release_failed_total", labels).increment(0);
        }
    }

    fn labels(&self, key: &str) -> Vec<Label> {
        let mut labels = vec![self.store_label()];
        if self.keys {
            labels.push(Label::new("key", key.to_owned()));
        }
        labels
    }

    fn labels_and_outcome(&self, key: &str, outcome: &'static str) -> Vec<Label> {
        let mut labels = self.labels(key);
        labels.push(Label::new("outcome", outcome));
        labels
    }

    fn store_label(&self) -> Label {
        Label::new("store", self.store.clone())
    }
}

impl Observer for MetricsObserver {
    fn on(&self, event: &LockEvent<'_>) {
        match event {
            LockEvent::Acquired { key, waited, .. } => {
                if self.keys {
                    self.begin_at_zero(key);
                }
                counter!("dlock_acquired_total", self.labels(key)).increment(1);
                gauge!("dlock_held", self.labels(key)).increment(1);
                let labels = self.labels_and_outcome(key, of_acquire(None));
                histogram!("dlock_acquire_wait_seconds", labels).record(*waited);
            }
            LockEvent::NotAcquired {
                key, error, waited, ..
            } => {
                let labels = self.labels_and_outcome(key, of_acquire(Some(error)));
                histogram!("dlock_acquire_wait_seconds", labels).record(*waited);
            }
            LockEvent::Refused { key, .. } => {
                counter!("dlock_refused_total", self.labels(key)).increment(1);
            }
            LockEvent::Waiting { key } => {
                gauge!("dlock_waiting", self.labels(key)).increment(1);
            }
            LockEvent::WaitEnded { key, .. } => {
                gauge!("dlock_waiting", self.labels(key)).decrement(1);
            }
            LockEvent::Renewed { key, late, .. } => {
                histogram!("dlock_renewal_lag_seconds", self.labels(key)).record(*late);
            }
            LockEvent::RenewalFailed { key, .. } => {
                counter!("dlock_renewal_failed_total", self.labels(key)).increment(1);
            }
            LockEvent::AtRisk { key } => {
                counter!("dlock_at_risk_total", self.labels(key)).increment(1);
            }
            LockEvent::Lost { key } => {
                counter!("dlock_lost_total", self.labels(key)).increment(1);
            }
            LockEvent::Released { key, held } => {
                gauge!("dlock_held", self.labels(key)).decrement(1);
                histogram!("dlock_hold_seconds", self.labels(key)).record(*held);
            }
            LockEvent::ReleaseFailed { key, held, error } => {
                gauge!("dlock_held", self.labels(key)).decrement(1);
                histogram!("dlock_hold_seconds", self.labels(key)).record(*held);
                let labels = self.labels_and_outcome(key, of_release(Some(error)));
                counter!("dlock_release_failed_total", labels).increment(1);
            }
            LockEvent::AlreadyDone { key, .. } => {
                counter!("dlock_already_done_total", self.labels(key)).increment(1);
            }
        }
    }

    fn on_call(&self, call: &StoreCall<'_>) {
        let outcome = if call.error.is_some() { "error" } else { "ok" };
        let labels = vec![
            self.store_label(),
            Label::new("op", call.operation.name()),
            Label::new("outcome", outcome),
        ];
        histogram!("dlock_store_call_seconds", labels).record(call.took);
    }
}
