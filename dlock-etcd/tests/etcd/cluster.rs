//! Three nodes: what the loss of one, of two and of the leader does to locks.

use std::time::{Duration, Instant};

use dlock_core::{AcquireOutcome, Clock, Datastore, ErrorKind, Inspect};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdCluster;

use crate::support::{
    LONG, call, claim, claim_within, eventually, extended, fence, granted, held, key, ours, take,
};

/// A store with the usual limits, which a node that does not answer must not use up.
fn store(cluster: &EtcdCluster) -> EtcdDatastore {
    EtcdDatastore::open(&cluster.url()).unwrap()
}

#[test]
fn a_lease_whose_leader_was_killed_ends_late_and_never_early() {
    const TTL: Duration = Duration::from_secs(4);
    let mut cluster = EtcdCluster::start();
    let store = store(&cluster);
    let key = key("leader");
    let sent = Instant::now();
    let first = granted(store.acquire(&claim(&key), TTL));
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
    let lease = take(&store, &key, LONG);
    for sequence in [1, 2] {
        let leader = cluster.leader();
        cluster.node_mut(leader).kill();
        eventually("the lease is extended", || {
            let extension = store.extend(&call(&lease, sequence), LONG);
            match extension {
                Err(error) if error.is_transient() => None,
                other => Some(extended(other)),
            }
        });
        cluster.node_mut(leader).start_again();
    }
    let refusal = held(store.acquire(&claim(&key), LONG));
    assert_eq!(refusal.fence(), lease.fence());
    ours(store.release(&call(&lease, 9)));
}

#[test]
fn without_a_majority_nothing_is_granted_told_or_freed() {
    let cluster = EtcdCluster::start();
    let store = store(&cluster);
    let key = key("majority");
    let lease = take(&store, &key, LONG);
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
    // A node that is cut off must not answer from what it remembers.
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
    let lease = take(&store, &key("stops"), LONG);
    cluster.nodes()[follower].pause();
    for sequence in 1..20 {
        eventually("another node extends the lease", || {
            match store.extend(&call(&lease, sequence), LONG) {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
                    None
                }
                other => Some(extended(other)),
            }
        });
    }
    ours(store.release(&call(&lease, 30)));
    cluster.nodes()[follower].resume();
}
