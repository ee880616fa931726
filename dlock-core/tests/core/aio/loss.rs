//! Losses are declared in time, whatever the runtime of the program does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use dlock_core::aio::{Lock, LockGuard, Store};
use dlock_core::{
    Clock, FakeClock, Inspect, LockEvent, LockOptions, MemoryDatastore, ReleaseError,
    ReleaseOutcome, Time,
};

use super::support::{How, LONG, Odd, TTL, eventually, in_time, is_held};

fn short() -> dlock_core::LockOptionsBuilder {
    LockOptions::builder().ttl(TTL)
}

/// Takes the lock from its holder, as an operator would.
fn break_it(memory: &MemoryDatastore, guard: &LockGuard) {
    let broken = Inspect::break_lease(memory, guard.key(), guard.fencing_token().unwrap());
    assert_eq!(broken.unwrap(), ReleaseOutcome::Released);
}

/// The only thread of the program's runtime is blocked for longer than a lease.
#[test]
fn a_lease_is_renewed_while_the_executor_is_blocked() {
    for by_caller in [true, false] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let odd = Odd::new(How::Suspend).polled_by_caller(by_caller);
            let lock = Lock::with_options(Store::new(odd.clone()), "job", short()).unwrap();
            let guard = lock.try_acquire().await.unwrap();
            // Three renewals come before the first end, the fourth after it.
            eventually("renewed", || odd.extends.load(Ordering::SeqCst) >= 4);
            assert!(guard.is_valid());
            guard.release().await.unwrap();
        });
    }
}

/// The same, and the store does not answer: the loss is reported while the executor is blocked.
#[test]
fn a_loss_is_declared_in_time_while_the_executor_is_blocked() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut odd = Odd::new(How::Hang);
        odd.switch(false);
        odd.call_timeout = Duration::from_millis(100);
        let observed: Arc<Mutex<Vec<Time>>> = Arc::default();
        let notified = Arc::clone(&observed);
        let store = Store::builder(odd.clone())
            .observer(move |event: &LockEvent<'_>| {
                if matches!(event, LockEvent::Lost { .. }) {
                    notified.lock().unwrap().push(Clock::BOOTTIME.now());
                }
            })
            .build();
        let lock = Lock::with_options(&store, "job", short()).unwrap();
        let guard = lock.try_acquire().await.unwrap();
        odd.switch(true);
        let (sender, lost) = mpsc::channel();
        guard.on_lost(move || sender.send(Clock::BOOTTIME.now()).unwrap());
        // Blocked until it happens: there is nobody but dlock's own threads to do it.
        let lost = lost.recv_timeout(LONG).unwrap();
        assert!(!guard.is_valid());
        eventually("the observer is notified", || {
            !observed.lock().unwrap().is_empty()
        });
        assert!(lost <= Clock::BOOTTIME.now());
        in_time_of_an_own_runtime(&guard);
        assert!(matches!(guard.release().await, Err(ReleaseError::Lost)));
    });
}

/// A lost guard is seen at the first poll.
fn in_time_of_an_own_runtime(guard: &LockGuard) {
    assert!(super::support::poll_times(guard.lost(), 1).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_paused_time_of_tokio_touches_no_lease() {
    for how in [How::Suspend, How::Timer] {
        let odd = Odd::new(how);
        let lock = Lock::with_options(Store::new(odd), "job", short()).unwrap();
        let guard = lock.try_acquire().await.unwrap();
        tokio::time::sleep(Duration::from_secs(3600)).await; // an hour, at once
        assert!(guard.is_valid());
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_fake_clock_drives_renewals_waits_and_losses() {
    let fake = FakeClock::new();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::new(Odd::on(memory, How::Suspend));
    let lock = Lock::new(&store, "job");
    let guard = lock.try_acquire().await.unwrap();
    fake.advance(Duration::from_secs(3600));
    assert!(guard.is_valid(), "it was renewed all the time");
    guard.release().await.unwrap();

    let options = LockOptions::builder()
        .ttl(Duration::from_secs(30))
        .renew(false);
    let once = Lock::with_options(&store, "job", options).unwrap();
    let first = once.try_acquire().await.unwrap();
    let waiter = tokio::spawn(lock.acquire());
    let lost = tokio::time::timeout(Duration::from_millis(30), first.lost());
    assert!(lost.await.is_err(), "the clock stands");
    fake.advance(Duration::from_secs(31));
    in_time(first.lost()).await;
    let second = in_time(async {
        // The waiter may have gone to sleep after the clock was moved.
        let mut waiter = waiter;
        loop {
            tokio::select! {
                second = &mut waiter => break second.unwrap().unwrap(),
                () = tokio::time::sleep(Duration::from_millis(20)) => fake.advance(Duration::from_secs(1)),
            }
        }
    });
    assert!(second.await.fencing_token() > first.fencing_token());
    assert!(matches!(first.release().await, Err(ReleaseError::Lost)));
}

/// It moves by itself when somebody sleeps, and a task sleeps as a thread does.
#[tokio::test]
async fn a_jumping_clock_is_moved_by_the_sleep_of_a_task() {
    let fake = FakeClock::jumping();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let options = LockOptions::builder()
        .ttl(Duration::from_secs(30))
        .renew(false);
    let lock = Lock::with_options(memory, "job", options).unwrap();
    let first = lock.try_acquire().await.unwrap();
    let second = in_time(lock.acquire()).await.unwrap();
    assert!(second.fencing_token() > first.fencing_token());
}

#[tokio::test]
async fn a_broken_lease_ends_lost_and_the_job_that_must_not_outlive_it() {
    let odd = Odd::new(How::Suspend);
    let memory = odd.memory.clone();
    let lock = Lock::with_options(Store::new(odd), "job", short()).unwrap();
    let dropped = Arc::new(AtomicBool::new(false));
    let ended = lock.locked_or_cancel(async |guard| {
        let _sign = Sign(Arc::clone(&dropped));
        break_it(&memory, guard);
        std::future::pending::<()>().await;
    });
    assert_eq!(in_time(ended).await.unwrap(), None);
    assert!(dropped.load(Ordering::SeqCst), "the job was dropped");

    let guard = lock.try_acquire().await.unwrap();
    break_it(&memory, &guard);
    in_time(guard.lost()).await;
    in_time(guard.lost()).await;
    assert!(!guard.is_valid() && matches!(guard.release().await, Err(ReleaseError::Lost)));
}

struct Sign(Arc<AtomicBool>);

impl Drop for Sign {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Two tasks may wait for it, each as often as it likes.
#[tokio::test]
async fn all_who_wait_for_a_loss_learn_of_it() {
    let odd = Odd::new(How::Suspend);
    let memory = odd.memory.clone();
    let lock = Lock::with_options(Store::new(odd), "job", short()).unwrap();
    let guard = Arc::new(lock.try_acquire().await.unwrap());
    for _ in 0..10_000 {
        assert!(super::support::poll_times(guard.lost(), 1).is_none());
    }
    let waiters = [0, 1].map(|_| {
        let guard = Arc::clone(&guard);
        tokio::spawn(async move { guard.lost().await })
    });
    tokio::task::yield_now().await;
    break_it(&memory, &guard);
    for waiter in waiters {
        in_time(waiter).await.unwrap();
    }
}

/// Callbacks may block; a task that waits for the loss does not wait behind them.
#[test]
fn a_task_learns_of_a_loss_while_callbacks_block() {
    let memory = MemoryDatastore::new();
    let store = Store::new(memory.clone());
    let guards: Vec<_> = (0..20)
        .map(|number| {
            let lock = Lock::with_options(&store, format!("job {number}"), short()).unwrap();
            super::support::block_on(lock.try_acquire()).unwrap()
        })
        .collect();
    let open = Arc::new(AtomicBool::new(false));
    for guard in &guards {
        let open = Arc::clone(&open);
        guard.on_lost(move || eventually("the test ends", || open.load(Ordering::SeqCst)));
    }
    for guard in &guards {
        break_it(&memory, guard);
    }
    for guard in &guards {
        super::support::block_on(guard.lost());
    }
    open.store(true, Ordering::SeqCst);
}

/// A guard that is lost and dropped leaves nothing in the store, and `settled` waits for that.
#[test]
fn what_may_be_left_of_a_lost_lease_is_released_before_the_store_is_settled() {
    let odd = Odd::new(How::Suspend);
    let options = LockOptions::builder()
        .ttl(Duration::from_secs(1))
        .renew(false);
    let store = Store::new(odd.clone());
    let lock = Lock::with_options(&store, "job", options).unwrap();
    let guard = super::support::block_on(lock.try_acquire()).unwrap();
    eventually("it is lost", || !guard.is_valid());
    let calls = odd.calls.load(Ordering::SeqCst);
    drop(guard);
    super::support::block_on(store.settled());
    assert!(odd.calls.load(Ordering::SeqCst) > calls, "it was released");
    assert!(!is_held(&odd.memory));
}
