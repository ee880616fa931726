//! Connections that break, stall and drip, and servers that stop.

use std::time::Instant;

use dlock_core::{Clock, Datastore, ErrorKind};
use dlock_test_servers::MemcachedServer;
use dlock_test_servers::faults::Fault;

use super::*;

/// Long enough for a busy machine to send a request, and for its runtime to count as driven: that
/// is checked after each tenth of a call.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn a_claim_whose_reply_was_lost_is_granted_under_the_same_token() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (proxy, store) = through_a_proxy().await;
            let key = key("aio-reply-lost");
            proxy.replies_once(Fault::Cut { after: 0 });
            let lease = taken(&store, &key).await;
            assert_eq!(proxy.counts().connections, 1, "one was replaced");
            assert!(lease.grant().copy_may_follow);
            // The record's CAS number, from which the token follows, is that of the first copy.
            let direct = support::store(server());
            let seen = held(Datastore::acquire(&direct, &claim(&key), LONG));
            assert_eq!(seen.fence(), lease.fence());
            ours(releases(&store, &lease).await);
            let next = taken(&store, &key).await;
            assert!(
                !next.grant().copy_may_follow,
                "only the call in doubt has it"
            );
            ours(releases(&store, &next).await);
        });
    }
}

#[test]
fn a_claim_that_was_refused_when_it_was_sent_again_may_have_been_done() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let key = key("aio-refused");
        let holder = taken(&store, &key).await;
        proxy.replies_once(Fault::Cut { after: 0 });
        // The lost copy may win after this holder. The answer "held" would hide that.
        let error = claims(&store, &claim(&key)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.may_have_executed());
        extended(extends(&store, &holder, 2).await);
    });
}

#[test]
fn a_claim_whose_reply_and_connection_were_lost_for_good_may_have_been_done() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let key = key("aio-gone");
        let claim = claim(&key);
        proxy.replies(Fault::Cut { after: 0 });
        let error = claims(&store, &claim).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.may_have_executed());
        proxy.heal();
        // The repeated claim finds its own record.
        let grant = granted(claims(&store, &again(&claim)).await);
        extended(extends(&store, &Lease::new(claim, grant), 1).await);
    });
}

#[test]
fn an_extend_and_a_release_whose_replies_were_lost_are_repeated() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let key = key("aio-repeated");
        let lease = taken(&store, &key).await;
        proxy.replies_once(Fault::Cut { after: 0 });
        let grant = extended(extends(&store, &lease, 1).await);
        assert_eq!(grant.fence, lease.fence());
        assert!(grant.ttl > LONG - CALL, "{:?}", grant.ttl);
        let lease = lease.renewed(grant);

        proxy.replies_once(Fault::Cut { after: 0 });
        let release = AsyncDatastore::release(&store, &call(&lease, 2)).await;
        assert!(
            release.unwrap_err().may_have_executed(),
            "perhaps it was we who freed it"
        );
        assert_eq!(value(server(), &key), None);
    });
}

#[test]
fn a_connection_cut_at_any_byte_of_the_claim_or_its_answer_leaves_one_grant_and_then_nothing() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let key = key("aio-bytes");
        let lease = taken(&store, &key).await;
        let counts = proxy.counts();
        ours(releases(&store, &lease).await);
        let requests = usize::try_from(counts.request_bytes).unwrap();
        let replies = usize::try_from(counts.reply_bytes).unwrap();
        let mut cuts: Vec<_> = (0..requests).step_by(3).map(|at| (true, at)).collect();
        cuts.extend((0..replies).map(|at| (false, at)));

        let mut last = lease.fence();
        for (requests, after) in cuts {
            let cut = Fault::Cut { after };
            match requests {
                true => proxy.requests_once(cut),
                false => proxy.replies_once(cut),
            }
            let lease = taken(&store, &key).await;
            assert!(lease.fence() > last, "{requests} {after}");
            last = lease.fence();
            proxy.heal();
            let direct = support::store(server());
            let seen = held(Datastore::acquire(&direct, &claim(&key), LONG));
            assert_eq!(seen.fence(), last, "{requests} {after}");
            ours(releases(&store, &lease).await);
            assert_eq!(value(server(), &key), None, "{requests} {after}");
        }
    });
}

#[test]
fn tasks_under_which_the_connection_is_cut_all_the_time_hold_their_locks_once_and_leave_nothing() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (proxy, store) = through_a_proxy().await;
            let keys: Vec<_> = (0..24).map(|task| key(&format!("cut-{task}"))).collect();
            let tasks: Vec<_> = keys
                .iter()
                .map(|key| {
                    let (store, key) = (store.clone(), key.clone());
                    tokio::spawn(async move {
                        let mut copied = Vec::new();
                        for _ in 0..8 {
                            let lease = taken_at_last(&store, &key, &copied).await;
                            // Until it is known that it is free.
                            while releases(&store, &lease).await.is_err() {}
                            if lease.grant().copy_may_follow {
                                copied.push(lease.claim().clone());
                            }
                        }
                        for claim in copied {
                            let left = Clock::BOOTTIME.now().until(claim.not_after());
                            tokio::time::sleep(left).await;
                            abandoned_at_last(&store, &claim).await;
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
            for key in keys {
                assert_eq!(value(server(), &key), None, "{key}");
            }
        });
    }
}

/// Claims until the claim is granted. A refusal would be by our own key: by a late copy of one of
/// these claims, which is abandoned then.
async fn taken_at_last(store: &MemcacheDatastore, key: &str, copied: &[Claim]) -> Lease {
    let first = claim(key);
    loop {
        let claim = again(&first);
        match claims(store, &claim).await {
            Ok(AcquireOutcome::Granted(grant)) => return Lease::new(claim, grant),
            Ok(AcquireOutcome::Held(held)) => {
                assert!(!copied.is_empty(), "{held:?}");
                for claim in copied {
                    abandoned_at_last(store, claim).await;
                }
            }
            Err(error) => assert!(error.is_transient(), "{}", text(&error)),
        }
    }
}

async fn abandoned_at_last(store: &MemcacheDatastore, claim: &Claim) {
    while AsyncDatastore::abandon(store, &again(claim)).await.is_err() {}
}

#[test]
fn a_reply_that_is_split_at_every_byte_is_understood() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let (proxy, store) = through_a_proxy().await;
            let every = Duration::from_micros(100);
            proxy.replies(Fault::Split { bytes: 1, every });
            proxy.requests(Fault::Split { bytes: 7, every });
            let key = key("aio-split");
            let lease = taken(&store, &key).await;
            assert_eq!(
                held(claims(&store, &claim(&key)).await).fence(),
                lease.fence()
            );
            let renewed = lease.renewed(extended(extends(&store, &lease, 1).await));
            extended(AsyncDatastore::confirm(&store, &call(&renewed, 2)).await);
            ours(AsyncDatastore::release(&store, &call(&renewed, 3)).await);
        });
    }
}

#[test]
fn a_reply_that_drips_ends_with_the_deadline_and_not_with_the_drip() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let every = Duration::from_secs(8);
        proxy.replies(Fault::Split { bytes: 1, every });
        let start = Instant::now();
        let claim = claim_within(&key("aio-drips"), SOON);
        let error = claims(&store, &claim).await.unwrap_err();
        let took = start.elapsed();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_have_executed());
        assert!(text(&error).contains("read the reply"), "{error:?}");
        // The reply has more than six bytes.
        assert!(took < every * 6 - Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn of_many_claims_at_a_stopped_server_each_ends_in_time_and_the_connection_goes_on() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let server = may_grant(MemcachedServer::start());
            let proxy = Proxy::to(server.address());
            let store = store_at(&format!("memcache://{}", proxy.address()));
            ours(releases(&store, &taken(&store, "dlock:warm").await).await);
            proxy.reset_counts();
            server.pause();
            let claiming: Vec<_> = (0..100)
                .map(|at| {
                    let (store, claim) =
                        (store.clone(), claim_within(&format!("dlock:{at}"), SOON));
                    tokio::spawn(async move {
                        let error = claims(&store, &claim).await.unwrap_err();
                        (claim, error)
                    })
                })
                .collect();
            let mut claimed = Vec::new();
            for claim in claiming {
                let (claim, error) = claim.await.unwrap();
                assert_eq!(error.kind(), ErrorKind::Timeout);
                assert!(error.may_have_executed(), "it lies in the server's buffer");
                claimed.push(claim);
            }
            server.resume();
            for claim in claimed {
                AsyncDatastore::abandon(&store, &again(&claim))
                    .await
                    .unwrap();
                assert_eq!(value(&server, claim.key()), None);
            }
            ours(releases(&store, &taken(&store, "dlock:next").await).await);
            assert_eq!(proxy.counts().connections, 0, "it skipped the late replies");
        });
    }
}

#[test]
fn a_stopped_server_that_accepts_connections_is_never_sent_the_claim() {
    current_thread().block_on(async {
        let server = may_grant(MemcachedServer::start());
        let store = store(&server);
        server.pause();
        let claim = claim_within("dlock:never", SOON);
        let error = claims(&store, &claim).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed(), "the handshake was not answered");
        server.resume();
        ours(releases(&store, &taken(&store, "dlock:other").await).await);
        assert_eq!(value(&server, "dlock:never"), None);
    });
}

#[test]
fn a_batch_cut_in_the_middle_of_its_answers_is_judged_lease_by_lease() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let mut leases = Vec::new();
        for n in 0..20 {
            leases.push((taken(&store, &key(&format!("aio-batch-{n}"))).await, LONG));
        }
        // One of them was extended meanwhile, so its answer requires a read.
        extended(extends(&store, &leases[1].0, 1).await);
        leases[1].0 = call(&leases[1].0, 2);
        proxy.replies_once(Fault::Cut { after: 100 });
        let answers = AsyncDatastore::extend_many(&store, &leases).await;
        assert_eq!(answers.len(), 20);
        let mut answers: Vec<_> = answers.into_iter().map(Some).collect();
        let unseen = answers[1].take().unwrap().unwrap_err();
        assert!(!unseen.may_have_executed(), "it was answered with no");
        let (done, unknown): (Vec<_>, Vec<_>) =
            answers.into_iter().flatten().partition(Result::is_ok);
        assert!(
            !done.is_empty() && !unknown.is_empty(),
            "{done:?} {unknown:?}"
        );
        for answer in unknown {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable);
            assert!(error.may_have_executed());
        }
        proxy.heal();
        for (lease, _) in &leases {
            extended(extends(&store, lease, 3).await);
        }
    });
}

#[test]
fn a_batch_whose_answers_were_all_lost_is_sent_again() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let lease = taken(&store, &key("aio-batch-again")).await;
        proxy.replies_once(Fault::Cut { after: 0 });
        let answers = AsyncDatastore::extend_many(&store, &[(lease.clone(), LONG)]).await;
        let grant = extended(answers.into_iter().next().unwrap());
        assert!(grant.ttl > LONG - CALL, "{:?}", grant.ttl);
        assert_eq!(proxy.counts().connections, 1);
    });
}

#[test]
fn an_idle_connection_that_the_server_closed_is_replaced_without_a_word() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let key = key("aio-idle");
        let lease = taken(&store, &key).await;
        proxy.reset_counts();
        proxy.cut();
        // It takes the driver a moment to see it.
        tokio::time::sleep(SOON).await;
        // Had the request been sent on the dead connection, the refusal would be in doubt.
        let _ = held(claims(&store, &claim(&key)).await);
        ours(releases(&store, &lease).await);
        assert_eq!(proxy.counts().connections, 1);
    });
}

#[test]
fn a_call_that_is_dropped_leaves_its_reply_to_be_skipped() {
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        let key = key("aio-dropped");
        let claim = claim(&key);
        proxy.replies(Fault::Hold);
        assert!(
            tokio::time::timeout(SOON, claims(&store, &claim))
                .await
                .is_err()
        );
        until("it ran", || value(server(), &key).is_some()).await;
        proxy.heal();
        // Its record is found, and the reply to the first is not taken for that to the next.
        let other = taken(&store, &support::key("aio-other")).await;
        let grant = granted(claims(&store, &again(&claim)).await);
        assert!(grant.fence != other.fence());
        ours(releases(&store, &Lease::new(claim, grant)).await);
        ours(releases(&store, &other).await);
        assert_eq!(proxy.counts().connections, 0);
    });
}
