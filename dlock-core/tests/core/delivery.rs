//! The threads on which a loss is delivered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::{Fault, Flaky, eventually, is_alone};
use dlock_core::{FakeClock, Lock, LockEvent, LockOptions, MemoryDatastore, Observer, Store};

const SECOND: Duration = Duration::from_secs(1);
/// The number in the documentation of [`LockGuard`](dlock_core::LockGuard).
const MOST_CALLBACKS: usize = 8;

fn short_lived(store: &Store, id: &str) -> dlock_core::LockGuard {
    let options = LockOptions::builder().renew(false).ttl(SECOND);
    let lock = Lock::with_options(store, id, options).unwrap();
    lock.try_acquire().unwrap()
}

fn fake_store(observer: impl Observer + 'static) -> (FakeClock, Store) {
    let fake = FakeClock::new();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::builder(memory);
    (fake.clone(), store.observer(observer).build())
}

/// The names of the threads of this process that dlock has started.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("dlock-")).count()
}

/// In a process of its own, since the threads of all tests count.
#[cfg(target_os = "linux")]
#[test]
fn twenty_thousand_lost_locks_and_a_slow_observer_make_few_threads() {
    if !is_alone("delivery::twenty_thousand_lost_locks_and_a_slow_observer_make_few_threads") {
        return;
    }
    let (fake, store) = fake_store(|event: &LockEvent<'_>| {
        if matches!(event, LockEvent::Lost { .. } | LockEvent::AtRisk { .. }) {
            thread::sleep(SECOND / 2);
        }
    });
    let called = Arc::new(AtomicUsize::new(0));
    let hold = |number: usize| {
        let guard = short_lived(&store, &number.to_string());
        let called = Arc::clone(&called);
        guard.on_lost(move || {
            called.fetch_add(1, Ordering::SeqCst);
        });
        guard
    };
    let guards: Vec<_> = (0..20_000).map(hold).collect();
    fake.advance(SECOND * 2);
    // In addition: the thread that keeps the time, the one that renews, and the one that runs the
    // observer.
    let most = MOST_CALLBACKS + 3;
    eventually("all callbacks", || {
        let threads = threads();
        assert!(threads <= most, "{threads} threads");
        called.load(Ordering::SeqCst) == 20_000
    });
    assert!(guards.iter().all(|guard| !guard.is_valid()));
}

#[test]
fn an_observer_that_blocks_delays_neither_callbacks_nor_renewals() {
    let (block, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let observer = move |event: &LockEvent<'_>| {
        if matches!(event, LockEvent::Renewed { .. } | LockEvent::AtRisk { .. }) {
            let _ = blocked.lock().unwrap().recv();
        }
    };
    let (fake, store) = fake_store(observer);
    let kept = Lock::new(&store, "kept").try_acquire().unwrap();
    let lost = short_lived(&store, "lost");
    let (sender, called) = mpsc::channel();
    lost.on_lost(move || sender.send(()).unwrap());
    fake.advance(SECOND * 300);
    called.recv_timeout(SECOND * 20).expect("called");
    assert!(kept.is_valid() && !lost.is_valid());
    drop(block);
}

#[test]
fn seven_callbacks_that_block_leave_room_for_the_next() {
    let (fake, store) = fake_store(|_: &LockEvent<'_>| {});
    let (block, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let stuck: Vec<_> = (1..MOST_CALLBACKS)
        .map(|number| {
            let guard = short_lived(&store, &format!("stuck-{number}"));
            let blocked = Arc::clone(&blocked);
            guard.on_lost(move || {
                let _ = blocked.lock().unwrap().recv();
            });
            guard
        })
        .collect();
    fake.advance(SECOND * 2);
    let guard = short_lived(&store, "job");
    let (sender, called) = mpsc::channel();
    guard.on_lost(|| panic!("intended by the test"));
    guard.on_lost(move || sender.send(()).unwrap());
    fake.advance(SECOND * 2);
    called.recv_timeout(SECOND * 20).expect("called");
    drop((block, stuck));
}

#[test]
fn the_events_of_one_lock_come_in_their_order() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let (fake, store) = fake_store(move |event: &LockEvent<'_>| {
        let event = match event {
            LockEvent::AtRisk { key, .. } => format!("at risk {key}"),
            LockEvent::Lost { key, .. } => format!("lost {key}"),
            _ => return,
        };
        seen.lock().unwrap().push(event);
    });
    let guards: Vec<_> = (0..100)
        .map(|number| short_lived(&store, &number.to_string()))
        .collect();
    fake.advance(SECOND * 2);
    eventually("all events", || events.lock().unwrap().len() == 200);
    for guard in &guards {
        let events = events.lock().unwrap();
        let place = |what: &str| {
            let event = format!("{what} {}", guard.key());
            events.iter().position(|seen| *seen == event).unwrap()
        };
        assert!(place("at risk") < place("lost"));
    }
}

#[test]
fn a_thousand_lost_guards_are_dropped_without_a_call_each() {
    let flaky = Flaky::new();
    let store = Store::from(flaky.clone());
    let options = LockOptions::builder().renew(false).ttl(SECOND);
    let hold = |number: usize| {
        let lock = Lock::with_options(&store, number.to_string(), options.clone()).unwrap();
        lock.try_acquire().unwrap()
    };
    let guards: Vec<_> = (0..1000).map(hold).collect();
    eventually("lost", || guards.iter().all(|guard| !guard.is_valid()));
    // A server that hangs: each call takes a while and fails.
    let (seen, hang) = (flaky.releases.count(), SECOND);
    flaky.releases.delay(hang);
    flaky.releases.fail_always(Some(Fault::LoseRequest));
    let (sender, dropped) = mpsc::channel();
    thread::spawn(move || {
        drop(guards);
        sender.send(()).unwrap();
    });
    dropped
        .recv_timeout(SECOND * 20)
        .expect("beside the caller");
    thread::sleep(hang * 3);
    let tries = flaky.releases.count() - seen;
    // On a busy machine the first call may fail before the last guard is dropped.
    assert!((1..=3).contains(&tries), "{tries}");
}
