//! Waiters queue, and are woken in the order of their coming.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Datastore, ErrorKind, Inspect, Lease, Lock, Signal, Store, Time, Watch,
};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdServer;
use serde_json::json;

use crate::support::{
    LONG, again, ask, base64, call, claim, eventually, granted, held, key, leases, ours, places,
    put_foreign, read, server, store, take,
};

/// The key of [`lock`].
pub(crate) const KEY: &str = "dlock:import";

pub(crate) fn lock(server: &EtcdServer) -> Lock {
    Lock::new(store(server), "import")
}

pub(crate) fn wait_for(server: &EtcdServer, count: usize) {
    eventually("they wait", || {
        (places(server, KEY).len() == count).then_some(())
    });
}

/// A claim that was refused and has its place, as core makes it.
pub(crate) fn refused(store: &EtcdDatastore, key: &str) -> (dlock_core::Claim, Watch, Signal) {
    let signal = Signal::new();
    let claim = claim(key).with_deadline(Time::MAX);
    let watch = store.watch(&claim, &signal).unwrap().unwrap();
    held(store.acquire(&claim, LONG));
    signal.take();
    (claim, watch, signal)
}

/// Waits until the waiter is woken, and claims.
pub(crate) fn granted_when_woken(
    store: &EtcdDatastore,
    claim: &dlock_core::Claim,
    signal: &Signal,
) -> Lease {
    eventually("the waiter is woken and granted the lock", || {
        if !signal.take() {
            return None;
        }
        match store.acquire(&again(claim), LONG) {
            Ok(AcquireOutcome::Granted(grant)) => Some(Lease::new(claim.clone(), grant)),
            Ok(AcquireOutcome::Held(_)) => None,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                // As core does, it asks again.
                signal.notify();
                None
            }
        }
    })
}

#[test]
fn a_release_wakes_the_waiter_and_nothing_is_left() {
    let server = EtcdServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let first = guard.fencing_token().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| lock(&server).acquire_within(LONG));
        wait_for(&server, 1);
        guard.release().unwrap();
        let won = waiting.join().unwrap().unwrap();
        assert!(won.fencing_token().unwrap() > first);
        assert!(places(&server, KEY).is_empty());
        won.release().unwrap();
    });
    eventually("its lease ends with the store", || {
        leases(&server).is_empty().then_some(())
    });
    assert_eq!(read(&server, KEY), None);
}

#[test]
fn fifty_waiters_of_five_stores_are_served_in_the_order_of_their_coming() {
    let server = EtcdServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let stores: Vec<_> = (0..5).map(|_| Store::new(store(&server))).collect();
    let (served, order) = mpsc::channel();
    thread::scope(|scope| {
        for n in 0..50 {
            let (served, store) = (served.clone(), &stores[n % stores.len()]);
            scope.spawn(move || {
                let guard = Lock::new(store, "import").acquire_within(LONG).unwrap();
                served.send(n).unwrap();
                guard.release().unwrap();
            });
            wait_for(&server, n + 1);
        }
        guard.release().unwrap();
    });
    drop(served);
    let order: Vec<_> = order.iter().collect();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_thousand_waiters_are_served_one_at_a_time() {
    const WAITERS: usize = 1000;
    let server = EtcdServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let stores: Vec<_> = (0..2).map(|_| Store::new(store(&server))).collect();
    let (inside, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for n in 0..WAITERS {
            let (store, inside, served) = (&stores[n % stores.len()], &inside, &served);
            scope.spawn(move || {
                let guard = Lock::new(store, "import").acquire_within(LONG).unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                served.fetch_add(1, Ordering::SeqCst);
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().unwrap();
            });
        }
        // Five requests for each of them.
        while places(&server, KEY).len() < WAITERS {
            thread::sleep(Duration::from_millis(100));
        }
        guard.release().unwrap();
    });
    assert_eq!(served.into_inner(), WAITERS);
    assert!(places(&server, KEY).is_empty());
}

#[test]
fn those_who_wait_ask_for_nothing_and_each_watches_what_is_before_it() {
    const WAITERS: u64 = 40;
    let server = EtcdServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let stores: Vec<_> = (0..2).map(|_| Store::new(store(&server))).collect();
    thread::scope(|scope| {
        for n in 0..WAITERS {
            let store = &stores[usize::try_from(n).unwrap() % stores.len()];
            scope.spawn(move || Lock::new(store, "import").acquire_within(LONG).unwrap());
            wait_for(&server, usize::try_from(n).unwrap() + 1);
        }
        eventually("each watches what is before it", || {
            (server.metric("etcd_debugging_mvcc_watcher_total") == WAITERS).then_some(())
        });
        let reads = || server.metric("etcd_debugging_mvcc_range_total");
        let mut since = Vec::new();
        // The holder's renewals may read; by polling it would be hundreds each time. If the machine
        // stalls, a connection may seem dead, and all begin to watch anew.
        let are_few = (0..3).any(|_| {
            let before = reads();
            thread::sleep(Duration::from_secs(4));
            since.push(reads() - before);
            since.last() < Some(&WAITERS)
        });
        assert!(are_few, "{since:?} reads");
        guard.release().unwrap();
    });
}

#[test]
fn waiters_are_counted_and_their_places_are_no_locks() {
    let server = EtcdServer::start();
    let store = store(&server);
    let (key, next) = (key("a"), "dlock:b");
    take(&store, &key, LONG);
    take(&store, next, LONG);
    let waiters: Vec<_> = (0..100).map(|_| refused(&store, &key)).collect();
    assert_eq!(store.waiting(&key).unwrap(), 100);
    assert_eq!(store.waiting(next).unwrap(), 0);
    let mut listed = Vec::new();
    let mut page = store.held("dlock:", None).unwrap();
    loop {
        listed.extend(page.keys.into_iter().map(|(key, _)| key));
        let Some(mark) = page.next else { break };
        page = store.held("dlock:", Some(&mark)).unwrap();
    }
    assert_eq!(listed, [key.as_str(), next]);
    drop(waiters);
    assert_eq!(store.waiting(&key).unwrap(), 0);
}

#[test]
fn who_only_tries_is_refused_while_the_key_is_free_for_the_first_waiter() {
    let server = server();
    let (store, other) = (store(server), store(server));
    let key = key("reserved");
    let lease = take(&store, &key, LONG);
    let (waiter, watch, signal) = refused(&store, &key);
    ours(store.release(&lease));
    let refusal = held(other.acquire(&claim(&key), LONG));
    assert_eq!(refusal.fence(), None);
    assert!(refusal.holder().is_some(), "the waiter is named: {refusal}");
    let lease = granted_when_woken(&store, &waiter, &signal);
    drop(watch);
    ours(store.release(&call(&lease, 1)));
    granted(other.acquire(&claim(&key), LONG));
}

#[test]
fn a_place_that_ends_with_no_lease_is_not_waited_for() {
    let server = server();
    let (store, key) = (store(server), key("foreign-place"));
    // As a copy of the cluster has them that was made without the leases.
    put_foreign(server, &format!("{key} waits 00000000000000000001 x"));
    for claim in [claim(&key), claim(&key).with_deadline(Time::MAX)] {
        let error = store.acquire(&claim, LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForeignKey, "{error}");
    }
    assert_eq!(read(server, &key), None);
    assert_eq!(places(server, &key).len(), 1);
}

#[test]
fn a_waiter_that_does_not_claim_in_its_turn_loses_its_place() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("sleeps");
    let lease = take(&store, &key, LONG);
    let (sleeper, watch, slept) = refused(&store, &key);
    let (next, next_watch, signal) = refused(&store, &key);
    ours(store.release(&lease));
    let lease = granted_when_woken(&store, &next, &signal);
    drop(next_watch);
    // It claims late, and is served after the others.
    assert!(slept.take());
    held(store.acquire(&again(&sleeper), LONG));
    ours(store.release(&call(&lease, 1)));
    granted_when_woken(&store, &sleeper, &slept);
    drop(watch);
    assert!(places(&server, &key).is_empty());
}

#[test]
fn a_place_that_a_late_copy_made_is_found_and_deleted() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("stray");
    let lease = take(&store, &key, LONG);
    let (waiter, watch, signal) = refused(&store, &key);
    let place = places(&server, &key).remove(0);
    // Of a waiter that has left.
    let stray = json!({
        "key": base64(&format!("{key} waits 00000000000000000001 {:032x}", 7)),
        "value": base64("waits"), "lease": place["lease"],
    });
    let answer = ask(&server, "/v3/kv/put", &stray);
    assert!(answer.get("error").is_none(), "{answer}");
    ours(store.release(&lease));
    signal.notify();
    let lease = granted_when_woken(&store, &waiter, &signal);
    drop(watch);
    ours(store.release(&call(&lease, 1)));
    assert!(places(&server, &key).is_empty());
}
