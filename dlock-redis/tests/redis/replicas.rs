//! A grant is one when replicas have it: what `wait_replicas` promises.

use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Lease, Lock};
use dlock_redis::{ConnectionManager, RedisDatastore, TooFewReplicas, UrlError, r2d2};
use dlock_test_servers::faults::Proxy;
use dlock_test_servers::{RedisServer, SentinelSet};

use crate::both_forms::callers;
use crate::sentinel::{FOR_LONG, keys, set};
use crate::support::*;

/// Long enough for a busy machine to replicate.
const WITHIN: Duration = Duration::from_secs(5);
const NOT_LONG: Duration = Duration::from_millis(50);

fn waiting_for(url: &str, replicas: u32, within: Duration) -> RedisDatastore {
    let builder = RedisDatastore::builder(url).unwrap();
    let builder = builder.call_timeout(LONG).connect_timeout(LONG);
    builder.wait_replicas(replicas, within).unwrap().build()
}

/// A primary with this many replicas, and nobody to elect another.
fn replicated(count: usize) -> SentinelSet {
    SentinelSet::builder().replicas(count).sentinels(0).start()
}

fn too_few(error: &DatastoreError) -> (u32, u32) {
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let source = std::error::Error::source(error).unwrap();
    let few = source.downcast_ref::<TooFewReplicas>().unwrap();
    (few.acknowledged, few.wanted)
}

#[test]
fn a_grant_that_too_few_replicas_have_is_none_and_is_taken_back() {
    let set = replicated(2);
    let primary = set.node(0);
    let callers = callers(|| waiting_for(&primary.url(), 1, NOT_LONG));
    set.cut_replicas(0);
    for caller in &callers {
        let error = caller.acquire(&claim(KEY)).unwrap_err();
        assert_eq!(too_few(&error), (0, 1));
        assert!(!error.may_have_executed(), "it was taken back");
        assert_eq!(primary.keys(), [FENCE], "nobody is kept out");
        let text = whole_text(&error);
        assert!(text.contains("0 of the 1 replicas"), "{text}");
    }
    set.resume_replicas(0);
    set.wait_for_replicas(0, 2);
    let patient = crate::both_forms::callers(|| waiting_for(&primary.url(), 2, WITHIN));
    for caller in &patient {
        let lease = caller.acquired(&claim(KEY));
        for replica in [1, 2] {
            let record = set.node(replica).command(["GET", KEY]).text().unwrap();
            assert!(record.starts_with(&lease.owner().to_string()));
        }
        assert!(caller.extended(&lease, 1));
        assert!(caller.released(&lease));
    }
}

#[test]
fn fewer_replicas_than_are_waited_for_are_too_few() {
    let set = replicated(2);
    set.node(2).pause();
    let url = set.node(0).url();
    for caller in callers(|| waiting_for(&url, 2, WITHIN)) {
        let error = caller.acquire(&claim(KEY)).unwrap_err();
        assert_eq!(too_few(&error), (1, 2));
    }
    for caller in callers(|| waiting_for(&url, 1, WITHIN)) {
        assert!(caller.released(&caller.acquired(&claim(KEY))));
    }
    set.node(2).resume();
}

#[test]
fn an_extend_that_too_few_replicas_have_is_none_and_loses_nothing() {
    let set = replicated(1);
    let url = set.node(0).url();
    let holders = callers(|| waiting_for(&url, 1, WITHIN));
    let hasty = callers(|| waiting_for(&url, 1, NOT_LONG));
    let keys = keys("extended", holders.len());
    let leases: Vec<_> = holders
        .iter()
        .zip(&keys)
        .map(|(holder, key)| holder.acquired(&claim(key)))
        .collect();
    set.cut_replicas(0);
    for (hasty, lease) in hasty.iter().zip(&leases) {
        let error = hasty.extend(lease, 1).unwrap_err();
        assert_eq!(too_few(&error), (0, 1));
        assert!(error.may_have_executed(), "the primary has the new end");
        let leases = [(call(lease, 2), TTL)];
        let error = hasty.extend_many(&leases).remove(0).unwrap_err();
        assert_eq!(too_few(&error), (0, 1));
    }
    set.resume_replicas(0);
    set.wait_for_replicas(0, 1);
    for (holder, lease) in holders.iter().zip(&leases) {
        assert!(holder.extended(lease, 3));
        assert!(holder.released(lease), "a release waits for nobody");
    }
}

#[test]
fn an_extend_that_was_overtaken_wrote_nothing_that_replicas_could_have() {
    let set = replicated(1);
    let url = set.node(0).url();
    for caller in callers(|| waiting_for(&url, 1, WITHIN)) {
        let lease = caller.acquired(&claim(KEY));
        assert!(caller.extended(&lease, 5));
        let error = caller.extend(&lease, 4).unwrap_err();
        assert_eq!(too_few(&error), (0, 1));
        assert!(caller.extended(&lease, 6));
        assert!(caller.released(&lease));
    }
}

#[test]
fn replicas_are_waited_for_in_the_same_trip_and_once_for_a_batch() {
    let set = replicated(1);
    let primary = set.node(0);
    let proxy = Proxy::to(primary.address());
    let url = format!("redis://{}/", proxy.address());
    for caller in callers(|| waiting_for(&url, 1, WITHIN)) {
        let warm = caller.acquired(&claim("dlock:warm"));
        assert!(caller.extended(&warm, 1) && caller.released(&warm));
        proxy.reset_counts();
        primary.reset_calls();
        let lease = caller.acquired(&claim(KEY));
        assert!(caller.extended(&lease, 1));
        refused(caller.acquire(&claim(KEY)));
        assert!(caller.released(&lease));
        assert_eq!(proxy.counts().connections, 0);
        assert_eq!(proxy.counts().round_trips, 4);
        let calls = primary.calls();
        assert_eq!((calls["evalsha"], calls["wait"]), (4, 3));

        let leases: Vec<(Lease, Duration)> = keys("batch", 21)
            .iter()
            .map(|key| (call(&caller.acquired(&claim(key)), 1), TTL * 2))
            .collect();
        // The blocking form extends many on a connection of their own.
        assert!(caller.extend_many(&leases[..1])[0].is_ok());
        primary.reset_calls();
        let answers = caller.extend_many(&leases[1..]);
        assert!(answers.iter().all(Result::is_ok));
        let calls = primary.calls();
        assert_eq!((calls["evalsha"], calls["wait"]), (20, 1));
        for (lease, _) in &leases {
            assert!(caller.released(lease));
        }
    }
}

#[test]
fn an_impostor_grants_nothing_that_replicas_must_have() {
    let set = set();
    set.impostors_last(FOR_LONG);
    set.node(0).pause();
    let new = set.wait_for_another(0);
    set.node(0).resume();
    assert!(set.is_primary(0) && set.is_primary(new));
    // Its replicas are ordered to follow the new one; until then they still acknowledge.
    until("its replicas have left it", || {
        let info = set.node(0).command(["INFO", "replication"]);
        info.text().unwrap().contains("connected_slaves:0")
    });
    let direct = set.node(0).url();
    for caller in callers(|| waiting_for(&direct, 1, NOT_LONG)) {
        let error = caller.acquire(&claim(KEY)).unwrap_err();
        assert_eq!(too_few(&error), (0, 1));
    }
    for caller in callers(|| waiting_for(&set.url(), 1, WITHIN)) {
        assert!(caller.released(&caller.acquired(&claim(KEY))));
    }
}

/// Each holder has its lock on both replicas, whichever is elected: nobody else is granted it.
#[test]
fn holders_never_overlap_in_a_failover_if_the_replicas_keep_what_they_have() {
    let mut set = set();
    let url = set.url();
    let holders = callers(|| waiting_for(&url, 2, WITHIN));
    let keys = keys("kept", holders.len());
    let leases: Vec<_> = holders
        .iter()
        .zip(&keys)
        .map(|(holder, key)| holder.acquired(&claim(key)))
        .collect();
    // At once: nothing is waited for.
    set.node_mut(0).kill();
    set.wait_for_another(0);
    set.impostors_last(FOR_LONG);
    set.node_mut(0).restart_empty();
    // One replica is left, so nothing is granted that two must have.
    let others = callers(|| waiting_for(&url, 1, WITHIN));
    for (at, lease) in leases.iter().enumerate() {
        refused(others[at].acquire(&claim(&keys[at])));
        assert!(holders[at].released(lease));
        let next = others[at].acquired(&claim(&keys[at]));
        assert!(fence_of(&next) > fence_of(lease), "tokens rise");
    }
}

#[test]
fn a_waiter_is_granted_the_lock_when_the_replicas_are_back() {
    let set = replicated(1);
    let url = set.node(0).url();
    set.cut_replicas(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let lock = Lock::new(waiting_for(&url, 1, NOT_LONG), "import");
            lock.acquire_within(LONG).unwrap().release().unwrap();
        });
        until("it has tried", || set.node(0).keys() == [FENCE]);
        assert!(!waiter.is_finished());
        set.resume_replicas(0);
        waiter.join().unwrap();
    });
}

/// A late copy of what takes a grant back finds another grant of the same owner, or of another
/// owner under the same token: on another server.
#[test]
fn what_takes_a_grant_back_frees_no_other_grant() {
    let server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    let script = include_str!("../../src/scripts/break.lua")
        .replace(
            "-- include fence.lua",
            include_str!("../../src/scripts/fence.lua"),
        )
        .replace(
            "-- include queue.lua",
            include_str!("../../src/scripts/queue.lua"),
        );
    let take_back = |fence: u64, owner: &str| {
        let fence = fence.to_string();
        let keys = ["EVAL", &script, "4", KEY, FENCE, QUEUE, HEARTBEATS];
        let words: Vec<&str> = keys.into_iter().chain([&*fence, owner]).collect();
        server.command(words).integer().unwrap()
    };
    let (fence, owner) = (fence_of(&lease), lease.owner().to_string());
    let another = claim(KEY).owner().to_string();
    assert_eq!(take_back(fence, &another), 0);
    assert_eq!(take_back(fence - 1, &owner), 0);
    assert_eq!(take_back(fence + 1, &owner), 0);
    assert!(extend(&store, &lease, 1, TTL).is_some());
    assert_eq!(take_back(fence, &owner), 1);
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn a_pool_of_the_callers_own_waits_for_replicas_if_the_store_is_told_to() {
    let set = replicated(1);
    let pool = |url: &str| {
        let manager = ConnectionManager::new(url)?;
        let pool = r2d2::Pool::builder().min_idle(Some(0));
        Ok::<_, UrlError>(pool.test_on_check_out(false).build_unchecked(manager))
    };
    let url = set.node(0).url();
    // It would be forgotten.
    let refused = pool(&format!("{url}?wait_replicas=1")).unwrap_err();
    assert!(matches!(refused, UrlError::Replicas(_)), "{refused}");
    let store = |within| {
        let store = RedisDatastore::from_pool(pool(&url).unwrap()).with_call_timeout(LONG);
        store.with_wait_replicas(1, within)
    };
    store(LONG).unwrap_err();
    for caller in callers(|| store(WITHIN).unwrap()) {
        assert!(caller.released(&caller.acquired(&claim(KEY))));
    }
    set.cut_replicas(0);
    for caller in callers(|| store(NOT_LONG).unwrap()) {
        let error = caller.acquire(&claim(KEY)).unwrap_err();
        assert_eq!(too_few(&error), (0, 1));
    }
    set.resume_replicas(0);
}

#[test]
fn a_user_who_may_not_wait_is_refused_and_holds_nothing() {
    let server = RedisServer::builder()
        .user("app", "pw", "allkeys allchannels +@all -wait")
        .start();
    // So that the scripts are known.
    warm(&store(&server));
    let url = server.url_of("app", "pw");
    for caller in callers(|| waiting_for(&url, 1, WITHIN)) {
        let claim = claim(KEY);
        let error = caller.acquire(&claim).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.may_have_executed(), "to be abandoned");
        assert!(whole_text(&error).contains("NOPERM"));
        assert!(server.keys().contains(&KEY.to_owned()));
        caller.abandon(&claim);
        assert!(!server.keys().contains(&KEY.to_owned()));
    }
}
