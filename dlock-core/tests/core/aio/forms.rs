//! The forms of use: the same names and the same meaning as the blocking form has.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use dlock_core::aio::{self, Lock, Store};
use dlock_core::{
    AcquireError, ErrorKind, LockOptions, MemoryDatastore, OnceOutcome, Optional, OptionsError,
    Wait,
};

use super::support::{How, LONG, Odd, block_on, in_time, suspend};

fn lock() -> Lock {
    Lock::new(Store::new(Odd::new(How::Suspend)), "job")
}

#[tokio::test]
async fn a_closure_borrows_what_it_needs_and_keeps_its_own_error() {
    let lock = lock();
    let (text, mut count) = (String::from("borrowed"), 0);
    let length = lock.locked(async |guard| {
        suspend().await;
        count += 1;
        assert!(guard.is_valid());
        text.len()
    });
    assert_eq!(length.await.unwrap(), 8);
    assert_eq!(count, 1);
    let failed = lock.locked(async |_| "x".parse::<u32>());
    assert!(failed.await.unwrap().is_err());
    assert_eq!(lock.locked(answer).await.unwrap(), 42);
}

async fn answer(guard: &aio::LockGuard) -> u32 {
    suspend().await;
    assert!(guard.is_valid());
    42
}

#[tokio::test(flavor = "multi_thread")]
async fn the_futures_can_be_spawned() {
    let lock = lock();
    let spawned = tokio::spawn({
        let lock = lock.clone();
        async move {
            let number = lock.locked(async |_| {
                suspend().await;
                "7".parse::<u32>()
            });
            let number = number.await?;
            let day = Duration::from_secs(86_400);
            let ran = lock.once("hour", day, async |_| {
                suspend().await;
                Ok::<_, ()>(())
            });
            let kept = lock.locked_or_cancel(async |_| suspend().await);
            Ok::<_, AcquireError>((number, ran.await?, kept.await?))
        }
    });
    let (number, ran, kept) = in_time(spawned).await.unwrap().unwrap();
    assert_eq!(number, Ok(7));
    assert_eq!((ran, kept), (Ok(OnceOutcome::Ran(())), Some(())));
}

/// It can be kept in a struct, moved, and polled by reference.
#[test]
fn an_acquire_borrows_nothing_and_is_small() {
    fn is_free<T: Send + Unpin + 'static>(future: T) -> T {
        future
    }
    let acquire = is_free(lock().acquire());
    assert!(size_of_val(&acquire) <= 96, "{}", size_of_val(&acquire));
    let guard = block_on(acquire).unwrap();
    assert!(size_of_val(&guard) <= 96, "{}", size_of_val(&guard));
    fn is_shared<T: Send + Sync + 'static>(_: &T) {}
    is_shared(&guard);
    let boxed: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(is_free(guard.release()));
    block_on(boxed).unwrap();
}

#[tokio::test]
async fn refusals_and_options_are_those_of_the_blocking_form() {
    let memory = MemoryDatastore::new();
    let options = || LockOptions::builder().key_prefix("billing").label("payout");
    let blocking = dlock_core::Lock::with_options(memory.clone(), "job", options()).unwrap();
    let lock = Lock::with_options(memory.clone(), "job", options()).unwrap();
    assert_eq!((lock.key(), lock.id()), (blocking.key(), "job"));
    assert_eq!(lock.options(), blocking.options());

    let held = blocking.try_acquire().unwrap();
    let refused = lock.try_acquire().await.unwrap_err();
    assert!(
        refused.is_held() && refused.to_string().contains("payout"),
        "{refused}"
    );
    assert!(lock.try_acquire().await.optional().unwrap().is_none());
    held.release().unwrap();
    let guard = lock.try_acquire().await.optional().unwrap().unwrap();
    assert!(guard.fencing_token().is_some() && guard.remaining() > Duration::from_secs(20));
    assert_eq!(guard.key(), "billing:job");
    assert!(blocking.try_acquire().unwrap_err().is_held());
    guard.release().await.unwrap();

    let none = Lock::with_options(memory.clone(), "", options());
    assert!(matches!(none, Err(OptionsError::Empty { .. })));
    let day = Duration::from_secs(86_400);
    let nameless = lock.once("", day, async |_| Ok::<_, ()>(())).await;
    assert!(matches!(nameless, Err(AcquireError::Invalid(_))));
    let nameless = std::panic::catch_unwind(|| Lock::new(MemoryDatastore::new(), ""));
    assert!(nameless.is_err());
}

#[tokio::test]
async fn a_wait_ends_when_it_says_and_names_the_holder() {
    let lock = lock();
    let holder = lock.acquire().await.unwrap();
    let short = Duration::from_millis(500);
    assert!(lock.acquire_within(short).await.unwrap_err().is_held());
    let wait = Wait::within(short);
    assert!(lock.acquire_with(&wait).await.unwrap_err().is_held());
    assert!(
        lock.locked_within(short, async |_| ())
            .await
            .unwrap_err()
            .is_held()
    );
    assert!(
        lock.locked_with(&wait, async |_| ())
            .await
            .unwrap_err()
            .is_held()
    );
    let cancellable = lock.locked_or_cancel_with(&wait, async |_| ());
    assert!(cancellable.await.unwrap_err().is_held());
    holder.release().await.unwrap();
    assert_eq!(lock.locked_within(LONG, async |_| 1).await.unwrap(), 1);
    let wait = Wait::within(LONG);
    let cancellable = lock.locked_or_cancel_with(&wait, async |_| 2);
    assert_eq!(cancellable.await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_waiter_gets_the_lock_when_it_is_released() {
    let lock = lock();
    let holder = lock.acquire().await.unwrap();
    let first = holder.fencing_token();
    let waiter = tokio::spawn(lock.acquire());
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    holder.release().await.unwrap();
    let guard = in_time(waiter).await.unwrap().unwrap();
    assert!(guard.fencing_token() > first);
}

#[tokio::test]
async fn a_panic_of_a_closure_releases_the_lock() {
    let lock = lock();
    let panicking = tokio::spawn({
        let lock = lock.clone();
        async move { lock.locked(async |_| panic!("the job fails")).await }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    drop(lock.try_acquire().await.unwrap());
}

#[tokio::test]
async fn a_job_runs_once_and_again_if_it_failed() {
    let lock = lock();
    let day = Duration::from_secs(86_400);
    let failed = lock.once("hour", day, async |_| "x".parse::<u8>()).await;
    assert!(failed.unwrap().is_err());
    let ran = lock.once("hour", day, async |_| "7".parse::<u8>()).await;
    assert_eq!(ran.unwrap(), Ok(OnceOutcome::Ran(7)));
    let wait = Wait::forever();
    let again = lock.once_with(&wait, "hour", day, async |_| "8".parse::<u8>());
    assert!(matches!(
        again.await.unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
}

/// The two forms of the same job know each other's marks.
#[tokio::test]
async fn a_job_that_one_form_did_is_done_for_the_other() {
    let memory = MemoryDatastore::new();
    let day = Duration::from_secs(86_400);
    let blocking = dlock_core::Lock::new(memory.clone(), "job");
    let ran = blocking.once("hour", day, |_| Ok::<_, ()>(1)).unwrap();
    assert_eq!(ran, Ok(OnceOutcome::Ran(1)));
    let again = Lock::new(memory, "job")
        .once("hour", day, async |_| Ok::<_, ()>(2))
        .await;
    assert!(matches!(
        again.unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
}

#[tokio::test]
async fn a_store_that_does_not_end_a_call_is_an_error_in_time() {
    let mut odd = Odd::new(How::Hang);
    odd.call_timeout = Duration::from_millis(100);
    let refused = in_time(Lock::new(Store::new(odd), "job").try_acquire()).await;
    let Err(AcquireError::Datastore(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
}
