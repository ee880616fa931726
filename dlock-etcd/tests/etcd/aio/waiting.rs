//! Tasks that wait share the queue, the lease and the threads of their process.

use std::sync::{Mutex, mpsc};

use dlock_core::{Lock, Signal, Time, Watch};

use super::*;
use crate::queue::{KEY, wait_for};
use crate::support::{again, held, leases, places, store};

/// Watches and claims in vain, as core does, and is in the queue then.
async fn queued(store: &EtcdDatastore, key: &str) -> (Claim, Signal, Watch) {
    let claim = claim(key).with_deadline(Time::MAX);
    let signal = Signal::new();
    let watch = AsyncDatastore::watch(store, &claim, &signal).await;
    held(claims(store, &claim).await);
    signal.take();
    (claim, signal, watch.unwrap().unwrap())
}

/// Waits until the waiter is woken, and claims.
async fn served(store: &EtcdDatastore, claim: &Claim, signal: &Signal) -> Lease {
    let started = std::time::Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "it is not served");
        until("it is woken", || signal.take()).await;
        if let Ok(AcquireOutcome::Granted(grant)) = claims(store, &again(claim)).await {
            return Lease::new(claim.clone(), grant);
        }
    }
}

#[test]
fn a_release_wakes_the_waiting_task_and_nothing_is_left() {
    for runtime in runtimes() {
        let server = EtcdServer::start();
        let (store, other) = (store(&server), store(&server));
        runtime.block_on(async {
            let first = taken(&other, KEY).await;
            let (claim, signal, watch) = queued(&store, KEY).await;
            assert_eq!(places(&server, KEY).len(), 1);
            ours(releases(&other, &first).await);
            let second = served(&store, &claim, &signal).await;
            assert!(second.fence() > first.fence());
            drop(watch);
            ours(releases(&store, &second).await);
        });
        drop((store, other));
        runtime.block_on(until("the lease of its places ends", || {
            leases(&server).is_empty()
        }));
    }
}

#[test]
fn many_tasks_are_served_in_the_order_of_their_coming() {
    for runtime in runtimes() {
        let server = EtcdServer::start();
        let store = store(&server);
        runtime.block_on(async {
            let first = taken(&store, KEY).await;
            let order = Arc::new(Mutex::new(Vec::new()));
            let mut tasks = Vec::new();
            for task in 0..30 {
                let (claim, signal, watch) = queued(&store, KEY).await;
                let (store, order) = (store.clone(), Arc::clone(&order));
                tasks.push(tokio::spawn(async move {
                    let lease = served(&store, &claim, &signal).await;
                    drop(watch);
                    order.lock().unwrap().push(task);
                    ours(releases(&store, &lease).await);
                }));
            }
            assert_eq!(places(&server, KEY).len(), 30);
            ours(releases(&store, &first).await);
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(*order.lock().unwrap(), (0..30).collect::<Vec<_>>());
        });
    }
}

#[test]
fn threads_and_tasks_wait_in_one_queue_with_one_lease() {
    let server = EtcdServer::start();
    let store = store(&server);
    let runtime = current_thread();
    let first = runtime.block_on(taken(&store, KEY));
    let (report, served_first) = mpsc::channel();
    let (blocking, reports) = (Lock::new(store.clone(), "import"), report.clone());
    let thread = thread::spawn(move || {
        let guard = blocking.acquire_within(LONG).unwrap();
        reports.send("thread").unwrap();
        guard.release().unwrap();
    });
    wait_for(&server, 1);
    runtime.block_on(async {
        let (claim, signal, watch) = queued(&store, KEY).await;
        // Of the holder, and of the waiters.
        assert_eq!(leases(&server).len(), 2);
        ours(releases(&store, &first).await);
        let lease = served(&store, &claim, &signal).await;
        report.send("task").unwrap();
        drop(watch);
        ours(releases(&store, &lease).await);
    });
    thread.join().unwrap();
    drop(report);
    assert_eq!(served_first.iter().collect::<Vec<_>>(), ["thread", "task"]);
}

#[test]
fn tasks_that_give_up_leave_the_queue_together() {
    let server = EtcdServer::start();
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy_to(&server).await;
        let _first = taken(&store, KEY).await;
        let mut watches = Vec::new();
        for _ in 0..100 {
            watches.push(queued(&store, KEY).await);
        }
        let (_, _, last) = queued(&store, KEY).await;
        proxy.reset_counts();
        drop(watches);
        until("they are gone", || places(&server, KEY).len() == 1).await;
        assert!(proxy.counts().round_trips < 50, "{:?}", proxy.counts());
        drop(last);
    });
}

#[test]
fn a_waiter_that_is_dropped_in_the_middle_of_a_claim_keeps_the_lock_from_nobody() {
    let server = EtcdServer::start();
    let store = store(&server);
    current_thread().block_on(async {
        for micros in (0..4000).step_by(200) {
            let first = taken(&store, KEY).await;
            let claim = claim(KEY).with_deadline(Time::MAX);
            let watch = AsyncDatastore::watch(&store, &claim, &Signal::new()).await;
            let dropped = claims(&store, &claim);
            let _ = tokio::time::timeout(Duration::from_micros(micros), dropped).await;
            drop(watch);
            ours(releases(&store, &first).await);
            let next = loop {
                if let Ok(AcquireOutcome::Granted(grant)) = claims(&store, &again(&claim)).await {
                    break Lease::new(claim.clone(), grant);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            ours(releases(&store, &next).await);
        }
    });
}
