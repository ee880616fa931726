//! Tasks that wait share the queue, the subscription and the threads of their process.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dlock_core::{Clock, Lock, Signal, Watch};

use super::*;
use crate::queue::{nothing_is_left, subscriptions, waiting};

/// A claim that waits.
fn waiting_claim() -> Claim {
    claim(KEY).with_deadline(Clock::BOOTTIME.now().saturating_add(LONG))
}

/// Watches and claims in vain, as core does, and is in the queue then.
async fn queued(store: &RedisDatastore, claim: &Claim) -> (Signal, Watch) {
    let signal = Signal::new();
    let watch = AsyncDatastore::watch(store, claim, &signal).await;
    refused(claims(store, claim).await);
    (signal, watch.unwrap().unwrap())
}

async fn woken(signal: &Signal) {
    until("it is woken", || signal.take()).await;
}

#[test]
fn a_release_wakes_the_waiting_task_and_nothing_is_left() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let (store, other) = (store(&server), store(&server));
        runtime.block_on(async {
            let first = acquired(&other, &claim(KEY)).await;
            let claim = waiting_claim();
            let (signal, watch) = queued(&store, &claim).await;
            assert_eq!(waiting(&server), 1);
            assert!(!signal.take(), "the lock is held");
            assert!(released(&other, &first).await);
            woken(&signal).await;
            let second = acquired(&store, &claim).await;
            assert!(fence_of(&second) > fence_of(&first));
            drop(watch);
            assert!(released(&store, &second).await);
        });
        drop((store, other));
        nothing_is_left(&server);
    }
}

#[test]
fn many_tasks_are_served_in_the_order_of_their_coming() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let store = store(&server);
        runtime.block_on(async {
            let first = acquired(&store, &claim(KEY)).await;
            let order = Arc::new(Mutex::new(Vec::new()));
            let mut tasks = Vec::new();
            for task in 0..30 {
                let claim = waiting_claim();
                let (signal, watch) = queued(&store, &claim).await;
                let (store, order) = (store.clone(), Arc::clone(&order));
                tasks.push(tokio::spawn(async move {
                    woken(&signal).await;
                    let lease = acquired(&store, &claim).await;
                    drop(watch);
                    order.lock().unwrap().push(task);
                    assert!(released(&store, &lease).await);
                }));
            }
            assert_eq!(waiting(&server), 30);
            assert_eq!(subscriptions(&server), 1, "for all of them");
            assert!(released(&store, &first).await);
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(*order.lock().unwrap(), (0..30).collect::<Vec<_>>());
        });
        drop(store);
        nothing_is_left(&server);
    }
}

#[test]
fn threads_and_tasks_wait_in_one_queue_behind_one_subscription() {
    let server = RedisServer::start();
    let store = store(&server);
    let runtime = current_thread();
    let first = runtime.block_on(acquired(&store, &claim(KEY)));
    let (report, served) = mpsc::channel();
    let (blocking, reports) = (Lock::new(store.clone(), "import"), report.clone());
    let thread = std::thread::spawn(move || {
        let guard = blocking.acquire_within(LONG).unwrap();
        reports.send("thread").unwrap();
        guard.release().unwrap();
    });
    runtime.block_on(async {
        until("the thread waits", || waiting(&server) == 1).await;
        let claim = waiting_claim();
        let (signal, watch) = queued(&store, &claim).await;
        assert_eq!((waiting(&server), subscriptions(&server)), (2, 1));
        assert!(released(&store, &first).await);
        woken(&signal).await;
        let lease = acquired(&store, &claim).await;
        report.send("task").unwrap();
        drop(watch);
        assert!(released(&store, &lease).await);
    });
    thread.join().unwrap();
    drop(report);
    assert_eq!(served.iter().collect::<Vec<_>>(), ["thread", "task"]);
    drop(store);
    nothing_is_left(&server);
}

#[test]
fn tasks_that_give_up_leave_the_queue_together_and_the_next_is_served() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let store = store_behind(&proxy);
    current_thread().block_on(async {
        // The server knows all scripts.
        let lease = acquired(&store, &claim(KEY)).await;
        assert!(released(&store, &lease).await);
        let first = acquired(&store, &claim(KEY)).await;
        let mut watches = Vec::new();
        for _ in 0..100 {
            watches.push(queued(&store, &waiting_claim()).await);
        }
        let last = waiting_claim();
        let (signal, watch) = queued(&store, &last).await;
        assert_eq!(waiting(&server), 101);
        proxy.reset_counts();
        server.reset_calls();
        drop(watches);
        until("they are gone", || waiting(&server) == 1).await;
        assert!(proxy.counts().round_trips < 50, "{:?}", proxy.counts());
        // A leave that the heartbeat thread reports as well would come within that.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let calls = evalshas(&server);
        assert!(
            (100..150).contains(&calls),
            "one for each, and a few heartbeats: {calls}"
        );
        assert!(released(&store, &first).await);
        woken(&signal).await;
        let lease = acquired(&store, &last).await;
        drop(watch);
        assert!(released(&store, &lease).await);
    });
    drop(store);
    nothing_is_left(&server);
}

#[test]
fn leaving_does_not_wait_for_a_server_that_does_not_answer() {
    let server = RedisServer::start();
    let store = store(&server);
    current_thread().block_on(async {
        let first = acquired(&store, &claim(KEY)).await;
        let waits = queued(&store, &waiting_claim()).await;
        server.pause();
        let start = Instant::now();
        drop(waits);
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
        server.resume();
        until("it is gone", || waiting(&server) == 0).await;
        assert!(released(&store, &first).await);
    });
    drop(store);
    nothing_is_left(&server);
}

#[test]
fn coming_does_not_block_the_tasks_beside_it_and_lasts_no_longer_than_the_call() {
    let server = RedisServer::start();
    let store = store(&server);
    current_thread().block_on(async {
        server.pause();
        let soon = Duration::from_millis(1500);
        let claim =
            claim_within(KEY, soon).with_deadline(Clock::BOOTTIME.now().saturating_add(LONG));
        let signal = Signal::new();
        let mut ticks = 0;
        let watch = {
            let mut watch = std::pin::pin!(AsyncDatastore::watch(&store, &claim, &signal));
            loop {
                tokio::select! {
                    watch = &mut watch => break watch,
                    () = tokio::time::sleep(Duration::from_millis(1)) => ticks += 1,
                }
            }
        };
        assert!(ticks > 5, "{ticks}");
        // Heartbeats will find what no message reports.
        assert!(watch.unwrap().is_some());
        server.resume();
    });
}

#[test]
fn a_user_who_may_not_subscribe_polls() {
    let rights = "resetchannels -@all ~dlock* ~{dlock*}:* +eval +evalsha +time +get +set +incrby \
                  +pexpire +pttl +del +exists +hget +zrange +zscore +zcard +hlen";
    let server = RedisServer::builder().user("app", "pw", rights).start();
    let store = patient(&server.url_of("app", "pw"));
    current_thread().block_on(async {
        let signal = Signal::new();
        let watch = AsyncDatastore::watch(&store, &waiting_claim(), &signal).await;
        assert!(watch.unwrap().is_none());
    });
}
