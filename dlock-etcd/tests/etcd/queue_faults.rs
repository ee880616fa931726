//! What waiters lose when connections, nodes and leases do, and that they are served all the same.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, Lock, Store};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::faults::{Fault, Proxy};
use dlock_test_servers::{EtcdCluster, EtcdServer};
use serde_json::{Value, json};

use crate::gate::{Fate, Gate};
use crate::queue::{KEY, granted_when_woken, lock, refused, wait_for};
use crate::support::{
    LONG, again, ask, base64, call, eventually, held, key, ours, places, server, store, store_at,
    take,
};

/// A waiter is served although its connections break, as `breaks` says, before the lock is
/// released. `meanwhile` happens before it can connect again.
fn is_served(
    server: &EtcdServer,
    name: &str,
    breaks: impl FnOnce(&Proxy),
    meanwhile: impl FnOnce(&Proxy),
) {
    let proxy = Proxy::to(server.address());
    let waits = store_at(&format!("etcd://{}", proxy.address()));
    let (direct, key) = (store(server), key(name));
    let lease = take(&direct, &key, LONG);
    let (waiter, watch, signal) = refused(&waits, &key);
    breaks(&proxy);
    ours(direct.release(&lease));
    meanwhile(&proxy);
    proxy.heal();
    let lease = granted_when_woken(&waits, &waiter, &signal);
    drop(watch);
    ours(waits.release(&call(&lease, 1)));
}

fn cut_off(proxy: &Proxy) {
    proxy.refuse();
    proxy.cut();
}

#[test]
fn a_waiter_whose_connections_break_is_served() {
    is_served(server(), "broken", cut_off, |_| ());
}

#[test]
fn a_waiter_whose_connection_has_gone_silent_is_served() {
    // Its watch is among the connections whose answers are lost from now on.
    let silence = |proxy: &Proxy| proxy.replies(Fault::Lose);
    is_served(server(), "silent", silence, |proxy| {
        thread::sleep(Duration::from_secs(1));
        proxy.cut();
    });
}

#[test]
fn a_waiter_whose_history_was_compacted_meanwhile_is_served() {
    let server = EtcdServer::start();
    is_served(&server, "compacted", cut_off, |_| {
        let status = ask(&server, "/v3/maintenance/status", &json!({}));
        let body = json!({"revision": status["header"]["revision"], "physical": true});
        let answer = ask(&server, "/v3/kv/compaction", &body);
        assert_eq!(answer["error"], Value::Null, "{answer}");
    });
}

#[test]
fn waiters_whose_lease_has_ended_get_a_new_place() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("lease");
    let lease = take(&store, &key, LONG);
    let (waiter, watch, signal) = refused(&store, &key);
    let place = places(&server, &key).remove(0);
    let answer = ask(&server, "/v3/lease/revoke", &json!({"ID": place["lease"]}));
    assert!(answer.get("error").is_none(), "{answer}");
    eventually("the waiter is woken, and has a place again", || {
        if signal.take() {
            held(store.acquire(&again(&waiter), LONG));
        }
        (!places(&server, &key).is_empty()).then_some(())
    });
    ours(store.release(&lease));
    let lease = granted_when_woken(&store, &waiter, &signal);
    drop(watch);
    ours(store.release(&call(&lease, 1)));
    assert!(places(&server, &key).is_empty());
}

#[test]
fn a_server_that_restarts_keeps_the_queue() {
    let mut server = EtcdServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let stores: Vec<_> = (0..2).map(|_| Store::new(store(&server))).collect();
    thread::scope(|scope| {
        let waiting: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(n, store)| {
                let lock = Lock::new(store, "import");
                let waiting = scope.spawn(move || lock.acquire_within(LONG).unwrap());
                wait_for(&server, n + 1);
                waiting
            })
            .collect();
        server.restart();
        assert_eq!(places(&server, KEY).len(), 2);
        guard.release().unwrap();
        for waiting in waiting {
            waiting.join().unwrap().release().unwrap();
        }
    });
}

#[test]
fn a_waiter_is_served_when_the_leader_and_the_holder_have_died() {
    let mut cluster = EtcdCluster::start();
    let store = EtcdDatastore::open(&cluster.url()).unwrap();
    let key = key("leader");
    // Nobody renews it.
    take(&store, &key, Duration::from_secs(4));
    let (waiter, watch, signal) = refused(&store, &key);
    let leader = cluster.leader();
    cluster.node_mut(leader).kill();
    let lease = granted_when_woken(&store, &waiter, &signal);
    drop(watch);
    eventually("the lock is released", || {
        store.release(&call(&lease, 1)).ok().map(|_| ())
    });
}

#[test]
fn a_node_that_is_cut_off_is_not_listened_to_any_longer() {
    let cluster = EtcdCluster::start();
    let store = EtcdDatastore::open(&cluster.url()).unwrap();
    let key = key("cut-off");
    let lease = take(&store, &key, LONG);
    let (waiter, watch, signal) = refused(&store, &key);
    let streams = |node: &EtcdServer| node.metric("etcd_debugging_mvcc_watch_stream_total");
    let listened = eventually("the waiter listens to a node", || {
        cluster.nodes().iter().position(|node| streams(node) == 1)
    });
    let others = || (0..3).filter(|number| *number != listened);
    others().for_each(|number| cluster.nodes()[number].pause());
    eventually("the node that is cut off is left", || {
        (streams(&cluster.nodes()[listened]) == 0).then_some(())
    });
    others().for_each(|number| cluster.nodes()[number].resume());
    eventually("the lock is released", || {
        store.release(&call(&lease, 1)).ok().map(|_| ())
    });
    let lease = granted_when_woken(&store, &waiter, &signal);
    drop(watch);
    eventually("the lock is released", || {
        store.release(&call(&lease, 1)).ok().map(|_| ())
    });
}

/// Each hundred of them takes a while, all of them longer than the lease of the places lasts.
#[test]
fn waiters_keep_their_places_while_thousands_that_nobody_waits_at_are_deleted() {
    const BATCHES: u64 = 30;
    let server = EtcdServer::start();
    let gate = Gate::to(&server, |request| {
        let deletes = |at: usize| &request.body["success"][at]["request_delete_range"];
        if !deletes(0).is_null() && !deletes(1).is_null() {
            thread::sleep(Duration::from_millis(300));
        }
        Fate::Passes
    });
    let (direct, waits, key) = (store(&server), store_at(&gate.url()), key("strays"));
    let lease = take(&direct, &key, LONG);
    let (waiter, watch, signal) = refused(&waits, &key);
    let place = places(&server, &key).remove(0);
    for batch in 0..BATCHES {
        let puts = (0..100).map(|number| {
            let name = format!("{key} waits {:020} {number:032x}", batch + 1_000_000);
            json!({"request_put": {
                "key": base64(&name), "value": base64("waits"), "lease": place["lease"],
            }})
        });
        let body = json!({"success": puts.collect::<Vec<_>>()});
        let answer = ask(&server, "/v3/kv/txn", &body);
        assert!(answer.get("error").is_none(), "{answer}");
    }
    let left = eventually("they are deleted", || {
        let left = places(&server, &key);
        (left.len() <= 1).then_some(left)
    });
    assert_eq!(left, [place]);
    ours(direct.release(&call(&lease, 1)));
    let lease = granted_when_woken(&waits, &waiter, &signal);
    drop(watch);
    ours(waits.release(&call(&lease, 1)));
}
