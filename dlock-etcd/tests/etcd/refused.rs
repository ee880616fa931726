//! What is left of a request that the server refuses.

use dlock_core::{Datastore, ErrorKind};
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

#[test]
fn an_extend_without_the_right_to_write_leaves_no_lease() {
    let server = EtcdServer::start();
    let gate = Gate::to(&server, |request| match extends(request) {
        true => {
            let (status, answer) = error(403, "etcdserver: permission denied", 7);
            Fate::Answered(status, answer)
        }
        false => Fate::Passes,
    });
    let store = store_at(&gate.url());
    let lease = take(&store, &key("rights"), LONG);
    for sequence in 1..5 {
        let error = store.extend(&call(&lease, sequence), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(leases(&server).len(), 1);
    }
    ours(store.release(&call(&lease, 9)));
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

/// The same, where it was to move no key.
#[test]
fn an_extend_that_was_refused_for_lack_of_space_leaves_no_lease() {
    let server = EtcdServer::start();
    let gate = Gate::to(&server, |request| match extends(request) {
        true => {
            let (status, answer) = is_full();
            Fate::Answered(status, answer)
        }
        false => Fate::Passes,
    });
    let store = store_at(&gate.url());
    let lease = take(&store, &key("full"), LONG);
    for sequence in 1..5 {
        let error = store.extend(&call(&lease, sequence), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(leases(&server).len(), 1);
    }
    ours(store.release(&call(&lease, 9)));
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
    for sequence in 1..5 {
        let error = store.extend(&call(&lease, sequence), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(leases(&server).len(), 1);
    }
    ours(direct.release(&call(&lease, 9)));
    let error = store.acquire(&claim(&key), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!((leases(&server).len(), read(&server, &key)), (0, None));
    granted(direct.acquire(&claim(&key), LONG));
}
