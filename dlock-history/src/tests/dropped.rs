//! What was dropped.

use super::*;

fn dropped(before: u64, after: u64, held: bool) -> Event {
    event("a", before, after, What::Dropped { held })
}

#[test]
fn what_was_dropped_and_cleaned_up_holds_nothing() {
    assert!(violated(&[&[dropped(100, 200, false)]]).is_empty());
    assert_eq!(violated(&[&[dropped(100, 200, true)]]), [Property::Clean]);
}

#[test]
fn a_store_that_lost_data_may_have_got_back_what_was_cleaned_up() {
    let held = dropped(100, 200, true);
    for (from, to) in [(0, 100), (150, 160), (200, 300)] {
        let report = check(&[&[held.clone(), fault(from, to, Harm::Loss)]]);
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!(report.figures.excused_others, 1);
    }
    for fault in [
        fault(0, 99, Harm::Loss),
        fault(201, 300, Harm::Loss),
        fault(100, 200, Harm::None),
    ] {
        assert_eq!(violated(&[&[held.clone(), fault]]), [Property::Clean]);
    }
}

#[test]
fn drops_count_against_a_history_that_shows_nothing() {
    let history = History::of(vec![opened(), dropped(100, 200, false)]);
    let of = |dropped| {
        let rules = Rules {
            dropped,
            ..Rules::default()
        };
        history.check(&rules).violations.len()
    };
    assert_eq!((of(1), of(2)), (0, 1));
}

#[cfg(feature = "tokio")]
mod recorded {
    use std::sync::Arc;

    use dlock_core::aio::{DynAsyncDatastore, Lock};
    use dlock_core::{LockOptions, MemoryDatastore, OnceOutcome, Wait};

    use super::*;
    use crate::AsyncRecorder;

    #[tokio::test]
    async fn a_run_of_async_locks_is_read_back_and_a_grant_that_was_forgotten_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let memory: Arc<dyn DynAsyncDatastore> = Arc::new(MemoryDatastore::new());
        let recorder = AsyncRecorder::create(folder.path(), "a", "memory", memory).unwrap();
        let lock = |label: &str| {
            let options = LockOptions::builder().label(label);
            Lock::with_options(recorder.store(), "x", options).unwrap()
        };
        let since = at(0);
        let failures = recorder.failures();

        // Each end of a hold, and a wait that is dropped.
        let (first, second) = (lock("first"), lock("second"));
        let mut holding = recorder.acquire(&first, &Wait::none()).await.unwrap();
        assert!(!holding.look().is_zero());
        let wait = Wait::forever();
        let waits = recorder.acquire(&second, &wait);
        assert!(tokio::time::timeout(ms(30), waits).await.is_err());
        recorder.dropped(&second, since, failures).await;
        drop(holding.release());
        recorder.dropped(&first, since, failures).await;
        let done = recorder
            .once(&first, &Wait::none(), ("job", ms(500)), async || {
                Ok::<_, ()>(())
            })
            .await;
        assert_eq!(done.unwrap().unwrap(), OnceOutcome::Ran(()));
        let report = History::read(folder.path())
            .unwrap()
            .check(&Rules::default());
        assert!(report.violations.is_empty(), "{report}");
        let figures = &report.figures;
        assert_eq!((figures.grants, figures.dropped, figures.jobs), (2, 2, 1));

        std::mem::forget(recorder.acquire(&first, &Wait::none()).await.unwrap());
        recorder.dropped(&second, since, failures).await;
        recorder.dropped(&first, since, failures).await;
        let report = History::read(folder.path())
            .unwrap()
            .check(&Rules::default());
        let found: Vec<_> = report.violations.iter().map(|v| v.property).collect();
        assert_eq!(found, [Property::Clean], "{report}");
    }
}
