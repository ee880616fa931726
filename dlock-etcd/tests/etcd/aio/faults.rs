//! Connections that break, stall and drip, and futures that are dropped.

use std::time::Instant;

use dlock_core::{Clock, Datastore, ErrorKind};
use dlock_test_servers::EtcdCluster;
use dlock_test_servers::faults::Fault;

use super::*;
use crate::support::{again, claim_within, extended, held, leases, read};

/// The time of a call to a node that does not answer.
const TIME: Duration = Duration::from_secs(8);

#[test]
fn wherever_the_answers_to_a_claim_are_cut_it_is_granted_once_and_leaves_nothing() {
    current_thread().block_on(async {
        let server = EtcdServer::start();
        let (proxy, store) = through_a_proxy_to(&server).await;
        let direct = crate::support::store(&server);
        let first = taken(&store, &key("whole")).await;
        let bytes = usize::try_from(proxy.counts().reply_bytes).unwrap();
        ours(releases(&store, &first).await);
        assert!(bytes > 500, "{bytes} bytes of answers");
        for after in (0..bytes).step_by(61) {
            let key = key("aio-cut");
            proxy.replies_once(Fault::Cut { after });
            let claim = claim(&key);
            let grant = granted(claims(&store, &claim).await);
            proxy.heal();
            let refusal = held(Datastore::acquire(
                &direct,
                &crate::support::claim(&key),
                LONG,
            ));
            assert_eq!(refusal.fence(), grant.fence, "cut after {after} bytes");
            let repeated = granted(claims(&store, &again(&claim)).await);
            assert_eq!(repeated.fence, grant.fence, "cut after {after} bytes");
            ours(releases(&store, &Lease::new(claim.clone(), grant)).await);
            AsyncDatastore::abandon(&store, &again(&claim))
                .await
                .unwrap();
            assert_eq!(read(&server, &key), None);
            assert!(leases(&server).is_empty(), "cut after {after} bytes");
        }
    });
}

#[test]
fn tasks_under_which_the_connections_are_cut_all_the_time_hold_their_locks_once() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (proxy, store) = through_a_proxy_to(server()).await;
            let keys: Vec<_> = (0..16).map(|task| key(&format!("cut-{task}"))).collect();
            let tasks: Vec<_> = keys
                .iter()
                .map(|key| {
                    let (store, key) = (store.clone(), key.clone());
                    tokio::spawn(async move {
                        for _ in 0..4 {
                            let lease = taken_at_last(&store, &key).await;
                            // Until it is known that it is free.
                            while releases(&store, &lease).await.is_err() {}
                            while AsyncDatastore::abandon(&store, &again(lease.claim()))
                                .await
                                .is_err()
                            {}
                        }
                    })
                })
                .collect();
            // A claim takes several round trips, on a busy machine more than any fixed pause.
            let mut pause = Duration::from_millis(20);
            while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
                proxy.cut();
                tokio::time::sleep(pause).await;
                pause = pause * 21 / 20;
            }
            for task in tasks {
                task.await.unwrap();
            }
            for key in keys {
                assert_eq!(read(server(), &key), None, "{key}");
            }
        });
    }
}

/// Claims until the claim is granted. A refusal would be by our own key.
async fn taken_at_last(store: &EtcdDatastore, key: &str) -> Lease {
    let first = claim(key);
    loop {
        let claim = again(&first);
        match claims(store, &claim).await {
            Ok(AcquireOutcome::Granted(grant)) => return Lease::new(claim, grant),
            Ok(AcquireOutcome::Held(held)) => panic!("{held:?}"),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

#[test]
fn an_answer_that_drips_ends_with_the_deadline() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (proxy, store) = through_a_proxy_to(server()).await;
            let lease = taken(&store, &key("aio-drips")).await;
            let every = Duration::from_millis(50);
            proxy.replies(Fault::Split { bytes: 1, every });
            let end = Clock::BOOTTIME
                .now()
                .saturating_add(Duration::from_millis(500));
            let started = Instant::now();
            let extended = AsyncDatastore::extend(&store, &lease.for_call(1, end), LONG).await;
            let error = extended.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            assert!(started.elapsed() < PATIENCE / 4);
            proxy.cut();
            proxy.heal();
            // A connection was being opened, and was cut too: a call that waits for it fails.
            let _ = claims(&store, &claim(&key("aio-drips"))).await;
            ours(releases(&store, &lease).await);
        });
    }
}

#[test]
fn a_call_that_is_dropped_leaves_its_answer_to_nobody() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy_to(server()).await;
        let lease = taken(&store, &key("aio-dropped")).await;
        for sequence in 1..10 {
            let dropped = extends(&store, &lease, sequence);
            let in_time = tokio::time::timeout(Duration::from_micros(300), dropped).await;
            drop(in_time);
            // The next call gets its own answer.
            let seen = held(claims(&store, &claim(lease.key())).await);
            assert_eq!(seen.fence(), lease.fence());
        }
        extended(extends(&store, &lease, 20).await);
        ours(AsyncDatastore::release(&store, &call(&lease, 21)).await);
        assert!(proxy.counts().connections <= 8);
    });
}

/// A store that asks a node first that is not the leader, so that no election takes place when the
/// node is paused; and that node.
fn store_at_a_follower(cluster: &EtcdCluster) -> (EtcdDatastore, usize) {
    let follower = (cluster.leader() + 1) % 3;
    let mut addresses = cluster.addresses();
    addresses.rotate_left(follower);
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let url = format!("etcd://{}", addresses.join(","));
    let store = EtcdDatastore::builder(&url).unwrap().call_timeout(TIME);
    (store.build(), follower)
}

#[test]
fn a_call_after_one_that_a_node_did_not_answer_goes_to_another_node() {
    let cluster = EtcdCluster::start();
    let (store, follower) = store_at_a_follower(&cluster);
    current_thread().block_on(async {
        let lease = taken(&store, &key("aio-stops")).await;
        cluster.nodes()[follower].pause();
        let other = claim_within(&key("aio-stops"), TIME);
        let error = claims(&store, &other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        let end = Clock::BOOTTIME.now().saturating_add(TIME);
        extended(AsyncDatastore::extend(&store, &lease.for_call(1, end), LONG).await);
        ours(releases(&store, &lease).await);
    });
    cluster.nodes()[follower].resume();
}

#[test]
fn a_release_and_an_extend_that_a_node_does_not_answer_go_to_another_node_in_time() {
    let cluster = EtcdCluster::start();
    for ends in [false, true] {
        let (store, follower) = store_at_a_follower(&cluster);
        current_thread().block_on(async {
            let lease = taken(&store, &key("aio-urgent")).await;
            cluster.nodes()[follower].pause();
            let end = Clock::BOOTTIME.now().saturating_add(TIME);
            let lease = lease.for_call(1, end);
            if ends {
                ours(AsyncDatastore::release(&store, &lease).await);
            } else {
                extended(AsyncDatastore::extend(&store, &lease, LONG).await);
            }
        });
        cluster.nodes()[follower].resume();
        cluster.wait_until_healthy();
    }
}
