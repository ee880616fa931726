//! Primaries that are killed, stopped or replaced, and what a holder, a waiter and a resource that
//! checks tokens see.

use std::thread;
use std::time::Instant;

use dlock_core::{Clock, ErrorKind, Lock, LockOptions, Signal, Store};

use super::*;

fn with_replicas() -> RedisCluster {
    RedisCluster::builder().replicas().start()
}

/// Waits until a primary's replica has everything that the primary has.
fn replicated(cluster: &RedisCluster, primary: usize) {
    let sync = cluster.node(primary).command(["WAIT", "1", "0"]);
    assert_eq!(sync, Reply::Integer(1));
}

#[test]
fn a_lock_that_reached_the_replica_outlives_its_primary() {
    for open in forms() {
        let mut cluster = with_replicas();
        let (store, other) = (open(&cluster), open(&cluster));
        let key = own_key();
        let primary = cluster.owner_of(&key);
        let claim_of_ours = claim(&key);
        let grant = granted(store.acquire(&claim_of_ours, TAKEOVER * 2));
        let lease = Lease::new(claim_of_ours, grant);
        refused(tries(&other, &key));
        // WAIT is for writes of its own connection.
        until("the replica has the lock", || {
            exists_at_replica(&cluster, primary, &key)
        });
        cluster.node_mut(primary).kill();

        // Both wait for the replica to take over, within their own deadlines.
        refused(tries_after_a_kill(&other, &key));
        assert!(extends(&store, &lease, 1, TTL));
        assert_ne!(cluster.owner_of(&key), primary);
        cluster.node_mut(primary).start_again();
        cluster.wait_until_ok();
        refused(tries(&other, &key));
        assert!(releases(&store, &lease));
        let next = acquired(&other, &claim(&key));
        assert!(fence_of(&next) > fence_of(&lease));
    }
}

/// If the claim reached the socket before the connection noticed that the node was dead, nobody
/// knows whether the node carried it out, and a refusal elsewhere leaves that open.
fn tries_after_a_kill(store: &Form, key: &str) -> Result<AcquireOutcome, DatastoreError> {
    match tries(store, key) {
        Err(error) if error.may_have_executed() => tries(store, key),
        outcome => outcome,
    }
}

fn exists_at_replica(cluster: &RedisCluster, primary: usize, key: &str) -> bool {
    let replica = cluster.node(cluster.replica_of(primary));
    // A replica redirects readers, and counts its keys for everybody.
    let slot = cluster.slot_of(key).to_string();
    let count = replica.command(["CLUSTER", "COUNTKEYSINSLOT", &slot]);
    count.integer().is_some_and(|count| count >= 2)
}

#[test]
fn a_lock_that_reached_no_replica_is_lost_and_the_next_holder_has_a_higher_token() {
    for open in forms() {
        let mut cluster = with_replicas();
        let (store, other) = (open(&cluster), open(&cluster));
        let key = own_key();
        let primary = cluster.owner_of(&key);
        let before = acquired(&store, &claim(&key));
        assert!(releases(&store, &before));
        until("the replica has the fence", || {
            let replica = cluster.node(cluster.replica_of(primary));
            let slot = cluster.slot_of(&key).to_string();
            replica.command(["CLUSTER", "COUNTKEYSINSLOT", &slot]) == Reply::Integer(1)
        });
        let replica = cluster.cut_off_replica_of(primary);
        let lease = acquired(&store, &claim(&key));
        cluster.node_mut(primary).kill();
        cluster.node(replica).resume();

        let next = acquired(&other, &claim(&key));
        assert!(
            fence_of(&next) > fence_of(&lease),
            "though its fence was lost"
        );
        assert!(
            !extends(&store, &lease, 1, TTL),
            "the first holder learns of it"
        );
        assert!(!releases(&store, &lease));
        let mut resource = Guarded::default();
        assert!(resource.write(&lease) && resource.write(&next));
        assert!(!resource.write(&lease), "the first holder writes no more");
        assert!(extends(&other, &next, 1, TTL));
        assert!(releases(&other, &next));
    }
}

#[test]
fn a_primary_that_was_stopped_and_goes_on_soon_sends_its_clients_to_the_new_one() {
    for open in forms() {
        let cluster = with_replicas();
        let (kept, other) = (open(&cluster), open(&cluster));
        let key = own_key();
        let primary = cluster.owner_of(&key);
        // Its connection stays open, and its map stays old.
        let before = acquired(&kept, &claim(&key));
        assert!(releases(&kept, &before));
        replicated(&cluster, primary);
        cluster.node(primary).pause();
        cluster.wait_for_takeover(primary);
        let lease = acquired(&other, &claim(&key));
        assert!(fence_of(&lease) > fence_of(&before));

        cluster.node(primary).resume();
        until("the old primary knows that it is none", || {
            let outcome = tries(&kept, &key);
            match outcome {
                // For a moment it takes itself for the owner.
                Ok(AcquireOutcome::Granted(_)) | Err(_) => false,
                Ok(AcquireOutcome::Held(_)) => true,
            }
        });
        assert!(
            extends(&other, &lease, 1, TTL),
            "the new primary kept the lock"
        );
        assert!(releases(&other, &lease));
        cluster.wait_until_ok();
        let next = acquired(&kept, &claim(&key));
        assert!(fence_of(&next) > fence_of(&lease));
    }
}

#[test]
fn waiters_keep_waiting_over_a_failover_and_are_served_in_turn() {
    for open in forms() {
        let mut cluster = with_replicas();
        let holder = open(&cluster);
        let stores = [Store::new(open(&cluster)), Store::new(open(&cluster))];
        let key = own_key();
        let name = key.strip_prefix("dlock:").unwrap();
        let primary = cluster.owner_of(&key);
        let queue = format!("{{{key}}}:queue");
        let lease = acquired(&holder, &claim(&key));
        let (served, order) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            for (number, store) in stores.iter().enumerate() {
                let served = served.clone();
                scope.spawn(move || {
                    let guard = Lock::new(store, name).acquire_within(LONG * 3).unwrap();
                    served
                        .send((number, guard.fencing_token().unwrap().get()))
                        .unwrap();
                    guard.release().unwrap();
                });
                let count = i64::try_from(number).unwrap() + 1;
                until("it waits", || {
                    cluster.node(primary).command(["ZCARD", &queue]).integer() == Some(count)
                });
            }
            until("the replica has the queue", || {
                let replica = cluster.node(cluster.replica_of(primary));
                let slot = cluster.slot_of(&key).to_string();
                let count = replica.command(["CLUSTER", "COUNTKEYSINSLOT", &slot]);
                count.integer().is_some_and(|count| count >= 4)
            });
            cluster.node_mut(primary).kill();
            cluster.wait_for_takeover(primary);
            assert!(extends(&holder, &lease, 1, TTL));
            assert!(releases(&holder, &lease));
            let served: Vec<_> = order.iter().take(2).collect();
            let tokens: Vec<_> = served.iter().map(|(_, token)| *token).collect();
            assert!(
                fence_of(&lease) < tokens[0] && tokens[0] < tokens[1],
                "{served:?}"
            );
        });
    }
}

#[test]
fn a_held_lock_is_renewed_over_a_failover() {
    let mut cluster = with_replicas();
    let stores: Vec<_> = forms()
        .iter()
        .map(|open| Store::new(open(&cluster)))
        .collect();
    let mut guards = Vec::new();
    for store in &stores {
        for _ in 0..8 {
            let name = own_key();
            let options = LockOptions::builder().ttl(LONG);
            let lock = Lock::with_options(store, &name, options).unwrap();
            guards.push(lock.acquire_within(LONG).unwrap());
        }
    }
    for primary in 0..3 {
        let replica = cluster.replica_of(primary);
        let keys = |node: usize| cluster.node(node).command(["DBSIZE"]);
        until("it is replicated", || keys(primary) == keys(replica));
    }
    cluster.node_mut(1).kill();
    cluster.wait_for_takeover(1);
    for guard in &guards {
        assert!(guard.is_valid());
    }
    for guard in guards {
        guard.release().unwrap();
    }
}

#[test]
fn without_a_replica_calls_fail_until_the_primary_is_back_and_its_slots_are_served() {
    let mut cluster = RedisCluster::builder()
        .node_timeout(Duration::from_secs(1))
        .start();
    let soon = Duration::from_millis(400);
    let keys: Vec<_> = (0..20).map(|_| own_key()).collect();
    let dead = cluster.owner_of(&keys[0]);
    let living = keys.iter().find(|key| cluster.owner_of(key) != dead);
    for open in forms() {
        let store = open(&cluster);
        let lease = acquired(&store, &claim(&keys[0]));
        assert!(releases(&store, &lease));
        cluster.node_mut(dead).kill();
        let error = store
            .acquire(&claim_within(&keys[0], soon), TTL)
            .unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(
            [
                ErrorKind::Unreachable,
                ErrorKind::Timeout,
                ErrorKind::Refused
            ]
            .contains(&error.kind())
        );
        // A cluster that lacks slots serves none, unless it is set to.
        let alive = (dead + 1) % 3;
        let other = living.unwrap();
        until("the cluster knows that it is down", || {
            errors(&cluster, alive, "CLUSTERDOWN") + errors(&cluster, (dead + 2) % 3, "CLUSTERDOWN")
                > 0
                || store.acquire(&claim_within(other, soon), TTL).is_err()
        });
        thread::scope(|scope| {
            let waiting = scope.spawn(|| acquired(&store, &claim(&keys[0])));
            cluster.node_mut(dead).start_again();
            cluster.wait_until_ok();
            let lease = waiting.join().unwrap();
            assert!(releases(&store, &lease));
        });
    }
}

#[test]
fn a_replica_that_is_promoted_in_agreement_keeps_everything() {
    let cluster = with_replicas();
    for open in forms() {
        let (holder, waits) = (open(&cluster), open(&cluster));
        let key = own_key();
        let primary = cluster.owner_of(&key);
        let lease = acquired(&holder, &claim(&key));
        let deadline = Clock::BOOTTIME.now().saturating_add(LONG * 2);
        let waiting = claim(&key).with_deadline(deadline);
        let signal = Signal::new();
        let watch = waits.watch(&waiting, &signal).unwrap().unwrap();
        refused(waits.acquire(&waiting, TTL));
        cluster.fail_over_to(cluster.replica_of(primary));
        cluster.wait_for_replica(primary);
        assert!(extends(&holder, &lease, 1, TTL));
        assert!(releases(&holder, &lease));
        until("it is woken", || signal.take());
        let next = acquired(&waits, &waiting);
        assert!(fence_of(&next) > fence_of(&lease));
        drop(watch);
        assert!(releases(&waits, &next));
    }
}

/// A node that hangs must not hold back what another one has answered until that is old.
#[test]
fn a_batch_of_renewals_ends_with_its_soonest_call_whichever_node_hangs() {
    for open in forms() {
        let cluster = RedisCluster::start();
        let store = open(&cluster);
        let soon = own_key();
        let late = loop {
            let key = own_key();
            if cluster.owner_of(&key) != cluster.owner_of(&soon) {
                break key;
            }
        };
        let (soon, late) = (
            acquired(&store, &claim(&soon)),
            acquired(&store, &claim(&late)),
        );
        cluster.node(cluster.owner_of(late.key())).pause();
        let start = Instant::now();
        let ends = Clock::BOOTTIME.now().saturating_add(LONG / 2);
        let batch = [(soon.for_call(1, ends), TTL), (call(&late, 1), TTL)];
        let answers = store.extend_many(&batch);
        // That of the other call.
        assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
        assert!(
            matches!(answers[0], Ok(Extension::Extended(_))),
            "{answers:?}"
        );
        let error = answers[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    }
}
