//! Futures that are dropped at each await, and what is left of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock_core::aio::{Lock, Store};
use dlock_core::{FakeClock, Inspect, LockEvent, LockOptions, MemoryDatastore, OnceOutcome};

use super::support::{
    Events, How, Odd, On, Stepped, block_on, eventually, in_time, is_held, nothing_is_left,
    poll_boxed, poll_times,
};

/// More polls than any future here needs.
const POLLS: usize = 60;

/// Runs `test` with a number of polls that grows from zero, until it says that its future was ready
/// by then; on a store that polls where the caller is and on one that does not, on each runtime.
fn at_each_poll(test: impl Fn(usize, &str, &Odd, &Store) -> bool) {
    for (by_caller, on) in [true, false].map(|by| On::ALL.map(|on| (by, on))).concat() {
        let was_ready = |polls| {
            let odd = Odd::new(How::Suspend).polled_by_caller(by_caller);
            let events = Events::default();
            let store = Store::builder(odd.clone())
                .observer(events.observer())
                .build();
            let at = format!("polled {polls} times, by the caller: {by_caller}, on {on:?}");
            on.run(|| {
                let ready = test(polls, &at, &odd, &store);
                nothing_is_left(&at, &odd, &store, &events);
                ready
            })
        };
        let first = (0..POLLS).find(|polls| was_ready(*polls));
        // A call that is a task may be over by the first look at it.
        let least = if by_caller { 2 } else { 1 };
        assert!(first.is_some_and(|polls| polls >= least), "{first:?}");
    }
}

#[test]
fn an_acquire_that_is_dropped_at_each_await_holds_nothing() {
    at_each_poll(|polls, _, _, store| {
        let acquired = poll_times(Lock::new(store, "job").try_acquire(), polls);
        acquired.is_some_and(|guard| block_on(guard.unwrap().release()).is_ok())
    });
}

#[test]
fn a_waiter_that_is_dropped_at_each_await_leaves_the_queue() {
    at_each_poll(|polls, at, odd, store| {
        let lock = Lock::new(store, "job");
        let holder = block_on(lock.try_acquire()).unwrap();
        // It never gets the lock, so the number of polls does not grow beyond those to its sleep.
        let mut waiter = Stepped::new(lock.acquire());
        let calls = odd.waits.load(Ordering::SeqCst);
        let is_asleep = || {
            // A claim, a watch and a second claim.
            odd.waits.load(Ordering::SeqCst) == calls + 3
        };
        let mut polled = 0;
        while polled < polls && !is_asleep() {
            assert!(waiter.poll().is_none(), "{at}");
            eventually(at, || waiter.is_woken() || is_asleep());
            polled += 1;
        }
        let asleep = is_asleep();
        drop(waiter);
        block_on(store.settled());
        block_on(holder.release()).unwrap();
        assert!(
            !is_held(&odd.memory),
            "{at}: handed to a waiter that is gone"
        );
        asleep
    });
}

#[test]
fn a_waiter_that_is_dropped_when_it_is_its_turn_hands_the_lock_on() {
    for by_caller in [true, false] {
        // Its clock stands still, so the turn of the first waiter does not end by itself.
        let memory = MemoryDatastore::with_clock(FakeClock::new().clock());
        let odd = Odd::on(memory, How::Suspend).polled_by_caller(by_caller);
        let store = Store::new(odd.clone());
        let lock = Lock::new(&store, "job");
        let holder = block_on(lock.try_acquire()).unwrap();
        let mut first = Box::pin(lock.acquire());
        let calls = odd.waits.load(Ordering::SeqCst);
        eventually("the waiter sleeps", || {
            assert!(poll_boxed(&mut first, 1).is_none());
            odd.waits.load(Ordering::SeqCst) == calls + 3
        });
        let second = std::thread::spawn({
            let lock = lock.clone();
            move || block_on(lock.acquire()).map(drop)
        });
        eventually("the second waiter waits", || {
            odd.waits.load(Ordering::SeqCst) >= calls + 6
        });
        block_on(holder.release()).unwrap();
        assert!(is_held(&odd.memory), "handed to the first waiter");
        drop(first);
        second.join().unwrap().unwrap();
        block_on(store.settled());
        assert!(!is_held(&odd.memory));
    }
}

#[test]
fn a_release_that_is_dropped_at_each_await_is_carried_out() {
    at_each_poll(|polls, _, _, store| {
        let guard = block_on(Lock::new(store, "job").try_acquire()).unwrap();
        poll_times(guard.release(), polls).is_some()
    });
}

#[test]
fn a_closure_under_the_lock_is_dropped_at_each_await_and_the_lock_released() {
    at_each_poll(|polls, at, odd, store| {
        let lock = Lock::new(store, "job");
        let job = lock.locked(async |guard| {
            assert!(guard.is_valid() && is_held(&odd.memory), "{at}");
            super::support::suspend().await;
        });
        poll_times(job, polls).is_some()
    });
}

#[test]
fn a_job_that_is_dropped_at_each_await_is_done_or_free_to_be_run_again() {
    at_each_poll(|polls, at, _, store| {
        let lock = Lock::new(store, "job");
        let day = Duration::from_secs(86_400);
        let succeeded = AtomicBool::new(false);
        let job = lock.once("hour", day, async |guard| {
            assert!(guard.is_valid(), "{at}");
            super::support::suspend().await;
            succeeded.store(true, Ordering::SeqCst);
            Ok::<_, ()>(())
        });
        let ready = poll_times(job, polls).is_some();
        // At once, without a wait for what goes on.
        let again = block_on(lock.once("hour", day, async |_| Ok::<_, ()>(())));
        match again
            .unwrap_or_else(|error| panic!("{at}: {error}"))
            .unwrap()
        {
            OnceOutcome::AlreadyDone { .. } => assert!(succeeded.into_inner(), "{at}"),
            OnceOutcome::Ran(()) => assert!(!succeeded.into_inner(), "{at}: it ran twice"),
            OnceOutcome::RanUnmarked(()) => panic!("{at}: it was not marked"),
        }
        ready
    });
}

#[test]
fn a_dropped_acquire_that_wins_is_not_reported_and_does_not_keep_the_key() {
    for by_caller in [true, false] {
        let odd = Odd::new(How::Unanswered).polled_by_caller(by_caller);
        let events: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let notified = Arc::clone(&events);
        let observer = move |event: &LockEvent<'_>| match event {
            LockEvent::Acquired { .. } => notified.lock().unwrap().push("acquired"),
            LockEvent::Released { .. } => notified.lock().unwrap().push("released"),
            LockEvent::ReleaseFailed { .. } => notified.lock().unwrap().push("release failed"),
            _ => {}
        };
        let store = Store::builder(odd.clone()).observer(observer).build();
        let options = LockOptions::builder().min_hold(Duration::from_secs(3600));
        let lock = Lock::with_options(&store, "job", options).unwrap();
        let mut acquire = Box::pin(lock.try_acquire());
        assert!(poll_boxed(&mut acquire, 1).is_none());
        eventually("the store has granted it", || is_held(&odd.memory));
        drop(acquire);
        odd.open();
        block_on(store.settled());
        assert!(!is_held(&odd.memory), "kept for an owner that never was");
        assert_eq!(*events.lock().unwrap(), [""; 0]);
    }
}

/// The store answers when the test says so: without a wait the second try would be refused by the
/// first.
#[test]
fn the_next_acquire_waits_for_a_dropped_one_and_for_a_dropped_guard() {
    let odd = Odd::new(How::Unanswered);
    let store = Store::new(odd.clone());
    let lock = Lock::new(&store, "job");
    // Begins while the store does not answer, and ends when it does.
    let next = |waits_more: usize, lock: &Lock| {
        let waits = odd.waits.load(Ordering::SeqCst);
        let mut acquire = Box::pin(lock.try_acquire());
        assert!(poll_boxed(&mut acquire, 1).is_none());
        eventually("the store is asked, if it may be", || {
            odd.waits.load(Ordering::SeqCst) >= waits + waits_more
        });
        odd.open();
        block_on(acquire).unwrap()
    };
    assert!(poll_times(lock.acquire(), 1).is_none());
    eventually("the store grants it", || is_held(&odd.memory));
    let guard = next(0, &lock);
    assert!(is_held(&odd.memory));
    odd.close();
    drop(guard);
    let guard = next(0, &lock);
    // What goes on about one key holds up no other.
    odd.close();
    drop(guard);
    drop(next(1, &Lock::new(&store, "other")));
    block_on(store.settled());
    assert!(odd.memory.is_empty());
}

#[test]
fn an_acquire_waits_for_what_goes_on_for_one_call_at_most() {
    let mut odd = Odd::new(How::Hang);
    odd.call_timeout = Duration::from_millis(300);
    let store = Store::new(odd.clone());
    let lock = Lock::new(&store, "job");
    assert!(poll_times(lock.acquire(), 1).is_none());
    eventually("the store is called", || {
        odd.calls.load(Ordering::SeqCst) >= 1
    });
    // The dropped one goes on for longer: its call, then the claim is abandoned by another.
    assert!(block_on(lock.try_acquire()).is_err());
    assert!(odd.calls.load(Ordering::SeqCst) >= 2, "it asked the store");
    block_on(store.settled());
}

/// Ten thousand claims at a store that answers nobody: each is ended soon after its end.
#[test]
fn a_store_that_hangs_leaves_no_task_behind() {
    for by_caller in [true, false] {
        let mut odd = Odd::new(How::Hang).polled_by_caller(by_caller);
        odd.call_timeout = Duration::from_millis(200);
        let store = Store::new(odd.clone());
        let tasks = Arc::new(());
        for number in 0..1000 {
            let acquire = Lock::new(&store, format!("job {number}")).acquire();
            let task = Arc::clone(&tasks);
            let acquire = async move {
                let _task = task;
                acquire.await.map(drop)
            };
            assert!(poll_times(acquire, 1).is_none());
        }
        block_on(store.settled());
        assert_eq!(Arc::strong_count(&tasks), 1);
        // The calls are gone as well, which hold the datastore.
        let calls = Arc::downgrade(&odd.calls);
        drop((odd, store));
        eventually("the calls end", || calls.strong_count() == 0);
    }
}

#[test]
fn a_panic_ends_a_future_and_nothing_of_it_goes_on() {
    for by_caller in [true, false] {
        let odd = Odd::new(How::Panic).polled_by_caller(by_caller);
        let store = Store::new(odd.clone());
        let lock = Lock::new(&store, "job");
        let acquire = std::thread::spawn({
            let lock = lock.clone();
            move || block_on(lock.try_acquire()).map(drop)
        });
        assert!(acquire.join().is_err(), "the caller gets the panic");
        block_on(store.settled());
        assert_eq!(odd.calls.load(Ordering::SeqCst), 1, "it went on");

        // In the background it ends nothing but its own flow.
        odd.switch(false);
        let other = Lock::new(&store, "other");
        let guard = block_on(other.try_acquire()).unwrap();
        odd.switch(true);
        drop(guard);
        block_on(store.settled());
        odd.switch(false);
        drop(block_on(Lock::new(&store, "third").try_acquire()).unwrap());
    }
}

/// A `select!` in a loop polls the same future again and keeps its place.
#[tokio::test]
async fn an_acquire_is_polled_by_reference_in_a_loop() {
    let store = Store::new(MemoryDatastore::new());
    let lock = Lock::new(&store, "job");
    let holder = lock.try_acquire().await.unwrap();
    let mut acquire = lock.acquire();
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let (mut holder, mut ticked) = (Some(holder), 0);
    let guard = in_time(async {
        loop {
            tokio::select! {
                guard = &mut acquire => break guard.unwrap(),
                _ = ticks.tick() => ticked += 1,
            }
            if ticked == 5 {
                drop(holder.take());
            }
        }
    });
    assert!(guard.await.is_valid() && ticked >= 5);
}

/// The answer to the claim that was under way is a refusal: there is nothing more to ask.
#[test]
fn a_dropped_waiter_that_is_refused_asks_for_no_wake_up() {
    let odd = Odd::new(How::Unanswered);
    let store = Store::new(odd.clone());
    let lock = Lock::new(&store, "job");
    odd.open();
    let _holder = block_on(lock.try_acquire()).unwrap();
    let waits = odd.waits.load(Ordering::SeqCst);
    odd.close();
    assert!(poll_times(lock.acquire(), 1).is_none());
    odd.open();
    block_on(store.settled());
    assert_eq!(odd.waits.load(Ordering::SeqCst), waits + 1);
}

#[test]
fn nothing_happens_before_the_first_poll() {
    let odd = Odd::new(How::Suspend);
    let store = Store::new(odd.clone());
    drop(Lock::new(&store, "job").acquire());
    block_on(store.settled());
    assert_eq!(odd.calls.load(Ordering::SeqCst), 0);
}

#[test]
fn ten_thousand_waiters_that_are_dropped_at_once_leave_the_lock_free() {
    let memory = MemoryDatastore::new();
    let store = Store::new(memory.clone());
    // To leave takes a while on a machine with too much to do.
    let options = LockOptions::builder().ttl(Duration::from_secs(3600));
    let lock = Lock::with_options(&store, "job", options).unwrap();
    let holder = block_on(lock.try_acquire()).unwrap();
    let mut waiters: Vec<_> = (0..10_000).map(|_| Box::pin(lock.acquire())).collect();
    for waiter in &mut waiters {
        assert!(poll_boxed(waiter, 1).is_none());
    }
    drop(waiters);
    block_on(store.settled());
    block_on(holder.release()).unwrap();
    assert!(Inspect::holder(&memory, lock.key()).unwrap().is_none());
    drop(block_on(lock.try_acquire()).unwrap());
}

/// A user's cancel ends an async wait as it ends a blocking one.
#[test]
fn a_cancel_ends_a_wait() {
    let store = Store::new(MemoryDatastore::new());
    let lock = Lock::new(&store, "job");
    let _holder = block_on(lock.try_acquire()).unwrap();
    let cancel = dlock_core::Cancel::new();
    let wait = dlock_core::Wait::forever().cancelled_by(&cancel);
    let waiter = std::thread::spawn({
        let acquire = lock.acquire_with(&wait);
        move || block_on(acquire).map(drop)
    });
    cancel.cancel();
    let ended = waiter.join().unwrap();
    assert!(matches!(ended, Err(dlock_core::AcquireError::Cancelled)));
}
