//! What the metrics of a store show.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use crate::support::eventually;
use dlock_core::metrics::MetricsObserver;
use dlock_core::{Datastore, FakeClock, Lock, LockOptions, MemoryDatastore, ReleaseOutcome, Store};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Runs `test` with a recorder of its own, which the threads of a store do not see.
fn recorded(test: impl FnOnce(&Snapshotter)) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || test(&snapshotter));
}

/// Each series as Prometheus would write it, and what was recorded since the snapshot before: for a
/// histogram how many values.
fn series(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key
            .key()
            .labels()
            .map(|label| format!("{}={:?}", label.key(), label.value()))
            .collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.0,
            DebugValue::Histogram(values) => values.len() as f64,
        };
        all.insert(
            format!("{}{{{}}}", key.key().name(), labels.join(",")),
            value,
        );
    }
    all
}

fn store() -> Store {
    Store::builder(MemoryDatastore::new())
        .observer(MetricsObserver::new("memory"))
        .build()
}

#[test]
fn a_pair_is_counted_and_measured() {
    recorded(|snapshotter| {
        let store = store();
        let guard = Lock::new(&store, "import").try_acquire().unwrap();
        let held = series(snapshotter);
        assert_eq!(held[r#"dlock_held{store="memory"}"#], 1.0);
        assert_eq!(held[r#"dlock_acquired_total{store="memory"}"#], 1.0);
        guard.release().unwrap();
        let free = series(snapshotter);
        assert_eq!(
            free[r#"dlock_held{store="memory"}"#], -1.0,
            "one less than in the snapshot before"
        );
        for once in [
            r#"dlock_hold_seconds{store="memory"}"#,
            r#"dlock_store_call_seconds{store="memory",op="release",outcome="ok"}"#,
        ] {
            assert_eq!(free[once], 1.0, "{free:?}");
        }
        // Each snapshot starts anew, so these two were in the first.
        for once in [
            r#"dlock_acquire_wait_seconds{store="memory",outcome="acquired"}"#,
            r#"dlock_store_call_seconds{store="memory",op="acquire",outcome="ok"}"#,
        ] {
            assert_eq!(held[once], 1.0, "{held:?}");
        }
    });
}

#[test]
fn a_refusal_is_counted_and_a_wait_is_seen_while_it_lasts() {
    recorded(|snapshotter| {
        let store = store();
        let lock = Lock::new(&store, "import");
        let guard = lock.try_acquire().unwrap();
        assert!(lock.try_acquire().unwrap_err().is_held());
        let refused = series(snapshotter);
        assert_eq!(refused[r#"dlock_refused_total{store="memory"}"#], 1.0);
        assert_eq!(
            refused[r#"dlock_acquire_wait_seconds{store="memory",outcome="held"}"#],
            1.0
        );
        assert!(
            !refused.contains_key(r#"dlock_waiting{store="memory"}"#),
            "a call that does not wait is no waiter"
        );

        assert!(
            lock.acquire_within(Duration::from_secs(1))
                .unwrap_err()
                .is_held()
        );
        let waited = series(snapshotter);
        assert_eq!(waited[r#"dlock_waiting{store="memory"}"#], 0.0);
        drop(guard);
    });
}

#[test]
fn keys_are_labels_only_if_asked_for() {
    recorded(|snapshotter| {
        let store = Store::builder(MemoryDatastore::new())
            .observer(MetricsObserver::new("memory").with_keys())
            .build();
        drop(Lock::new(&store, "import").try_acquire().unwrap());
        let all = series(snapshotter);
        let held = r#"dlock_held{store="memory",key="dlock:import"}"#;
        assert_eq!(all[held], 0.0, "{all:?}");
    });
}

/// In Prometheus a counter that appears with the value one has not increased, so the alarm for a
/// lost lock would miss the first loss.
#[test]
fn what_alarms_look_at_begins_at_zero_and_not_with_its_first_event() {
    let names = |label: &str| {
        let plain = [
            "acquired",
            "already_done",
            "at_risk",
            "lost",
            "refused",
            "renewal_failed",
        ];
        let failed = ["lost", "not_released", "unknown"];
        let plain = plain.map(|name| format!("dlock_{name}_total{{{label}}}"));
        let failed = failed
            .map(|outcome| format!(r#"dlock_release_failed_total{{{label},outcome="{outcome}"}}"#));
        let held = [format!("dlock_held{{{label}}}")];
        let all = plain.into_iter().chain(failed).chain(held);
        all.collect::<BTreeSet<_>>()
    };
    recorded(|snapshotter| {
        let observer = MetricsObserver::new("memory");
        let all = series(snapshotter);
        assert_eq!(
            all.keys().cloned().collect::<BTreeSet<_>>(),
            names(r#"store="memory""#)
        );
        assert!(all.values().all(|count| *count == 0.0), "{all:?}");

        let store = Store::builder(MemoryDatastore::new())
            .observer(observer.with_keys())
            .build();
        drop(Lock::new(&store, "import").try_acquire().unwrap());
        let all = series(snapshotter);
        for name in names(r#"store="memory",key="dlock:import""#) {
            let count = f64::from(u8::from(name.starts_with("dlock_acquired_total")));
            assert_eq!(all.get(&name), Some(&count), "{name} in {all:?}");
        }
    });
}

#[test]
fn a_lost_lease_fails_its_release() {
    recorded(|snapshotter| {
        let store = store();
        let options = LockOptions::builder()
            .ttl(Duration::from_secs(1))
            .renew(false);
        let lock = Lock::with_options(&store, "import", options).unwrap();
        let guard = lock.try_acquire().unwrap();
        while guard.is_valid() {
            thread::sleep(Duration::from_millis(5));
        }
        guard.release().unwrap_err();
        let all = series(snapshotter);
        assert_eq!(all[r#"dlock_held{store="memory"}"#], 0.0);
        let failed = r#"dlock_release_failed_total{store="memory",outcome="lost"}"#;
        assert_eq!(all[failed], 1.0, "{all:?}");
    });
}

#[test]
fn renewals_and_losses_are_recorded_by_the_threads_of_the_store() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    let fake = FakeClock::new();
    let datastore = MemoryDatastore::with_clock(fake.clock());
    let store = Store::builder(datastore.clone())
        .observer(MetricsObserver::new("background"))
        .build();
    let _guard = Lock::new(&store, "import").try_acquire().unwrap();
    let until_recorded = |name: &str| {
        fake.advance(Duration::from_secs(15));
        let series_of = format!("{name}{{store=\"background\"}}");
        eventually(name, || {
            // Counters are there from the start, at zero.
            let value = series(&snapshotter).get(&series_of).copied();
            value.is_some_and(|value| value > 0.0)
        });
    };
    until_recorded("dlock_renewal_lag_seconds");
    let inspect = datastore.inspect().unwrap();
    let held = inspect.holder("dlock:import").unwrap().unwrap();
    let broken = inspect.break_lease("dlock:import", held.fence().unwrap());
    assert_eq!(broken.unwrap(), ReleaseOutcome::Released);
    until_recorded("dlock_lost_total");
}
