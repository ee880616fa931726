//! Three nodes: what the loss of one, of two and of the leader does to locks.

use std::time::{Duration, Instant};

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, Grant, Inspect, Lease};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdCluster;

use crate::support::{
    LONG, again, call, claim, claim_within, eventually, extended, fence, granted, held, key, ours,
};

/// A store with the usual limits, which a node that does not answer must not use up.
fn store(cluster: &EtcdCluster) -> EtcdDatastore {
    EtcdDatastore::open(&cluster.url()).unwrap()
}

/// Claims until the claim is granted: a call may end before that on a busy machine.
fn granted_at_last(store: &EtcdDatastore, claim: &Claim, ttl: Duration) -> Grant {
    eventually("the claim is granted", || {
        match store.acquire(&again(claim), ttl) {
            Err(error) if error.is_transient() => None,
            outcome => Some(granted(outcome)),
        }
    })
}

fn taken_at_last(store: &EtcdDatastore, key: &str) -> Lease {
    let claim = claim(key);
    let grant = granted_at_last(store, &claim, LONG);
    Lease::new(claim, grant)
}

/// Extends until that is answered.
fn extended_at_last(store: &EtcdDatastore, lease: &Lease, sequence: u64) {
    eventually("the lease is extended", || {
        match store.extend(&call(lease, sequence), LONG) {
            Err(error) if error.is_transient() => None,
            extension => Some(extended(extension)),
        }
    });
}

/// Releases until that is answered. The first that may have been carried out must free the lock.
fn released_at_last(store: &EtcdDatastore, lease: &Lease) {
    let mut is_first = true;
    eventually("the lock is released", || {
        match store.release(&call(lease, 100)) {
            Err(error) if error.is_transient() => {
                is_first &= !error.may_have_executed();
                None
            }
            released if is_first => {
                ours(released);
                Some(())
            }
            released => released.ok().map(drop),
        }
    });
}

#[test]
fn a_lease_whose_leader_was_killed_ends_late_and_never_early() {
    const TTL: Duration = Duration::from_secs(4);
    let mut cluster = EtcdCluster::start();
    let store = store(&cluster);
    let key = key("leader");
    let sent = Instant::now();
    let first = granted_at_last(&store, &claim(&key), TTL);
    let leader = cluster.leader();
    cluster.node_mut(leader).kill();
    let second = eventually("the key is free again", || {
        match store.acquire(&claim(&key), TTL) {
            Ok(AcquireOutcome::Granted(grant)) => Some(grant),
            Ok(AcquireOutcome::Held(held)) => {
                assert_eq!(held.fence(), first.fence);
                None
            }
            // An election is under way.
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                None
            }
        }
    });
    assert!(sent.elapsed() >= TTL, "it ended {:?} after", sent.elapsed());
    assert!(fence(&second) > fence(&first));
}

#[test]
fn the_holder_keeps_its_lock_when_the_leader_is_killed() {
    let mut cluster = EtcdCluster::start();
    let store = store(&cluster);
    let key = key("keeps");
    let lease = taken_at_last(&store, &key);
    for sequence in [1, 2] {
        let leader = cluster.leader();
        cluster.node_mut(leader).kill();
        extended_at_last(&store, &lease, sequence);
        cluster.node_mut(leader).start_again();
    }
    let refusal = eventually("a claim is refused", || {
        match store.acquire(&claim(&key), LONG) {
            Err(error) if error.is_transient() => None,
            outcome => Some(held(outcome)),
        }
    });
    assert_eq!(refusal.fence(), lease.fence());
    released_at_last(&store, &lease);
}

#[test]
fn without_a_majority_nothing_is_granted_told_or_freed() {
    let cluster = EtcdCluster::start();
    let store = store(&cluster);
    let key = key("majority");
    let lease = taken_at_last(&store, &key);
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    cluster.nodes()[leader].pause();
    cluster.nodes()[other].pause();

    let call_time = Duration::from_secs(2);
    let started = Instant::now();
    let claimed = store.acquire(&claim_within(&key, call_time), LONG);
    let error = claimed.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let end = Clock::BOOTTIME.now().saturating_add(call_time);
    let error = store.release(&lease.for_call(1, end)).unwrap_err();
    assert!(error.is_transient(), "{error}");
    // A node that is cut off must not tell what it remembers.
    let error = store.holder(&key).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "each call ends"
    );

    cluster.nodes()[leader].resume();
    cluster.nodes()[other].resume();
    // The release may have been carried out, now that the nodes go on.
    eventually("the lock is released", || {
        match store.release(&call(&lease, 2)) {
            Ok(_) => Some(()),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                None
            }
        }
    });
    let next = eventually("the next claim is granted", || {
        let outcome = store.acquire(&claim(&key), LONG);
        matches!(outcome, Ok(AcquireOutcome::Granted(_))).then(|| granted(outcome))
    });
    assert!(Some(fence(&next)) > lease.fence());
}

#[test]
fn a_node_that_stops_answering_is_left_for_another() {
    let cluster = EtcdCluster::start();
    // Not the leader, so that no election takes place meanwhile.
    let follower = (cluster.leader() + 1) % 3;
    let mut addresses = cluster.addresses();
    addresses.rotate_left(follower);
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let store = EtcdDatastore::open(&format!("etcd://{}", addresses.join(","))).unwrap();
    let lease = taken_at_last(&store, &key("stops"));
    cluster.nodes()[follower].pause();
    for sequence in 1..20 {
        extended_at_last(&store, &lease, sequence);
    }
    released_at_last(&store, &lease);
    cluster.nodes()[follower].resume();
}
