//! A server that was stopped and goes on: nobody waits for it any more, and it must not hand out
//! locks to nobody.

use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{AcquireError, Datastore, ErrorKind, Lock};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;

use crate::support::*;

/// Long enough for a busy machine to send a request.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn a_claim_that_waited_at_a_stopped_server_holds_nothing_when_it_goes_on() {
    let server = RedisServer::start();
    let store = store(&server);
    warm(&store);
    server.reset_calls();

    server.pause();
    let error = store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed(), "it lies in the server's buffer");
    server.resume();

    until("the claim has run", || evalshas(&server) == 1);
    assert_eq!(server.keys(), ["{dlock:warm}:fence"], "no lock, no fence");
    assert!(released(&store, &acquired(&store, &claim(KEY))));
}

#[test]
fn of_many_claims_that_waited_at_a_stopped_server_none_holds_anything() {
    let server = RedisServer::start();
    let stores: Vec<_> = (0..8).map(|_| store(&server)).collect();
    stores.iter().for_each(warm);
    server.reset_calls();
    server.pause();
    thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err());
        }
    });
    server.resume();
    until("the claims have run", || evalshas(&server) == 8);
    assert_eq!(server.keys(), ["{dlock:warm}:fence"]);
}

#[test]
fn a_stopped_server_that_accepts_connections_is_never_sent_the_claim() {
    let server = RedisServer::start();
    let store = store(&server);
    server.pause();
    let error = store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed(), "the greeting was not answered");
    server.resume();
    // Whatever it was sent has run when the store's next connection has been served.
    assert!(released(&store, &acquired(&store, &claim("dlock:other"))));
    assert_eq!(
        evalshas(&server) + server.calls()["eval"],
        4,
        "of the other lock"
    );
    assert_eq!(server.keys(), ["{dlock:other}:fence"]);
}

#[test]
fn opening_a_connection_has_a_limit_of_its_own() {
    let server = RedisServer::start();
    let store = RedisDatastore::builder(&server.url())
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(SOON)
        .build();
    server.pause();
    let start = Instant::now();
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(start.elapsed() >= SOON && start.elapsed() < LONG / 2);
}

#[test]
fn an_extend_that_waited_at_a_stopped_server_changes_nothing_after_its_end() {
    let server = RedisServer::start();
    let store = store(&server);
    warm(&store);
    let lease = acquired(&store, &claim(KEY));
    let before = server.command(["GET", KEY]);
    server.reset_calls();
    server.pause();
    let late = lease.for_call(5, dlock_core::Clock::BOOTTIME.now().saturating_add(SOON));
    let error = store.extend(&late, TTL * 100).unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && error.may_have_executed());
    server.resume();
    until("the extend has run", || evalshas(&server) == 1);
    assert_eq!(server.command(["GET", KEY]), before);
    assert!(server.command(["PTTL", KEY]).integer().unwrap() <= 30_000);
}

#[test]
fn a_lock_is_not_acquired_from_a_stopped_server_and_free_when_it_goes_on() {
    let server = RedisServer::start();
    let store = RedisDatastore::builder(&server.url())
        .unwrap()
        .call_timeout(SOON)
        .connect_timeout(SOON)
        .build();
    let lock = Lock::new(store, "import");
    lock.try_acquire().unwrap().release().unwrap();

    server.pause();
    let start = Instant::now();
    let error = lock.try_acquire().unwrap_err();
    assert!(start.elapsed() < LONG);
    let AcquireError::Datastore(error) = error else {
        panic!("a server that does not answer is no holder: {error}");
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    server.resume();

    lock.acquire_within(LONG).unwrap().release().unwrap();
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn a_server_that_is_down_is_unreachable_and_not_held() {
    let mut server = RedisServer::start();
    let store = store(&server);
    warm(&store);
    server.kill();
    for _ in 0..2 {
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(whole_text(&error).contains(&server.address().to_string()));
    }
    server.start_again();
    assert!(released(&store, &acquired(&store, &claim(KEY))));
}

#[test]
fn a_call_that_hangs_does_not_hold_up_the_others() {
    let (server, proxy, store) = warm_behind_proxy();
    proxy.replies_once(dlock_test_servers::faults::Fault::Hold);
    let hanging = thread::spawn({
        let store = store.clone();
        move || store.acquire(&claim("dlock:hangs"), TTL).map(drop)
    });
    until("the claim hangs", || evalshas(&server) >= 4);
    assert!(released(&store, &acquired(&store, &claim(KEY))));
    assert!(!hanging.is_finished());
    proxy.heal();
    hanging.join().unwrap().unwrap();
}
