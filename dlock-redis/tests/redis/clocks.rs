//! A server whose wall clock is set while it runs.

use std::time::Duration;

use dlock_core::{Datastore, Lock, LockOptions};
use dlock_test_servers::RedisServer;

use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);

fn server() -> RedisServer {
    RedisServer::builder().clock_step().start()
}

#[test]
fn a_clock_set_forward_ends_a_lease_early_and_its_holder_learns_it() {
    let server = server();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    server.step_clock_forward(TTL * 2);
    let next = acquired(&store, &claim(KEY));
    assert!(fence_of(&next) > fence_of(&lease));
    assert_eq!(extend(&store, &lease, 1, TTL), None);
    assert!(!released(&store, &lease));
    assert!(released(&store, &next));
}

#[test]
fn a_clock_set_forward_costs_each_connection_one_trip_more_once() {
    let server = server();
    let store = store(&server);
    warm(&store);
    server.reset_calls();
    server.step_clock_forward(HOUR);
    let lease = acquired(&store, &claim(KEY));
    assert_eq!(evalshas(&server), 2, "refused as late, then granted");
    assert!(extend(&store, &lease, 1, TTL).is_some());
    assert!(released(&store, &lease));
    assert_eq!(evalshas(&server), 4);
}

#[test]
fn a_clock_set_forward_costs_a_batch_one_trip_more() {
    let server = server();
    let store = store(&server);
    let ttl = HOUR * 10;
    let leases: Vec<_> = (0..3)
        .map(|n| {
            let claim = claim(&format!("dlock:{n}"));
            let grant = granted(store.acquire(&claim, ttl));
            let lease = dlock_core::Lease::new(claim, grant);
            (call(&lease, 1), ttl)
        })
        .collect();
    assert!(store.extend_many(&leases[..1])[0].is_ok());
    server.step_clock_forward(HOUR);
    for answer in store.extend_many(&leases) {
        assert!(
            matches!(answer, Ok(dlock_core::Extension::Extended(_))),
            "{answer:?}"
        );
    }
}

#[test]
fn tokens_rise_through_a_clock_that_is_set_back_and_through_lost_data() {
    let server = server();
    let store = store(&server);
    let mut last = 0;
    let mut next = |what: &str| {
        let lease = acquired(&store, &claim(KEY));
        assert!(fence_of(&lease) > last, "{what}");
        last = fence_of(&lease);
        assert!(released(&store, &lease));
    };
    next("at first");
    server.step_clock_back(HOUR);
    next("after an hour back");
    next("and on");
    server.step_clock_forward(HOUR * 2);
    next("after two hours forward");
    server.command(["FLUSHALL"]);
    next("after the data was lost");
}

#[test]
fn a_lease_goes_on_when_the_clock_is_set_back() {
    let server = server();
    let options = LockOptions::builder().ttl(Duration::from_secs(9));
    let lock = Lock::with_options(store(&server), "import", options).unwrap();
    let guard = lock.try_acquire().unwrap();
    let record = server.command(["GET", KEY]);
    server.step_clock_back(HOUR);
    until("the lock is renewed", || {
        server.command(["GET", KEY]) != record
    });
    assert!(guard.is_valid());
    assert!(lock.try_acquire().unwrap_err().is_held());
    // The renewal counts from the clock as it is now: nobody is barred for an hour.
    assert!(server.command(["PTTL", KEY]).integer().unwrap() <= 9000);
    guard.release().unwrap();
    assert!(lock.try_acquire().is_ok());
}

/// It cost more than two seconds an acquire: what the script answers is the server's time, and that
/// of a clock that nobody has set was taken for none.
#[test]
fn a_clock_that_is_decades_off_costs_no_trip_more() {
    for (decades, forward) in [(2, false), (4, false), (6, true)] {
        let server = server();
        let by = HOUR * 24 * 365 * 10 * decades;
        match forward {
            true => server.step_clock_forward(by),
            false => server.step_clock_back(by),
        }
        let store = store(&server);
        warm(&store);
        server.reset_calls();
        let lease = acquired(&store, &claim(KEY));
        assert!(extend(&store, &lease, 1, TTL).is_some());
        assert!(released(&store, &lease));
        assert_eq!(evalshas(&server), 3, "{decades} decades");
        assert_eq!(server.calls().get("eval"), None);
    }
}
