//! Many tasks, one connection.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dlock_core::{AcquireOutcome, Datastore, ErrorKind};
use tokio::task::JoinSet;

use super::by_hand::by_hand;
use super::*;

#[test]
fn both_forms_exclude_each_other_and_tokens_rise_over_both() {
    let server = RedisServer::start();
    let store = store(&server);
    for runtime in runtimes() {
        runtime.block_on(async {
            let lease = acquired(&store, &claim(KEY)).await;
            refused(Datastore::acquire(&store, &claim(KEY), TTL));
            let left = extended(&store, &lease, 1).await.unwrap();
            assert!(left <= TTL, "{left:?}");
            assert!(released(&store, &lease).await);
            assert!(!released(&store, &lease).await, "it is free");

            let blocking = support::acquired(&store, &claim(KEY));
            assert!(fence_of(&blocking) > fence_of(&lease));
            let held = refused(claims(&store, &claim(KEY)).await);
            assert_eq!(held.fence(), blocking.fence());
            // Either form releases the lease of the other.
            assert!(released(&store, &blocking).await);
        });
    }
}

#[test]
fn all_tasks_of_a_runtime_share_one_connection() {
    for runtime in runtimes() {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.address());
        let store = store_behind(&proxy);
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in 0..64 {
                let store = store.clone();
                tasks.spawn(async move {
                    for round in 0..5 {
                        let key = format!("dlock:{task}");
                        let lease = acquired(&store, &claim(&key)).await;
                        assert!(extended(&store, &lease, round).await.is_some());
                        assert!(released(&store, &lease).await);
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
    for runtime in runtimes() {
        let server = RedisServer::start();
        let store = store(&server);
        let holders = Arc::new(AtomicUsize::new(0));
        let tokens = Arc::new(Mutex::new(BTreeSet::new()));
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..16 {
                let (store, holders) = (store.clone(), Arc::clone(&holders));
                let tokens = Arc::clone(&tokens);
                tasks.spawn(async move {
                    let mut won = 0;
                    while won < 10 {
                        let claim = claim(KEY);
                        let AcquireOutcome::Granted(grant) = claims(&store, &claim).await.unwrap()
                        else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        assert!(tokens.lock().unwrap().insert(grant.fence.unwrap()));
                        tokio::task::yield_now().await;
                        holders.fetch_sub(1, Ordering::SeqCst);
                        assert!(released(&store, &Lease::new(claim, grant)).await);
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
fn unix_sockets_tls_and_no_runtime_lead_to_the_same_locks() {
    let server = RedisServer::builder().tls().start();
    let tls = format!("{}?ca={}", server.tls_url(), server.ca_file().display());
    let mut last = 0;
    for url in [server.url(), server.unix_url(), tls] {
        let store = patient(&url);
        for runtime in runtimes() {
            let lease = runtime.block_on(acquired(&store, &claim(KEY)));
            assert!(fence_of(&lease) > last);
            last = fence_of(&lease);
            refused(by_hand(claims(&store, &claim(KEY))));
            assert!(by_hand(released(&store, &lease)));
        }
    }
}

#[test]
fn a_server_that_the_authorities_do_not_vouch_for_is_refused_for_good() {
    let server = RedisServer::builder().tls().start();
    let other = RedisServer::builder().tls().start();
    let url = format!("{}?ca={}", server.tls_url(), other.ca_file().display());
    let error = current_thread()
        .block_on(claims(&patient(&url), &claim(KEY)))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
    assert!(!error.may_have_executed());
}

#[test]
fn a_batch_goes_in_one_trip_and_each_lease_has_its_own_answer() {
    let runtime = current_thread();
    let (server, proxy, store) = runtime.block_on(warm_behind_proxy());
    runtime.block_on(async {
        let mut leases = Vec::new();
        for at in 0..300 {
            let lease = acquired(&store, &claim(&format!("dlock:{at}"))).await;
            leases.push((call(&lease, 1), TTL));
        }
        let foreign = &leases[7].0;
        server.command(["DEL", foreign.key()]);
        server.command(["SCRIPT", "FLUSH"]);
        leases[8].1 = Duration::ZERO;
        proxy.reset_counts();
        let answers = AsyncDatastore::extend_many(&store, &leases).await;
        assert_eq!(answers.len(), leases.len());
        for (at, answer) in answers.into_iter().enumerate() {
            match at {
                7 => assert!(matches!(answer, Ok(dlock_core::Extension::Lost))),
                8 => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Invalid),
                _ => assert!(
                    matches!(answer, Ok(dlock_core::Extension::Extended(_))),
                    "{at}"
                ),
            }
        }
        assert_eq!(
            server.calls()["eval"],
            4,
            "the batch brought one script, three were brought before"
        );
        // A proxy counts one trip more when replies overtake requests.
        assert!(proxy.counts().round_trips <= 10, "{:?}", proxy.counts());
        assert_eq!(proxy.counts().connections, 0);
    });
}
