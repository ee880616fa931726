//! What the keeper has in its hands, seen from inside.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::{FakeClock, Lock, MemoryDatastore, Store};

fn inner() -> Inner {
    Inner {
        clock: FakeClock::new().clock(),
        state: Mutex::default(),
        timing: Signal::new(),
        work: Signal::new(),
    }
}

/// Until when the timing thread sleeps if nobody wakes it.
fn sleeps_until(inner: Inner) -> Time {
    let keeper = Keeper(Arc::new(inner));
    let timing = Arc::clone(&keeper.0);
    // Its own size, for a process in which no thread of the usual size is to be had.
    let thread = thread::Builder::new().stack_size(1 << 20);
    let thread = thread.spawn(move || timing::run(&timing)).unwrap();
    let until = loop {
        assert!(!thread.is_finished(), "it runs until it is stopped");
        if let Some(until) = keeper.0.state().next_look {
            break until;
        }
        thread::yield_now();
    };
    keeper.stop();
    thread.join().unwrap();
    until
}

#[test]
fn who_has_nothing_to_keep_sleeps_until_it_is_woken() {
    assert_eq!(sleeps_until(inner()), Time::MAX);
}

#[test]
fn a_released_lease_is_kept_no_longer() {
    let fake = FakeClock::new();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::builder(memory).clock(fake.clock()).build();
    let guard = Lock::new(&store, "job").try_acquire().unwrap();
    let counts = || {
        let state = store.keeper().0.state();
        (state.kept.len(), state.agenda.len())
    };
    assert_eq!(counts(), (1, 1));
    guard.release().unwrap();
    assert_eq!(counts(), (0, 0));
}

#[test]
fn a_callback_that_got_its_thread_is_not_kept_to_be_called_again() {
    let inner = inner();
    let (sender, called) = mpsc::channel();
    let callback = Callback::new(move || sender.send(()).unwrap());
    assert!(inner.try_call(vec![callback]));
    called.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(inner.state().undelivered.is_empty());
}

/// In a process of its own, whose threads ask for a stack that no machine has.
#[cfg(target_os = "linux")]
#[test]
fn where_no_thread_is_to_be_had_callbacks_wait_and_locks_are_not_taken() {
    if std::env::var_os("RUST_MIN_STACK").is_none() {
        let name = "where_no_thread_is_to_be_had_callbacks_wait_and_locks_are_not_taken";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child
            .args(["--exact", &format!("keeper::tests::{name}")])
            .env("RUST_MIN_STACK", (1_u64 << 47).to_string())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && told.contains("1 passed"),
            "{told}"
        );
        return;
    }
    let memory = MemoryDatastore::new();
    let store = Store::new(memory.clone());
    let refused = Lock::new(&store, "job").try_acquire().unwrap_err();
    assert!(!refused.is_held(), "{refused}");
    assert!(memory.is_empty(), "what it was granted is released");

    let keeper = store.keeper();
    keeper.call(vec![Callback::new(|| panic!("there is a thread"))]);
    assert_eq!(keeper.0.state().undelivered.len(), 1);
    assert!(keeper.0.timing.take(), "the timing thread tries again");

    let inner = inner();
    inner.call(vec![Callback::new(|| panic!("there is a thread"))]);
    assert!(sleeps_until(inner) < Time::MAX, "and again");
}
