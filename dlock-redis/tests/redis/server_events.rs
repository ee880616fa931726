//! What a server does to its clients: forgets, restarts, is full, refuses.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, DatastoreError, ErrorKind, Lock, LockOptions};
use dlock_redis::ServerError;
use dlock_test_servers::{RedisServer, Reply};

use crate::support::*;

fn code(error: &DatastoreError) -> &str {
    use std::error::Error as _;
    error
        .source()
        .and_then(|source| source.downcast_ref::<ServerError>())
        .map_or("", ServerError::code)
}

#[test]
fn a_server_that_forgot_the_scripts_is_sent_them_and_grants_once() {
    let server = RedisServer::start();
    let store = store(&server);
    warm(&store);
    server.command(["SCRIPT", "FLUSH"]);
    server.reset_calls();
    let lease = acquired(&store, &claim(KEY));
    assert_eq!((evalshas(&server), server.calls()["eval"]), (1, 1));
    assert_eq!(server.calls()["set"], 2, "one fence, one lock");
    server.command(["SCRIPT", "FLUSH"]);
    assert!(extend(&store, &lease, 1, TTL).is_some());
    server.command(["SCRIPT", "FLUSH"]);
    assert!(released(&store, &lease));
}

#[test]
fn a_lock_that_was_flushed_is_lost_is_not_made_anew_and_the_next_token_is_higher() {
    let server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    server.command(["FLUSHALL"]);
    assert_eq!(extend(&store, &lease, 1, TTL), None);
    assert!(!released(&store, &lease));
    assert!(server.keys().is_empty());
    assert!(fence_of(&acquired(&store, &claim(KEY))) > fence_of(&lease));
}

#[test]
fn a_holder_whose_lock_was_flushed_is_told_that_it_is_lost() {
    let server = RedisServer::start();
    let options = LockOptions::builder().ttl(Duration::from_millis(600));
    let lock = Lock::with_options(store(&server), "import", options).unwrap();
    let guard = lock.try_acquire().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    guard.on_lost(move || tell.send(()).unwrap());
    server.command(["FLUSHALL"]);
    told.recv_timeout(LONG).unwrap();
    assert!(!guard.is_valid());
}

#[test]
fn a_lock_survives_a_restart_that_keeps_the_data() {
    let mut server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    server.restart_with_data();
    let held = refused(store.acquire(&claim(KEY), TTL));
    assert_eq!(held.fence(), lease.fence());
    assert!(extend(&store, &lease, 1, TTL).is_some());
    assert!(released(&store, &lease));
    assert!(fence_of(&acquired(&store, &claim(KEY))) > fence_of(&lease));
}

#[test]
fn a_lock_is_lost_by_a_restart_that_loses_the_data_and_the_next_token_is_higher() {
    let mut server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    server.restart_empty();
    assert_eq!(extend(&store, &lease, 1, TTL), None);
    let next = acquired(&store, &claim(KEY));
    assert!(fence_of(&next) > fence_of(&lease));
    assert!(!released(&store, &lease), "it is another's now");
    assert!(released(&store, &next));
}

#[test]
fn a_renewed_lock_outlives_a_short_restart_with_data() {
    let mut server = RedisServer::start();
    let options = LockOptions::builder().ttl(Duration::from_secs(12));
    let lock = Lock::with_options(store(&server), "import", options).unwrap();
    let guard = lock.try_acquire().unwrap();
    let record = server.command(["GET", KEY]);
    server.restart_with_data();
    // A renewal changes the sequence in the record.
    until("the lock is renewed over a new connection", || {
        server.command(["GET", KEY]) != record
    });
    assert!(guard.is_valid());
    guard.release().unwrap();
}

#[test]
fn a_full_server_refuses_claims_and_carries_out_everything_else() {
    let server = RedisServer::start();
    let store = store(&server);
    let claim_held = claim(KEY);
    let lease = acquired(&store, &claim_held);
    server.config_set("maxmemory", "1");

    let error = store.acquire(&claim("dlock:other"), TTL).unwrap_err();
    assert_eq!((error.kind(), code(&error)), (ErrorKind::Refused, "OOM"));
    assert!(error.is_transient() && !error.may_have_executed());
    assert_eq!(server.keys(), [KEY, FENCE], "nothing of the other");

    assert_eq!(extend(&store, &lease, 1, TTL * 2), Some(TTL * 2));
    let again = granted(store.acquire(&claim_held, TTL * 3));
    assert!(again.ttl == TTL * 3 && again.fence == lease.fence());
    assert!(released(&store, &lease), "and the caller learns it");
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn a_lock_that_was_evicted_is_lost_and_the_next_token_is_higher() {
    let server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    // What has a time to live is what goes first: the lock, and its fence with it.
    server.config_set("maxmemory-policy", "volatile-lru");
    server.config_set("maxmemory", "1");
    assert!(matches!(
        server.try_command(["SET", "k", "v"]),
        Reply::Error(_)
    ));
    assert!(server.keys().is_empty());
    server.config_set("maxmemory", "0");

    let next = acquired(&store, &claim(KEY));
    assert!(fence_of(&next) > fence_of(&lease));
    assert_eq!(extend(&store, &lease, 1, TTL), None);
    assert!(!released(&store, &lease));
    assert!(released(&store, &next));
}

#[test]
fn a_replica_refuses_and_a_primary_that_lost_its_replicas_too() {
    let server = RedisServer::start();
    let store = store(&server);
    server.config_set("min-replicas-to-write", "1");
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(
        (error.kind(), code(&error)),
        (ErrorKind::Refused, "NOREPLICAS")
    );
    assert!(!error.may_have_executed());
    server.config_set("min-replicas-to-write", "0");

    server.command(["REPLICAOF", "127.0.0.1", "1"]);
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(
        (error.kind(), code(&error)),
        (ErrorKind::Refused, "READONLY")
    );
    assert!(!error.may_have_executed());

    server.config_set("replica-serve-stale-data", "no");
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(
        (error.kind(), code(&error)),
        (ErrorKind::Refused, "MASTERDOWN")
    );
    server.command(["REPLICAOF", "NO", "ONE"]);
    assert!(released(&store, &acquired(&store, &claim(KEY))));
}

#[test]
fn a_server_that_became_a_replica_is_not_asked_again_on_the_same_connection() {
    let (server, proxy, store) = warm_behind_proxy();
    server.command(["REPLICAOF", "127.0.0.1", "1"]);
    proxy.reset_counts();
    for connections in [1, 2, 3] {
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(code(&error), "READONLY");
        // Behind the same name there may be the new primary, in the same call already.
        assert_eq!(proxy.counts().connections, connections);
    }
}

#[test]
fn a_server_that_is_busy_with_a_script_refuses() {
    let server = RedisServer::builder()
        .config("busy-reply-threshold", "50")
        .start();
    let store = store(&server);
    warm(&store);
    thread::scope(|scope| {
        scope.spawn(|| server.try_command(["EVAL", "while true do end", "0"]));
        until(
            "the server is busy",
            || matches!(server.try_command(["PING"]), Reply::Error(error) if error.starts_with("BUSY")),
        );
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        server.command(["SCRIPT", "KILL"]);
        assert_eq!((error.kind(), code(&error)), (ErrorKind::Refused, "BUSY"));
        assert!(!error.may_have_executed());
    });
    assert!(released(&store, &acquired(&store, &claim(KEY))));
}

#[test]
fn a_server_of_a_cluster_that_is_not_whole_refuses() {
    let server = RedisServer::builder()
        .config("cluster-enabled", "yes")
        .start();
    let error = store(&server).acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(
        (error.kind(), code(&error)),
        (ErrorKind::Refused, "CLUSTERDOWN")
    );
}

#[test]
fn a_server_with_too_many_clients_refuses() {
    let server = RedisServer::start();
    let first = store(&server);
    warm(&first);
    server.config_set("maxclients", "1");
    let error = store(&server).acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!error.may_have_executed());
    assert!(whole_text(&error).contains("max number of clients"));
    assert!(released(&first, &acquired(&first, &claim(KEY))));
}

#[test]
fn a_database_of_its_own_is_another_place() {
    let server = RedisServer::start();
    let zero = store(&server);
    let three = patient(&format!("{}3", server.url()));
    let lease = acquired(&zero, &claim(KEY));
    let other = acquired(&three, &claim(KEY));
    assert!(released(&zero, &lease) && released(&three, &other));
    let error = patient(&format!("{}99", server.url()))
        .acquire(&claim(KEY), TTL)
        .unwrap_err();
    assert!(!error.may_have_executed());
    assert!(
        whole_text(&error).contains("DB index is out of range"),
        "{error:?}"
    );
}
