//! Async locks on a real server: handing over, giving up, and a busy executor.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dlock_core::LockOptions;
use dlock_core::aio::{Lock, Store};
use tokio::task::JoinSet;

use super::*;
use crate::queue::{nothing_is_left, waiting};

/// Polls a future this number of times, and drops it.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    for _ in 0..times {
        let ready = std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx)));
        if let std::task::Poll::Ready(done) = ready.await {
            return Some(done);
        }
        // The reply arrives meanwhile, or does not.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

#[test]
fn fifty_tasks_that_wait_for_one_lock_get_it_one_after_the_other() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let store = Store::new(store(&server));
        let holders = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..50 {
                let (lock, holders) = (Lock::new(&store, "import"), Arc::clone(&holders));
                tasks.spawn(async move {
                    let job = async |guard: &dlock_core::aio::LockGuard| {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        tokio::task::yield_now().await;
                        holders.fetch_sub(1, Ordering::SeqCst);
                        guard.fencing_token().unwrap()
                    };
                    lock.locked_within(LONG * 2, job).await.unwrap()
                });
            }
            let mut tokens = BTreeSet::new();
            while let Some(token) = tasks.join_next().await {
                assert!(tokens.insert(token.unwrap()));
            }
            assert_eq!(tokens.len(), 50);
            store.settled().await;
        });
        drop(store);
        nothing_is_left(&server);
    }
}

#[test]
fn an_acquire_that_is_dropped_while_it_waits_leaves_the_queue_and_the_next_gets_the_lock() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let store = Store::new(store(&server));
        runtime.block_on(async {
            let lock = Lock::new(&store, "import");
            let guard = lock.acquire().await.unwrap();
            let mut waits = lock.acquire();
            tokio::select! {
                _ = &mut waits => panic!("the lock is held"),
                () = until("it waits", || waiting(&server) == 1) => {}
            }
            drop(waits);
            until("it has left", || waiting(&server) == 0).await;
            guard.release().await.unwrap();
            lock.acquire_within(LONG)
                .await
                .unwrap()
                .release()
                .await
                .unwrap();
            store.settled().await;
        });
        drop(store);
        nothing_is_left(&server);
    }
}

#[test]
fn an_acquire_that_is_dropped_at_any_poll_holds_nothing_and_waits_for_nothing() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let store = Store::new(store(&server));
        runtime.block_on(async {
            let lock = Lock::new(&store, "import");
            for polls in 0..8 {
                drop(polled(polls, lock.acquire()).await);
                store.settled().await;
                let taken: Vec<_> = server
                    .keys()
                    .into_iter()
                    .filter(|key| key != FENCE)
                    .collect();
                assert!(taken.is_empty(), "after {polls} polls: {taken:?}");

                let guard = lock.try_acquire().await.unwrap();
                assert!(polled(polls, lock.acquire()).await.is_none());
                store.settled().await;
                assert_eq!(waiting(&server), 0, "after {polls} polls");
                drop(polled(polls, guard.release()).await);
                store.settled().await;
                assert!(
                    !server.keys().contains(&KEY.to_owned()),
                    "after {polls} polls"
                );
            }
        });
    }
}

/// It leaves over the connection of its runtime, or with the heartbeats if that is broken.
#[test]
fn a_store_is_settled_when_those_who_gave_up_have_left_the_queue() {
    for runtime in runtimes() {
        for is_broken in [false, true] {
            let server = RedisServer::start();
            let store = Store::new(patient(&server.url()));
            runtime.block_on(async {
                let lock = Lock::new(&store, "import");
                let _guard = lock.acquire().await.unwrap();
                let mut waits = lock.acquire();
                tokio::select! {
                    _ = &mut waits => panic!("the lock is held"),
                    () = until("it waits", || waiting(&server) == 1) => {}
                }
                if is_broken {
                    server.command(["CLIENT", "KILL", "TYPE", "normal"]);
                }
                server.pause();
                drop(waits);
                {
                    let mut settled = std::pin::pin!(store.settled());
                    for _ in 0..5 {
                        let mut polled = std::pin::pin!(polled(1, settled.as_mut()));
                        assert!(
                            polled.as_mut().await.is_none(),
                            "the server has not answered"
                        );
                    }
                    server.resume();
                    settled.await;
                }
                assert_eq!(waiting(&server), 0);
            });
        }
    }
}

#[test]
fn a_guard_that_is_dropped_frees_the_lock_though_its_runtime_ends_with_it() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let store = Store::new(store(&server));
        let guard = runtime
            .block_on(Lock::new(&store, "import").acquire())
            .unwrap();
        runtime.block_on(async { drop(guard) });
        drop(runtime);
        let freed = || !server.keys().contains(&KEY.to_owned());
        support::until("the lock is free", freed);
    }
}

#[test]
fn a_lease_is_kept_while_the_executor_is_blocked() {
    let server = RedisServer::start();
    let options = LockOptions::builder().ttl(Duration::from_secs(9));
    let lock = Lock::with_options(store(&server), "import", options).unwrap();
    current_thread().block_on(async {
        let guard = lock.acquire().await.unwrap();
        // Blocks the runtime's only thread, and with it the connection there.
        std::thread::sleep(Duration::from_secs(12));
        assert!(guard.is_valid());
        guard.release().await.unwrap();
    });
}
