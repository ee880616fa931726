//! A network that divides the nodes, with the holder on the side of the minority.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dlock_core::{AcquireOutcome, Datastore, Inspect, Lease, Lock, LockOptions, ReleaseError};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdCluster;

use crate::queue::KEY;
use crate::support::{LONG, again, call, claim, claim_within, eventually, fence, key, read};

const TTL: Duration = Duration::from_secs(4);

/// A store that knows these nodes alone, with the usual limits.
fn store_at(cluster: &EtcdCluster, nodes: &[usize]) -> EtcdDatastore {
    let addresses = cluster.addresses();
    let nodes = nodes.iter().map(|node| addresses[*node].to_string());
    let nodes: Vec<_> = nodes.collect();
    EtcdDatastore::open(&format!("etcd://{}", nodes.join(","))).unwrap()
}

#[test]
fn a_holder_on_the_side_of_the_minority_has_lost_its_lock_when_the_majority_grants_it() {
    let cluster = EtcdCluster::start_with_network();
    // The leader first, and then a node that is not.
    for others in [0, 1] {
        let cut_off = (cluster.leader() + others) % 3;
        let minority = store_at(&cluster, &[cut_off]);
        let majority = store_at(&cluster, &[(cut_off + 1) % 3, (cut_off + 2) % 3]);
        let options = LockOptions::builder().ttl(TTL);
        let lock = Lock::with_options(minority.clone(), "import", options).unwrap();
        let guard = lock.acquire_within(LONG).unwrap();
        let is_lost = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&is_lost);
        guard.on_lost(move || lost.store(true, Ordering::SeqCst));
        let node = &cluster.nodes()[cut_off];
        let first = read(node, KEY).unwrap();
        eventually("it is renewed", || {
            let key = read(node, KEY).unwrap();
            (key["mod_revision"] != first["mod_revision"]).then_some(())
        });

        cluster.cut_off(cut_off);
        let next = claim(KEY);
        let grant = eventually("the majority grants it", || {
            match majority.acquire(&again(&next), LONG) {
                Ok(AcquireOutcome::Granted(grant)) => Some(grant),
                Ok(AcquireOutcome::Held(_)) => None,
                // An election is under way.
                Err(error) => {
                    assert!(error.is_transient(), "{error}");
                    None
                }
            }
        });
        assert!(!guard.is_valid(), "two hold the lock");
        assert!(Some(fence(&grant)) > guard.fencing_token());
        eventually("the holder learns of it", || {
            is_lost.load(Ordering::SeqCst).then_some(())
        });
        let error = guard.release().unwrap_err();
        assert!(matches!(error, ReleaseError::Lost), "{error}");
        let call_time = Duration::from_secs(2);
        let claimed = minority.acquire(&claim_within(&key("minority"), call_time), LONG);
        assert!(claimed.unwrap_err().is_transient());

        cluster.heal();
        let seen = eventually("the node has caught up", || minority.holder(KEY).ok());
        assert_eq!(seen.unwrap().fence(), grant.fence);
        let lease = Lease::new(next, grant);
        eventually("it is released", || {
            majority.release(&call(&lease, 1)).ok().map(|_| ())
        });
    }
}
