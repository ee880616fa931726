//! What the keeper has in its hands, seen from inside.

use super::*;
use crate::engine::callback::Callback;
use crate::lock::Lock;
use crate::memory::MemoryDatastore;
use crate::store::Store;
use crate::time::fake_clock::FakeClock;

fn inner() -> Inner {
    Inner::new(&FakeClock::new().clock())
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
    let store = Store::new(memory);
    let guard = Lock::new(&store, "job").try_acquire().unwrap();
    let counts = || {
        let state = store.keeper().0.state();
        (state.kept.len(), state.agenda.len())
    };
    assert_eq!(counts(), (1, 1));
    guard.release().unwrap();
    assert_eq!(counts(), (0, 0));
}

/// In a process of its own, whose threads ask for a stack that no machine has.
#[cfg(target_os = "linux")]
#[test]
fn where_no_thread_is_to_be_had_a_lock_is_not_taken_and_callbacks_wait() {
    if std::env::var_os("RUST_MIN_STACK").is_none() {
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = "where_no_thread_is_to_be_had_a_lock_is_not_taken_and_callbacks_wait";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child
            .args(["--exact", &format!("{module}::{name}")])
            .env("RUST_MIN_STACK", (1_u64 << 47).to_string())
            .output()
            .unwrap();
        let notified = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && notified.contains("1 passed"),
            "{notified}"
        );
        return;
    }
    let memory = MemoryDatastore::new();
    let store = Store::new(memory.clone());
    let refused = Lock::new(&store, "job").try_acquire().unwrap_err();
    assert!(!refused.is_held(), "{refused}");
    assert!(memory.is_empty(), "what it was granted is released");

    let keeper = store.keeper();
    keeper.call(Callback::new(|| panic!("there is a thread")).into());
    assert_eq!(keeper.0.delivery.waiting(), 1);
}

/// A task that is woken at the end of a lease finds the loss declared.
#[cfg(feature = "tokio")]
#[test]
fn losses_are_declared_before_tasks_are_woken() {
    use std::task::{Context, Wake, Waker};

    use crate::ProcessId;
    use crate::contract::characteristics::Characteristics;
    use crate::contract::claim::Claim;
    use crate::contract::grant::Grant;
    use crate::engine::lease_policy::LeasePolicy;
    use crate::options::LockOptions;

    struct Order(Mutex<Vec<&'static str>>);
    impl Wake for Order {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().push("woken");
        }
    }

    let fake = FakeClock::new();
    let clock = fake.clock();
    let ttl = Duration::from_secs(3);
    let end = clock.now().saturating_add(ttl);
    let claim = Claim::new("job", &clock, ttl).unwrap();
    let lease = Lease::new(claim, Grant::new(ttl));
    let policy = LeasePolicy::new(&LockOptions::default(), &Characteristics::default());
    let held = HeldLease::new(ProcessId::current(), lease, clock.now(), end, policy);
    let order = Arc::new(Order(Mutex::default()));
    let declared = Arc::clone(&order);
    let on_lost = Callback::prompt(move || declared.0.lock().unwrap().push("lost"));
    assert!(held.on_lost(on_lost).is_none());

    // Nobody runs its threads: the test looks itself.
    let keeper = Keeper(Arc::new(Inner::new(&clock)));
    let held = Arc::new(held);
    let mut state = keeper.0.state();
    (state.timing_started, state.worker_started) = (true, true);
    state.delivery_started = true;
    drop(state);
    keeper.keep(&held, false, |_| Ok(())).unwrap();
    let waker = Waker::from(Arc::clone(&order));
    let mut alarm = keeper.alarm(end);
    assert!(alarm.poll(&Context::from_waker(&waker)).is_pending());

    fake.advance(ttl);
    timing::look(&keeper.0).unwrap();
    assert_eq!(*order.0.lock().unwrap(), ["lost", "woken"]);
}

#[cfg(feature = "tokio")]
#[test]
fn an_alarm_wakes_its_task_at_its_time_and_is_forgotten_when_it_is_dropped() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    let fake = FakeClock::new();
    let keeper = Keeper::new(&fake.clock());
    keeper.start(false).unwrap();
    let at = |seconds| {
        let time = Duration::from_secs(seconds);
        keeper.alarm(fake.clock().now().saturating_add(time))
    };
    let wokens = [Arc::new(Woken::default()), Arc::new(Woken::default())];
    let wakers = wokens
        .each_ref()
        .map(|woken| Waker::from(Arc::clone(woken)));
    let contexts = wakers.each_ref().map(Context::from_waker);
    let counts = || {
        wokens
            .each_ref()
            .map(|woken| woken.0.load(Ordering::SeqCst))
    };
    let next = || keeper.0.state().alarms.next();

    let (mut first, mut second, mut never) = (at(5), at(10), keeper.alarm(Time::MAX));
    let end = fake.clock().now().saturating_add(Duration::from_secs(10));
    assert!(first.poll(&contexts[0]).is_pending() && second.poll(&contexts[1]).is_pending());
    // Polled again it is the same alarm.
    assert!(first.poll(&contexts[0]).is_pending() && never.poll(&contexts[0]).is_pending());
    fake.advance(Duration::from_secs(4));
    assert_eq!(counts(), [0, 0]);
    fake.advance(Duration::from_secs(1));
    assert_eq!((counts(), next()), ([1, 0], end));
    assert!(first.poll(&contexts[0]).is_ready() && second.poll(&contexts[1]).is_pending());
    drop(second);
    assert_eq!(next(), Time::MAX);
    fake.advance(Duration::from_secs(3600));
    assert_eq!(counts(), [1, 0]);
    keeper.stop();
}
