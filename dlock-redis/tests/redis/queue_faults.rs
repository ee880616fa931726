//! Waiting at a server that refuses, forgets or hangs leaves nobody in the queue who has gone, and
//! nobody asleep.

use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{
    AcquireError, AcquireOutcome, Cancel, Claim, Clock, Datastore, ErrorKind, Lease, Lock,
    LockOptions, OnceOutcome, ReleaseOutcome, Signal, Store, Wait,
};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;
use dlock_test_servers::faults::{Fault, Proxy};

use crate::queue::{HEARTBEAT, SOON, lock, waiting};
use crate::support::*;

fn short(url: &str, call_timeout: Duration) -> RedisDatastore {
    RedisDatastore::builder(url)
        .unwrap()
        .call_timeout(call_timeout)
        .connect_timeout(call_timeout)
        .build()
}

fn late() -> dlock_core::Time {
    Clock::BOOTTIME.now().saturating_add(LONG)
}

#[test]
fn who_gives_up_on_a_full_server_leaves_its_queue() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let store = Store::new(store(&server));
    thread::scope(|scope| {
        let stays = scope.spawn(|| Lock::new(&store, "import").acquire_within(LONG * 2));
        until("one waits", || waiting(&server) == 1);
        let goes = scope.spawn(|| Lock::new(&store, "import").acquire_within(SOON));
        until("two wait", || waiting(&server) == 2);
        server.config_set("maxmemory", "1");
        goes.join().unwrap().unwrap_err();
        server.config_set("maxmemory", "0");
        until("one has left", || waiting(&server) == 1);
        guard.release().unwrap();
        stays.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn a_winner_that_a_late_copy_of_its_claim_queued_leaves_with_its_release() {
    let server = RedisServer::start();
    let store = store(&server);
    let claim = Claim::new(KEY, &Clock::BOOTTIME, LONG).unwrap();
    let claim = claim.with_deadline(late());
    // The claim names its process, and the copy does.
    let watch = store.watch(&claim, &Signal::new()).unwrap().unwrap();
    let AcquireOutcome::Granted(grant) = store.acquire(&claim, LONG).unwrap() else {
        panic!("nobody else wants it")
    };
    let lease = Lease::new(claim.clone(), grant.with_copy_to_follow(true));

    server.command(["DEL", KEY]);
    let other = lock(&server).try_acquire().unwrap();
    let copy = store.acquire(&claim, LONG).unwrap();
    assert!(matches!(copy, AcquireOutcome::Held(_)));
    assert_eq!(waiting(&server), 1, "it lost its lease, so it is a waiter");

    let released = store.release(&lease.for_call(1, late())).unwrap();
    assert_eq!(released, ReleaseOutcome::NotHeld);
    assert_eq!(waiting(&server), 0);
    drop(watch);
    other.release().unwrap();
}

#[test]
fn a_leave_that_is_repeated_reaches_a_server_that_forgot_the_scripts() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let proxy = Proxy::to(server.address());
    let store = Store::new(short(&format!("redis://{}/", proxy.address()), HEARTBEAT));
    let (lock, cancel) = (Lock::new(&store, "import"), Cancel::new());
    thread::scope(|scope| {
        let stays = scope.spawn(|| lock.acquire_within(LONG * 3));
        until("one waits", || waiting(&server) == 1);
        let goes = scope.spawn(|| lock.acquire_with(&Wait::forever().cancelled_by(&cancel)));
        until("two wait", || waiting(&server) == 2);
        proxy.requests(Fault::Lose);
        cancel.cancel();
        goes.join().unwrap().unwrap_err();
        server.command(["SCRIPT", "FLUSH"]);
        proxy.heal();
        until("one has left", || waiting(&server) == 1);
        guard.release().unwrap();
        stays.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn a_waiter_behind_a_foreign_fence_is_told_and_nobody_spins() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        server.command(["SET", FENCE, "not a number"]);
        server.reset_calls();
        guard.release().unwrap();
        let error = waiting_thread.join().unwrap().unwrap_err();
        assert!(
            matches!(&error, AcquireError::Datastore(it) if it.kind() == ErrorKind::ForeignKey),
            "{error}"
        );
        assert!(evalshas(&server) < 50, "{}", evalshas(&server));
    });
}

#[test]
fn a_full_server_is_not_looked_at_in_a_loop() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    server.config_set("maxmemory", "1");
    let options = LockOptions::builder().retry(HEARTBEAT, HEARTBEAT);
    let waiter = Lock::with_options(store(&server), "import", options).unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| waiter.acquire_within(LONG));
        thread::sleep(HEARTBEAT * 2);
        server.reset_calls();
        guard.release().unwrap();
        thread::sleep(HEARTBEAT * 4);
        let calls = evalshas(&server);
        server.config_set("maxmemory", "0");
        waiting_thread.join().unwrap().unwrap().release().unwrap();
        assert!(calls < 50, "{calls} in four seconds");
    });
}

#[test]
fn who_waits_for_a_mark_learns_that_the_job_is_done() {
    let server = RedisServer::start();
    let ttl = HEARTBEAT * 9;
    let options = LockOptions::builder().ttl(ttl);
    let day = Duration::from_secs(86_400);
    let doing = Lock::with_options(store(&server), "import", options.clone()).unwrap();
    let waits = Lock::with_options(store(&server), "import", options).unwrap();
    thread::scope(|scope| {
        let second = doing.once("hour", day, |_| {
            // The lock is lost in a failover, the mark is not.
            server.command(["DEL", KEY]);
            let second = scope.spawn(|| {
                waits.once_with(&Wait::within(LONG * 2), "hour", day, |_| Ok::<_, ()>(()))
            });
            until("it waits for the mark", || {
                server.keys().iter().any(|key| key.ends_with("hour}:queue"))
            });
            Ok::<_, ()>(second)
        });
        let done = Instant::now();
        let second = match second.unwrap().unwrap() {
            OnceOutcome::Ran(second) | OnceOutcome::RanUnmarked(second) => second,
            other => panic!("{other:?}"),
        };
        let answer = second.join().unwrap();
        assert!(
            matches!(answer, Ok(Ok(OnceOutcome::AlreadyDone { .. }))),
            "{answer:?} after {:?}",
            done.elapsed()
        );
        // When the lease of the mark would have ended.
        assert!(done.elapsed() < ttl + SOON, "{:?}", done.elapsed());
    });
}

#[test]
fn a_subscription_that_works_is_kept() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let store = Store::new(store(&server));
    let impatient = Lock::new(&store, "import");
    let id = || {
        let list = format!("{:?}", server.command(["CLIENT", "LIST", "TYPE", "PUBSUB"]));
        list.split(' ').next().map(str::to_owned)
    };
    for _ in 0..4 {
        assert!(
            impatient
                .acquire_within(HEARTBEAT * 4)
                .unwrap_err()
                .is_held()
        );
        let before = id();
        thread::sleep(HEARTBEAT * 5);
        assert_eq!(id(), before, "subscribed anew");
    }
    guard.release().unwrap();
}

#[test]
fn a_wait_at_a_server_that_hangs_ends_a_call_after_its_deadline_at_most() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let proxy = Proxy::to(server.address());
    let timeout = HEARTBEAT * 10;
    // Several connections are open, so that the heartbeats do not take the claim's.
    let store = short(&format!("redis://{}/", proxy.address()), timeout);
    proxy.replies(Fault::Delay(HEARTBEAT / 2));
    thread::scope(|scope| {
        for n in 0..4 {
            let store = &store;
            scope.spawn(move || acquired(store, &claim(&format!("dlock:{n}"))));
        }
    });
    proxy.heal();
    let lock = Lock::new(store, "import");
    thread::scope(|scope| {
        let start = Instant::now();
        let waits = scope.spawn(|| lock.acquire_within(HEARTBEAT * 4));
        until("it waits", || waiting(&server) == 1);
        proxy.requests(Fault::Hold);
        waits.join().unwrap().unwrap_err();
        let took = start.elapsed();
        assert!(took < HEARTBEAT * 4 + timeout + SOON, "{took:?}");
    });
    guard.release().unwrap();
}

#[test]
fn a_waiter_that_watches_twice_is_forgotten_all_the_same() {
    let server = RedisServer::start();
    let holder = store(&server);
    let _lease = acquired(&holder, &claim(KEY));
    let waiter = store(&server);
    let twice = claim(KEY).with_deadline(late());
    let first = waiter.watch(&twice, &Signal::new()).unwrap().unwrap();
    let second = waiter.watch(&twice, &Signal::new()).unwrap().unwrap();
    refused(waiter.acquire(&twice, TTL));
    drop(first);
    drop(second);
    assert_eq!(waiting(&server), 0);
    // Another key keeps the threads at work.
    let other = claim("dlock:other").with_deadline(late());
    let _watch = waiter.watch(&other, &Signal::new()).unwrap().unwrap();
    server.reset_calls();
    thread::sleep(HEARTBEAT * 4);
    assert!(evalshas(&server) <= 6, "{}", evalshas(&server));
}

#[test]
fn a_server_that_lets_nobody_subscribe_is_not_asked_in_a_loop() {
    let server = RedisServer::builder()
        .config("rename-command SUBSCRIBE", "\"\"")
        .start();
    let connections = || {
        let stats = server.command(["INFO", "stats"]).text().unwrap();
        let received = "total_connections_received:";
        let count = stats.lines().find_map(|line| line.strip_prefix(received));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        let before = connections();
        thread::sleep(HEARTBEAT * 5);
        let opened = connections() - before;
        assert!(opened < 15, "{opened} in five seconds");
        // The heartbeats find it all the same.
        guard.release().unwrap();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn a_waiter_asks_again_within_a_minute_though_nobody_wakes_it() {
    let server = RedisServer::start();
    let holder = store(&server);
    let _lease = acquired(&holder, &claim(KEY));
    let waiter = store(&server);
    let minute = Duration::from_secs(60);
    let watched: Vec<_> = [TTL, minute]
        .into_iter()
        .map(|within| {
            let claim = claim(KEY).with_deadline(late());
            let watch = waiter.watch(&claim, &Signal::new()).unwrap();
            let held = refused(waiter.acquire(&claim, TTL));
            let again = held.retry_in().unwrap();
            assert!(again <= within, "{again:?}");
            // Not sooner than it is worth the trip.
            assert!(again >= HEARTBEAT, "{again:?}");
            watch.unwrap()
        })
        .collect();
    drop(watched);
    assert_eq!(waiting(&server), 0);
}
