//! Async locks on a real server: taking turns, giving up, and a busy executor.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use dlock_core::LockOptions;
use dlock_core::aio::{Lock, LockGuard, Store};
use tokio::task::JoinSet;

use super::*;

/// The id of a lock whose key is its own.
fn id(name: &str) -> String {
    key(name)["dlock:".len()..].to_owned()
}

fn is_free(id: &str) -> bool {
    value(server(), &format!("dlock:{id}")).is_none()
}

#[test]
fn tasks_that_wait_for_one_lock_get_it_one_after_the_other() {
    for runtime in runtimes() {
        let store = Store::new(store(server()));
        let holders = Arc::new(AtomicUsize::new(0));
        let id = id("aio-turns");
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..10 {
                let (lock, holders) = (Lock::new(&store, &*id), Arc::clone(&holders));
                tasks.spawn(async move {
                    let job = async |guard: &LockGuard| {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        tokio::task::yield_now().await;
                        holders.fetch_sub(1, Ordering::SeqCst);
                        guard.fencing_token().unwrap()
                    };
                    lock.locked_within(PATIENCE, job).await.unwrap()
                });
            }
            let mut tokens = BTreeSet::new();
            while let Some(token) = tasks.join_next().await {
                assert!(tokens.insert(token.unwrap()));
            }
            assert_eq!(tokens.len(), 10);
            store.settled().await;
            assert!(is_free(&id));
        });
    }
}

/// Polls a future this number of times, and drops it.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..times {
        let ready = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
        if let Poll::Ready(done) = ready.await {
            return Some(done);
        }
        // The reply arrives meanwhile, or does not.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

#[test]
fn an_acquire_or_a_release_that_is_dropped_at_any_poll_leaves_nothing() {
    for runtime in runtimes() {
        let store = Store::new(store(server()));
        runtime.block_on(async {
            let id = id("aio-polls");
            let lock = Lock::new(&store, &*id);
            for polls in 0..6 {
                drop(polled(polls, lock.acquire()).await);
                store.settled().await;
                assert!(is_free(&id), "after {polls} polls");

                let guard = lock.try_acquire().await.unwrap();
                assert!(polled(polls, lock.acquire()).await.is_none());
                drop(polled(polls, guard.release()).await);
                store.settled().await;
                assert!(is_free(&id), "after {polls} polls");
            }
        });
    }
}

#[test]
fn a_guard_that_is_dropped_frees_the_lock_though_its_runtime_ends_with_it() {
    for runtime in runtimes() {
        let store = Store::new(store(server()));
        let id = id("aio-ends");
        let guard = runtime.block_on(Lock::new(&store, &*id).acquire()).unwrap();
        runtime.block_on(async { drop(guard) });
        drop(runtime);
        current_thread().block_on(until("the lock is free", || is_free(&id)));
    }
}

#[test]
fn a_lease_is_kept_while_the_executor_is_blocked() {
    let options = LockOptions::builder().ttl(Duration::from_secs(9));
    let store = store(server());
    let lock = Lock::with_options(store, &*id("aio-blocked"), options).unwrap();
    current_thread().block_on(async {
        let guard = lock.acquire().await.unwrap();
        // Blocks the runtime's only thread, and with it the connection there.
        thread::sleep(Duration::from_secs(12));
        assert!(guard.is_valid());
        guard.release().await.unwrap();
    });
}

#[test]
fn a_verified_grant_was_looked_at_before_it_is_reported() {
    let proxy = Proxy::to(server().address());
    let store = MemcacheDatastore::builder(&format!("memcache://{}", proxy.address()));
    let store = store.unwrap().call_timeout(CALL).connect_timeout(CALL);
    let store = store.verify_before_grant(true).build();
    for runtime in runtimes() {
        runtime.block_on(async {
            ours(releases(&store, &taken(&store, &key("aio-warm")).await).await);
            let gets = || server().stats()["get_hits"].parse::<u64>().unwrap();
            // A process that was stopped meanwhile opens another connection, so the least counts.
            let mut trips = Vec::new();
            while trips.len() < 5 && trips.last() != Some(&2) {
                let before = gets();
                proxy.reset_counts();
                let start = std::time::Instant::now();
                let lease = taken(&store, &key("aio-verified")).await;
                assert!(start.elapsed() >= Duration::from_millis(200));
                trips.push(proxy.counts().round_trips);
                assert!(gets() > before);
                ours(releases(&store, &lease).await);
            }
            assert_eq!(trips.last(), Some(&2), "a store and a look: {trips:?}");
        });
    }
}

#[test]
fn an_operator_sees_the_holder_in_async_code_and_breaks_exactly_that_lease() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (proxy, store) = through_a_proxy().await;
            let inspect = AsyncDatastore::inspect(&store).unwrap();
            let key = key("aio-inspected");
            assert!(inspect.holder(&key).await.unwrap().is_none());
            let first = taken(&store, &key).await;
            let seen = inspect.holder(&key).await.unwrap().unwrap();
            assert_eq!(seen.fence(), first.fence());
            assert!(seen.holder().unwrap().is_this_process());
            ours(inspect.break_lease(&key, seen.fence().unwrap()).await);
            lost(extends(&store, &first, 1).await);
            let second = taken(&store, &key).await;
            not_ours(inspect.break_lease(&key, seen.fence().unwrap()).await);
            extended(extends(&store, &second, 1).await);
            // The record of another client is shown but not broken.
            let theirs = support::key("aio-theirs");
            assert_eq!(foreign_add(server(), &theirs, "1", 60), "STORED");
            let seen = inspect.holder(&theirs).await.unwrap().unwrap();
            assert!(seen.holder().is_none());
            not_ours(inspect.break_lease(&theirs, first.fence().unwrap()).await);
            let error = inspect.holder("not a key").await.unwrap_err();
            assert_eq!(error.kind(), dlock_core::ErrorKind::Invalid);
            assert_eq!(proxy.counts().connections, 0, "the connection of the calls");
        });
    }
}
