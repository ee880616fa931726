//! What operators see, and how they take a lock from its holder.

use std::thread;

use dlock_core::{Clock, Datastore, FencingToken, Inspect, ReleaseOutcome, Signal};
use dlock_test_servers::RedisServer;

use crate::queue::{lock, waiting};
use crate::support::*;

#[test]
fn a_look_shows_the_holder_and_changes_nothing() {
    let server = RedisServer::start();
    let store = store(&server);
    let inspect: &dyn Inspect = store.inspect().unwrap();
    assert!(inspect.holder(KEY).unwrap().is_none());
    assert!(server.keys().is_empty());

    let guard = lock(&server).try_acquire().unwrap();
    let held = inspect.holder(KEY).unwrap().unwrap();
    assert_eq!(held.fence(), guard.fencing_token());
    assert!(held.holder().is_some());
    assert!(held.expires_in().is_some_and(|left| left <= TTL));
    guard.release().unwrap();
    assert!(inspect.holder(KEY).unwrap().is_none());

    server.command(["SET", KEY, "somebody else's"]);
    let held = inspect.holder(KEY).unwrap().unwrap();
    assert!(held.holder().is_none() && held.fence().is_none() && held.expires_in().is_none());
}

#[test]
fn a_broken_lease_goes_to_the_next_waiter() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let token = guard.fencing_token().unwrap();
    let operator = store(&server);
    let break_lease = |token| operator.inspect().unwrap().break_lease(KEY, token).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).unwrap());
        until("it waits", || waiting(&server) == 1);
        let next = FencingToken::new(token.get() + 1);
        assert_eq!(break_lease(next), ReleaseOutcome::NotHeld);
        assert_eq!(break_lease(token), ReleaseOutcome::Released);
        let won = waits.join().unwrap();
        assert!(won.fencing_token() > Some(token));
        assert_eq!(break_lease(token), ReleaseOutcome::NotHeld);
        won.release().unwrap();
    });
    drop(guard);
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn what_was_handed_over_and_not_claimed_has_no_token_and_is_not_broken_by_the_one_before() {
    let server = RedisServer::start();
    let (holder, waiter) = (store(&server), store(&server));
    let lease = acquired(&holder, &claim(KEY));
    let waits = claim(KEY).with_deadline(Clock::BOOTTIME.now().saturating_add(LONG));
    let _watch = waiter.watch(&waits, &Signal::new()).unwrap().unwrap();
    refused(waiter.acquire(&waits, TTL));
    assert!(released(&holder, &lease));
    let inspect = holder.inspect().unwrap();
    assert_eq!(inspect.holder(KEY).unwrap().unwrap().fence(), None);
    let broken = inspect.break_lease(KEY, lease.fence().unwrap()).unwrap();
    assert_eq!(broken, ReleaseOutcome::NotHeld);
    granted(waiter.acquire(&waits, TTL));
}
