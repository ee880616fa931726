//! Many tasks, a few connections.

use dlock_core::Datastore;
use tokio::task::JoinSet;

use super::*;
use crate::support::{extended, held, store, take};

#[test]
fn both_forms_exclude_each_other_and_tokens_rise_over_both() {
    let store = store(server());
    for runtime in runtimes() {
        runtime.block_on(async {
            let key = key("aio-both");
            let lease = taken(&store, &key).await;
            let seen = held(Datastore::acquire(&store, &claim(&key), LONG));
            assert_eq!(seen.fence(), lease.fence());
            extended(extends(&store, &lease, 1).await);
            ours(releases(&store, &lease).await);
            let again = releases(&store, &lease).await;
            assert_eq!(again.unwrap(), ReleaseOutcome::NotHeld);

            let blocking = take(&store, &key, LONG);
            assert!(blocking.fence() > lease.fence());
            let seen = held(claims(&store, &claim(&key)).await);
            assert_eq!(seen.fence(), blocking.fence());
            // Either form releases the lease of the other.
            ours(releases(&store, &blocking).await);
        });
    }
}

#[test]
fn each_call_takes_as_many_round_trips_as_in_the_blocking_form() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy_to(server()).await;
        let lease = taken(&store, &key("aio-trips")).await;
        assert_eq!(proxy.counts().round_trips, 3);
        extended(extends(&store, &lease, 1).await);
        assert_eq!(proxy.counts().round_trips, 6);
        ours(releases(&store, &lease).await);
        let counts = proxy.counts();
        assert_eq!((counts.round_trips, counts.connections), (8, 0));
    });
}

#[test]
fn all_tasks_of_a_runtime_share_eight_connections() {
    for runtime in runtimes() {
        let proxy = Proxy::to(server().address());
        let store = store_at(&format!("etcd://{}", proxy.address()));
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in 0..64 {
                let store = store.clone();
                tasks.spawn(async move {
                    let key = key(&format!("aio-shared-{task}"));
                    let lease = taken(&store, &key).await;
                    extended(extends(&store, &lease, 1).await);
                    ours(releases(&store, &lease).await);
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
        let connections = proxy.counts().connections;
        assert!((2..=8).contains(&connections), "{connections}");
    }
}

#[test]
fn calls_outside_of_any_runtime_lead_to_the_same_locks() {
    let store = store(server());
    let key = key("aio-none");
    for runtime in runtimes() {
        let lease = runtime.block_on(taken(&store, &key));
        let seen = held(by_hand(claims(&store, &claim(&key))));
        assert_eq!(seen.fence(), lease.fence());
        ours(by_hand(releases(&store, &lease)));
        let lease = by_hand(taken(&store, &key));
        ours(runtime.block_on(releases(&store, &lease)));
    }
}

#[test]
fn many_leases_are_extended_over_eight_connections_at_a_time() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (proxy, store) = through_a_proxy_to(server()).await;
            let mut leases = Vec::new();
            for number in 0..20 {
                leases.push(taken(&store, &key(&format!("aio-batch-{number}"))).await);
            }
            assert_eq!(
                proxy.counts().connections,
                0,
                "they came one after the other"
            );
            let calls: Vec<_> = leases.iter().map(|lease| (lease.clone(), LONG)).collect();
            let extensions = AsyncDatastore::extend_many(&store, &calls).await;
            assert_eq!(extensions.len(), leases.len());
            for (extension, lease) in extensions.into_iter().zip(&leases) {
                assert_eq!(extended(extension).fence, lease.fence());
            }
            assert_eq!(proxy.counts().connections, 7);
        });
    }
}
