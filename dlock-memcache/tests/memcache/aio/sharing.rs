//! Many tasks, one connection.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dlock_core::{Datastore, ErrorKind};
use tokio::task::JoinSet;

use super::*;

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
            ours(AsyncDatastore::release(&store, &call(&lease, 2)).await);
            not_ours(AsyncDatastore::release(&store, &call(&lease, 3)).await);

            let blocking = take(&store, &key, LONG);
            assert!(blocking.fence() > lease.fence());
            let seen = held(claims(&store, &claim(&key)).await);
            assert_eq!(seen.fence(), blocking.fence());
            // Either form releases the lease of the other.
            ours(AsyncDatastore::release(&store, &blocking).await);
        });
    }
}

#[test]
fn acquire_extend_and_release_are_one_round_trip_each() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let lease = taken(&store, &key("aio-trips")).await;
        let lease = lease.renewed(extended(extends(&store, &lease, 1).await));
        ours(AsyncDatastore::release(&store, &call(&lease, 2)).await);
        let counts = proxy.counts();
        assert_eq!((counts.round_trips, counts.connections), (3, 0));
    });
}

#[test]
fn all_tasks_of_a_runtime_share_one_connection() {
    for runtime in runtimes() {
        let proxy = Proxy::to(server().address());
        let store = store_at(&format!("memcache://{}", proxy.address()));
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in 0..64 {
                let store = store.clone();
                tasks.spawn(async move {
                    let key = key(&format!("aio-shared-{task}"));
                    for _ in 0..5 {
                        let lease = taken(&store, &key).await;
                        let lease = lease.renewed(extended(extends(&store, &lease, 1).await));
                        ours(AsyncDatastore::release(&store, &call(&lease, 2)).await);
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
        assert_eq!(proxy.counts().connections, 1);
    }
}

#[test]
fn of_many_tasks_that_want_one_lock_one_holds_it_at_a_time() {
    let store = store(server());
    for runtime in runtimes() {
        let key = key("aio-one");
        let holders = Arc::new(AtomicUsize::new(0));
        let tokens = Arc::new(Mutex::new(BTreeSet::new()));
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..16 {
                let (store, key) = (store.clone(), key.clone());
                let (holders, tokens) = (Arc::clone(&holders), Arc::clone(&tokens));
                tasks.spawn(async move {
                    let mut won = 0;
                    while won < 10 {
                        let claim = claim(&key);
                        let grant = match claims(&store, &claim).await {
                            Ok(AcquireOutcome::Granted(grant)) => grant,
                            Ok(AcquireOutcome::Held(_)) => continue,
                            // The key changed its holder again and again.
                            Err(error) if error.kind() == ErrorKind::Refused => continue,
                            Err(error) => panic!("{}", text(&error)),
                        };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        assert!(tokens.lock().unwrap().insert(fence(&grant)));
                        tokio::task::yield_now().await;
                        holders.fetch_sub(1, Ordering::SeqCst);
                        ours(releases(&store, &Lease::new(claim, grant)).await);
                        won += 1;
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
        assert_eq!(tokens.lock().unwrap().len(), 160);
    }
}

#[test]
fn calls_outside_of_any_runtime_lead_to_the_same_locks() {
    let store = store(server());
    let key = key("aio-none");
    let mut last = None;
    for runtime in runtimes() {
        let lease = runtime.block_on(taken(&store, &key));
        assert!(lease.fence() > last);
        last = lease.fence();
        assert_eq!(held(by_hand(claims(&store, &claim(&key)))).fence(), last);
        ours(by_hand(releases(&store, &lease)));
    }
}

#[test]
fn a_runtime_that_is_entered_and_not_driven_does_not_hold_a_conversation_up() {
    let store = store(server());
    let key = key("aio-stuck");
    let runtime = current_thread();
    // Its connection is open, and then nobody drives it.
    let lease = runtime.block_on(taken(&store, &key));
    let _entered = runtime.enter();
    let seen = by_hand(claims(&store, &claim(&key)));
    // The caller wrote the first copy itself, so the refusal of the second proves nothing.
    assert!(seen.unwrap_err().may_have_executed());
    assert_eq!(
        held(by_hand(claims(&store, &claim(&key)))).fence(),
        lease.fence()
    );
    ours(by_hand(releases(&store, &lease)));
}

#[cfg(unix)]
#[test]
fn a_batch_goes_in_one_trip_and_each_lease_has_its_own_answer() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let mut leases = Vec::new();
        for at in 0..200 {
            leases.push((taken(&store, &key(&format!("aio-many-{at}"))).await, LONG));
        }
        ours(releases(&store, &leases[7].0).await);
        leases[8].1 = Duration::from_secs(90 * 86_400);
        proxy.reset_counts();
        let answers = AsyncDatastore::extend_many(&store, &leases).await;
        assert_eq!(answers.len(), leases.len());
        for (at, answer) in answers.into_iter().enumerate() {
            match at {
                7 => lost(answer),
                8 => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Invalid),
                _ => {
                    let renewed = extended(answer);
                    leases[at].0 = call(&leases[at].0.renewed(renewed), 2);
                }
            }
        }
        // A proxy counts one trip more when replies overtake requests.
        assert!(proxy.counts().round_trips <= 10, "{:?}", proxy.counts());

        proxy.reset_counts();
        let leases: Vec<_> = leases.into_iter().map(|(lease, _)| lease).collect();
        let answers = AsyncDatastore::confirm_many(&store, &leases).await;
        for (at, answer) in answers.into_iter().enumerate() {
            match at {
                7 => lost(answer),
                _ => assert_eq!(extended(answer).fence, leases[at].fence(), "{at}"),
            }
        }
        assert!(proxy.counts().round_trips <= 10, "{:?}", proxy.counts());
        assert_eq!(proxy.counts().connections, 0);
    });
}
