//! A loss is on record when it is declared, whatever its holder does meanwhile.

use std::path::Path;
use std::thread;
use std::time::Instant;

use dlock_core::{Inspect, Lock, LockOptions, MemoryDatastore, ReleaseOutcome, Wait};

use super::*;
use crate::Recorder;

/// Sleeps until an event of the actor `a` is on record, without a look at any guard.
fn is_recorded(folder: &Path, what: &str) {
    let start = Instant::now();
    let path = folder.join("a.history");
    while !std::fs::read_to_string(&path).unwrap().contains(what) {
        assert!(start.elapsed() < ms(60_000), "no `{what}`");
        thread::sleep(ms(5));
    }
}

fn losses(folder: &Path) -> Vec<Event> {
    let history = History::read(folder).unwrap();
    let events = history.events().iter().cloned();
    events
        .filter(|event| matches!(event.what, What::Lost { .. }))
        .collect()
}

#[test]
fn a_loss_is_on_record_before_its_holder_looks() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryDatastore::new();
    let recorder = Recorder::create(folder.path(), "a", "memory", memory.clone()).unwrap();
    let options = LockOptions::builder().ttl(ms(3000));
    let lock = Lock::with_options(recorder.store(), "x", options).unwrap();
    let mut holding = recorder.acquire(&lock, &Wait::none()).unwrap();
    let fence = holding.guard().fencing_token().unwrap();
    let broken = memory.break_lease(lock.key(), fence).unwrap();
    assert_eq!(broken, ReleaseOutcome::Released);
    // The keeper learns it with the next renewal.
    is_recorded(folder.path(), " lost 0");
    let found = losses(folder.path());
    assert!(holding.look().is_zero());
    assert!(holding.release().is_err());
    assert_eq!(losses(folder.path()), found, "once");
    assert_eq!(found.len(), 1);
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_loss_is_on_record_while_the_executor_is_blocked() {
    use std::sync::Arc;

    use crate::AsyncRecorder;

    let folder = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemoryDatastore::new());
    let recorder = AsyncRecorder::create(folder.path(), "a", "memory", memory).unwrap();
    let options = LockOptions::builder().ttl(ms(300)).renew(false);
    let store = recorder.store();
    let lock = dlock_core::aio::Lock::with_options(store, "x", options).unwrap();
    let mut holding = recorder.acquire(&lock, &Wait::none()).await.unwrap();
    is_recorded(folder.path(), " lost 0");
    assert!(holding.look().is_zero());
    assert_eq!(losses(folder.path()).len(), 1, "once");
}
