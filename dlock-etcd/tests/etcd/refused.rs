//! What is left of a request that the server refuses.

use dlock_core::{Datastore, ErrorKind, Lease};
use dlock_test_servers::EtcdServer;
use serde_json::{Value, json};

use crate::gate::{Fate, Gate, Request, Switch};
use crate::support::{
    LONG, call, claim, extended, granted, key, leases, ours, read, store, store_at, take,
};

/// Whether the request would move a key to another lease.
fn extends(request: &Request) -> bool {
    let puts = !request.body["success"][0]["request_put"].is_null();
    request.path == "kv/txn" && puts && request.body["compare"][0]["target"] == "VALUE"
}

fn error(status: u16, text: &str, code: u8) -> (u16, Value) {
    (
        status,
        json!({"error": text, "message": text, "code": code}),
    )
}

fn is_full() -> (u16, Value) {
    error(429, "etcdserver: mvcc: database space exceeded", 8)
}

/// Extends that are refused leave no lease but the one that holds the key.
#[track_caller]
fn refused_extends_leave_no_lease(store: &impl Datastore, server: &EtcdServer, lease: &Lease) {
    for sequence in 1..5 {
        let error = store.extend(&call(lease, sequence), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(leases(server).len(), 1);
    }
}

/// The same where the server answers so instead of moving the key.
fn extends_that_are_answered_so_leave_no_lease((status, answer): (u16, Value)) {
    let server = EtcdServer::start();
    let gate = Gate::to(&server, move |request| match extends(request) {
        true => Fate::Answered(status, answer.clone()),
        false => Fate::Passes,
    });
    let store = store_at(&gate.url());
    let lease = take(&store, &key("refused"), LONG);
    refused_extends_leave_no_lease(&store, &server, &lease);
    ours(store.release(&call(&lease, 9)));
}

#[test]
fn an_extend_without_the_right_to_write_leaves_no_lease() {
    extends_that_are_answered_so_leave_no_lease(error(403, "etcdserver: permission denied", 7));
}

#[test]
fn an_extend_that_was_refused_for_lack_of_space_leaves_no_lease() {
    extends_that_are_answered_so_leave_no_lease(is_full());
}

/// The server finds out that it is full when it has written.
#[test]
fn an_extend_that_is_refused_for_lack_of_space_after_it_was_carried_out_keeps_the_key() {
    let server = EtcdServer::start();
    let refuses = Switch::default();
    refuses.set(true);
    let gate = {
        let refuses = refuses.clone();
        Gate::to(&server, move |request| {
            match extends(request) && refuses.take() {
                true => {
                    let (status, answer) = is_full();
                    Fate::Replaced(status, answer)
                }
                false => Fate::Passes,
            }
        })
    };
    let (store, key) = (store_at(&gate.url()), key("full"));
    let lease = take(&store, &key, LONG);
    let before = read(&server, &key).unwrap();
    let error = store.extend(&call(&lease, 1), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let after = read(&server, &key).expect("it is still held");
    assert_ne!(before["lease"], after["lease"]);
    extended(store.extend(&call(&lease, 2), LONG));
    ours(store.release(&call(&lease, 3)));
}

#[test]
fn a_lease_that_is_refused_for_lack_of_space_after_it_was_granted_is_not_left() {
    let server = EtcdServer::start();
    let refuses = Switch::default();
    let gate = {
        let refuses = refuses.clone();
        Gate::to(&server, move |request| {
            match request.path == "lease/grant" && refuses.is_on() {
                true => {
                    let (status, answer) = is_full();
                    Fate::Replaced(status, answer)
                }
                false => Fate::Passes,
            }
        })
    };
    let (store, direct, key) = (store_at(&gate.url()), store(&server), key("granted"));
    let lease = take(&store, &key, LONG);
    refuses.set(true);
    refused_extends_leave_no_lease(&store, &server, &lease);
    ours(direct.release(&call(&lease, 9)));
    let error = store.acquire(&claim(&key), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!((leases(&server).len(), read(&server, &key)), (0, None));
    granted(direct.acquire(&claim(&key), LONG));
}
