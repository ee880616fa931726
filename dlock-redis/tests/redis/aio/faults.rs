//! Connections that break, stall and drip, and servers that stop, forget and restart.

use std::time::Instant;

use dlock_core::{Datastore, ErrorKind};
use dlock_test_servers::faults::Fault;

use super::*;
use crate::broken_connections::fence_of_server;

/// Long enough for a busy machine to send a request, and for its runtime to count as driven: that
/// is checked after each tenth of a call.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn a_claim_whose_reply_was_lost_is_granted_once_with_one_fencing_token() {
    current_thread().block_on(async {
        let (server, proxy, store) = warm_behind_proxy().await;
        let claim = claim(KEY);
        server.reset_calls();
        proxy.replies_once(Fault::Cut { after: 0 });

        let lease = acquired(&store, &claim).await;

        assert_eq!(evalshas(&server), 2, "it ran, and was repeated");
        assert_eq!(fence_of(&lease), fence_of_server(&server), "one grant");
        assert!(lease.grant().copy_may_follow);
        assert!(released(&store, &lease).await);
        let warm = acquired(&store, &claim).await;
        assert!(
            !warm.grant().copy_may_follow,
            "only the call in doubt has it"
        );
        assert!(released(&store, &warm).await);
        assert_eq!(
            server.keys(),
            ["{dlock:import}:fence", "{dlock:warm}:fence"]
        );
    });
}

#[test]
fn a_refusal_after_a_lost_reply_does_not_hide_that_the_claim_may_yet_win() {
    current_thread().block_on(async {
        let (_server, proxy, store) = warm_behind_proxy().await;
        let _other = acquired(&store, &claim(KEY)).await;
        proxy.replies_once(Fault::Cut { after: 0 });
        let error = claims(&store, &claim(KEY)).await.unwrap_err();
        assert!(error.may_have_executed(), "so core abandons the claim");
        assert!(error.is_transient());
    });
}

#[test]
fn an_extend_and_a_release_whose_replies_were_lost_are_repeated() {
    current_thread().block_on(async {
        let (server, proxy, store) = warm_behind_proxy().await;
        let lease = acquired(&store, &claim(KEY)).await;
        proxy.replies_once(Fault::Cut { after: 0 });
        let left = extended(&store, &lease, 1).await.unwrap();
        assert!(left > Duration::ZERO && left <= TTL, "{left:?}");

        proxy.replies_once(Fault::Cut { after: 0 });
        let error = AsyncDatastore::release(&store, &call(&lease, 2))
            .await
            .unwrap_err();
        assert!(error.may_have_executed(), "perhaps it was we who freed it");
        assert!(!server.keys().contains(&KEY.to_owned()));
    });
}

#[test]
fn a_connection_cut_at_any_byte_of_the_claim_or_its_answer_leaves_one_grant_and_then_nothing() {
    current_thread().block_on(async {
        let (server, proxy, store) = warm_behind_proxy().await;
        proxy.reset_counts();
        let lease = acquired(&store, &claim(KEY)).await;
        let counts = proxy.counts();
        assert!(released(&store, &lease).await);
        let requests = usize::try_from(counts.request_bytes).unwrap();
        let replies = usize::try_from(counts.reply_bytes).unwrap();
        let mut cuts: Vec<_> = (0..requests).step_by(5).map(|at| (true, at)).collect();
        cuts.extend((0..replies).map(|at| (false, at)));

        for (requests, after) in cuts {
            let cut = Fault::Cut { after };
            match requests {
                true => proxy.requests_once(cut),
                false => proxy.replies_once(cut),
            }
            let lease = acquired(&store, &claim(KEY)).await;
            assert_eq!(
                fence_of(&lease),
                fence_of_server(&server),
                "{requests} {after}"
            );
            proxy.heal();
            assert!(released(&store, &lease).await, "{requests} {after}");
            assert_eq!(
                server.keys(),
                ["{dlock:import}:fence", "{dlock:warm}:fence"]
            );
        }
    });
}

#[test]
fn tasks_under_which_the_connection_is_cut_all_the_time_hold_their_locks_once_and_leave_nothing() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (server, proxy, store) = warm_behind_proxy().await;
            let tasks: Vec<_> = (0..32)
                .map(|task| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        let key = format!("dlock:{task}");
                        for _ in 0..10 {
                            let owner = claim(&key).owner();
                            let lease = loop {
                                // The same claim, with time anew.
                                let claim = claim(&key).owned_by(owner);
                                match claims(&store, &claim).await {
                                    Ok(AcquireOutcome::Granted(grant)) => {
                                        break Lease::new(claim, grant);
                                    }
                                    Ok(AcquireOutcome::Held(held)) => panic!("{held:?}"),
                                    Err(error) => assert!(error.is_transient(), "{error}"),
                                }
                            };
                            // Until it is known that it is free.
                            while AsyncDatastore::release(&store, &call(&lease, 1))
                                .await
                                .is_err()
                            {}
                        }
                    })
                })
                .collect();
            // On a busy machine a round trip takes longer than any fixed pause.
            let mut pause = Duration::from_millis(5);
            while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
                proxy.cut();
                tokio::time::sleep(pause).await;
                pause = pause * 21 / 20;
            }
            for task in tasks {
                task.await.unwrap();
            }
            let locks = |key: &String| !key.ends_with(":fence");
            assert_eq!(server.keys().into_iter().find(locks), None);
        });
    }
}

#[test]
fn a_reply_that_is_split_at_every_byte_is_understood() {
    current_thread().block_on(async {
        let (_server, proxy, store) = warm_behind_proxy().await;
        let every = Duration::from_millis(1);
        proxy.replies(Fault::Split { bytes: 1, every });
        proxy.requests(Fault::Split { bytes: 100, every });
        let lease = acquired(&store, &claim(KEY)).await;
        refused(claims(&store, &claim(KEY)).await);
        assert!(extended(&store, &lease, 1).await.is_some());
        assert!(released(&store, &lease).await);
    });
}

#[test]
fn a_reply_that_drips_ends_with_the_deadline_and_not_with_the_drip() {
    current_thread().block_on(async {
        let (_server, proxy, store) = warm_behind_proxy().await;
        let every = Duration::from_secs(2);
        proxy.replies(Fault::Split { bytes: 1, every });
        let start = Instant::now();
        let error = claims(&store, &claim_within(KEY, SOON)).await.unwrap_err();
        let took = start.elapsed();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_have_executed());
        assert!(whole_text(&error).contains("read the reply"), "{error:?}");
        // The reply is a token: it has more than fifteen bytes.
        let drips = every * 15;
        assert!(took >= SOON - Duration::from_millis(10), "{took:?}");
        assert!(took < drips - Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn a_claim_that_the_network_delays_until_after_its_end_changes_nothing() {
    current_thread().block_on(async {
        let (server, proxy, store) = warm_behind_proxy().await;
        server.reset_calls();
        proxy.requests_once(Fault::Hold);
        let error = claims(&store, &claim_within(KEY, SOON)).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Timeout && error.may_have_executed());
        assert_eq!(evalshas(&server), 0);
        proxy.heal();
        until("the claim arrived", || evalshas(&server) == 1).await;
        assert_eq!(server.keys(), ["{dlock:warm}:fence"]);
    });
}

#[test]
fn of_many_claims_at_a_stopped_server_none_holds_anything_and_the_connection_goes_on() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (server, proxy, store) = warm_behind_proxy().await;
            server.reset_calls();
            proxy.reset_counts();
            server.pause();
            let claiming: Vec<_> = (0..100)
                .map(|at| {
                    let store = store.clone();
                    let claim = claim_within(&format!("dlock:{at}"), SOON);
                    tokio::spawn(async move { claims(&store, &claim).await.unwrap_err() })
                })
                .collect();
            for claim in claiming {
                let error = claim.await.unwrap();
                assert_eq!(error.kind(), ErrorKind::Timeout);
                assert!(error.may_have_executed(), "it lies in the server's buffer");
            }
            server.resume();
            until("the claims have run", || evalshas(&server) == 100).await;
            assert_eq!(server.keys(), ["{dlock:warm}:fence"], "no lock, no fence");
            let lease = acquired(&store, &claim(KEY)).await;
            assert!(released(&store, &lease).await);
            assert_eq!(proxy.counts().connections, 0, "it skipped the late replies");
        });
    }
}

#[test]
fn a_stopped_server_that_accepts_connections_is_never_sent_the_claim() {
    current_thread().block_on(async {
        let server = RedisServer::start();
        let store = store(&server);
        server.pause();
        let error = claims(&store, &claim_within(KEY, SOON)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed(), "the greeting was not answered");
        server.resume();
        let lease = acquired(&store, &claim("dlock:other")).await;
        assert!(released(&store, &lease).await);
        assert_eq!(server.keys(), ["{dlock:other}:fence"]);
    });
}

#[test]
fn a_server_that_forgot_the_scripts_is_sent_them_and_grants_once() {
    current_thread().block_on(async {
        let (server, _proxy, store) = warm_behind_proxy().await;
        server.command(["SCRIPT", "FLUSH"]);
        server.reset_calls();
        let lease = acquired(&store, &claim(KEY)).await;
        assert_eq!((evalshas(&server), server.calls()["eval"]), (1, 1));
        assert_eq!(server.calls()["set"], 2, "one fence, one lock");
        assert!(released(&store, &lease).await);
    });
}

#[test]
fn a_server_that_restarts_is_found_again() {
    for runtime in runtimes() {
        let mut server = RedisServer::start();
        let store = store(&server);
        runtime.block_on(warm(&store));
        for _ in 0..3 {
            server.kill();
            let error = runtime.block_on(claims(&store, &claim(KEY))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
            server.start_again();
            let lease = runtime.block_on(acquired(&store, &claim(KEY)));
            assert!(runtime.block_on(released(&store, &lease)));
        }
    }
}

#[test]
fn a_server_that_has_become_a_replica_is_left_for_a_new_connection() {
    current_thread().block_on(async {
        let (server, proxy, store) = warm_behind_proxy().await;
        proxy.reset_counts();
        server.command(["REPLICAOF", "127.0.0.1", "1"]);
        let error = claims(&store, &claim(KEY)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(!error.may_have_executed());
        // Behind the same name there may be the new primary, in the same call already.
        assert_eq!(proxy.counts().connections, 1);
        server.command(["REPLICAOF", "NO", "ONE"]);
        let lease = acquired(&store, &claim(KEY)).await;
        assert!(released(&store, &lease).await);
        assert_eq!(proxy.counts().connections, 2);
    });
}

#[test]
fn an_idle_connection_that_the_server_closed_is_replaced_without_a_word() {
    let server = RedisServer::builder().tls().start();
    let ca = server.ca_file();
    for (address, scheme) in [
        (server.address(), "redis"),
        (server.tls_address().unwrap(), "rediss"),
    ] {
        let proxy = Proxy::to(address);
        let query = match scheme {
            "rediss" => format!("?ca={}", ca.display()),
            _ => String::new(),
        };
        let store = patient(&format!("{scheme}://{}{query}", proxy.address()));
        current_thread().block_on(async {
            warm(&store).await;
            let lease = acquired(&store, &claim(KEY)).await;
            proxy.reset_counts();
            proxy.cut();
            // It takes the driver a moment to see it.
            tokio::time::sleep(SOON).await;
            // Had the request been sent on the dead connection, the refusal would be in doubt.
            refused(claims(&store, &claim(KEY)).await);
            assert!(released(&store, &lease).await);
            assert_eq!(proxy.counts().connections, 1);
        });
    }
}

#[test]
fn a_claim_whose_future_is_dropped_is_repeated_under_a_new_token() {
    current_thread().block_on(async {
        let (server, proxy, store) = warm_behind_proxy().await;
        let claim = claim(KEY);
        proxy.replies(Fault::Hold);
        server.reset_calls();
        let dropped = tokio::time::timeout(SOON, claims(&store, &claim));
        assert!(dropped.await.is_err());
        until("it ran", || evalshas(&server) == 1).await;
        let first = fence_of_server(&server);
        proxy.heal();
        let lease = acquired(&store, &claim).await;
        assert!(fence_of(&lease) > first, "nobody has seen the first");
        assert!(released(&store, &lease).await);
    });
}

#[test]
fn a_key_that_is_no_lock_is_not_overwritten() {
    current_thread().block_on(async {
        let server = RedisServer::start();
        let store = store(&server);
        server.command(["RPUSH", KEY, "not a lock"]);
        let error = claims(&store, &claim(KEY)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForeignKey);
        let blocking = Datastore::acquire(&store, &claim(KEY), TTL).unwrap_err();
        assert_eq!(error.to_string(), blocking.to_string(), "the same words");
    });
}
