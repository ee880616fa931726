//! Connections that break, hang or deliver bytes slowly.

// A panic is how a helper of a test fails.

use std::thread;
use std::time::Duration;

use crate::support::*;
use dlock_core::{Clock, Datastore, ErrorKind, Grant, Lease, Lock, LockOptions};
use dlock_memcache::MemcacheDatastore;
use dlock_test_servers::faults::{Fault, Proxy};

/// By how much a call may overshoot its deadline on a busy machine.
const GRACE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(500);
/// Long enough for a busy machine to send a request.
const SOON: Duration = Duration::from_secs(4);

/// A proxy to the shared server, and a store with a warm connection through it.
fn through_a_proxy() -> (Proxy, MemcacheDatastore) {
    let proxy = Proxy::to(server().address());
    let store = store_at(&format!("memcache://{}", proxy.address()));
    let warm = take(&store, &key("warm"), LONG);
    ours(store.release(&warm));
    proxy.reset_counts();
    (proxy, store)
}

#[test]
fn a_claim_whose_reply_was_lost_is_granted_under_the_same_token() {
    let (proxy, store) = through_a_proxy();
    let key = key("reply-lost");
    proxy.replies_once(Fault::Cut { after: 0 });
    // The server carries out the claim, the connection breaks, and the claim is sent again on a
    // fresh one.
    let lease = take(&store, &key, LONG);
    assert_eq!(proxy.counts().connections, 1, "no connection was replaced");
    assert!(
        lease.grant().copy_may_follow,
        "the first copy may be under way"
    );
    // There was one grant: the record's CAS number, from which the token follows, is still that of
    // the first copy.
    let direct = crate::support::store(server());
    let seen = held(direct.acquire(&claim(&key), LONG));
    assert_eq!(seen.fence(), lease.fence());
    let repeated = granted(store.acquire(&again(lease.claim()), LONG));
    assert_eq!(repeated.fence, lease.fence());
    ours(store.release(&lease));
}

#[test]
fn a_lock_is_acquired_over_a_connection_that_breaks() {
    let proxy = Proxy::to(server().address());
    let key = key("lock");
    let store = store_at(&format!("memcache://{}", proxy.address()));
    let lock = Lock::new(store, &key["dlock:".len()..]);
    lock.acquire_within(CALL).unwrap().release().unwrap();
    proxy.replies_once(Fault::Cut { after: 0 });
    let guard = lock.acquire_within(CALL).unwrap();
    assert!(guard.is_valid());
    guard.release().unwrap();
}

#[test]
fn a_claim_whose_reply_and_connection_were_lost_for_good_may_have_been_done() {
    let (proxy, store) = through_a_proxy();
    let key = key("gone");
    let claim = claim(&key);
    proxy.replies(Fault::Cut { after: 0 });
    let error = store.acquire(&claim, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
    proxy.heal();
    // The repeated claim finds its own record.
    let grant = granted(store.acquire(&again(&claim), LONG));
    let lease = call(&Lease::new(claim, grant), 1);
    extended(store.extend(&lease, LONG));
}

#[test]
fn a_claim_whose_request_was_lost_is_granted_when_it_is_repeated() {
    let (proxy, store) = through_a_proxy();
    let key = key("request-lost");
    let first = take(&store, &key, LONG);
    ours(store.release(&first));
    proxy.requests_once(Fault::Cut { after: 0 });
    let second = take(&store, &key, LONG);
    assert!(second.fence() > first.fence());
    assert!(
        second.grant().copy_may_follow,
        "the first copy may be under way"
    );
    ours(store.release(&second));
    assert!(!take(&store, &key, LONG).grant().copy_may_follow);
}

#[test]
fn a_claim_that_was_refused_when_it_was_sent_again_may_have_been_done() {
    let (proxy, store) = through_a_proxy();
    let key = key("refused");
    let holder = take(&crate::support::store(server()), &key, LONG);
    proxy.replies_once(Fault::Cut { after: 0 });
    // The lost copy may win after this holder. The answer "held" would hide that.
    let error = store.acquire(&claim(&key), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
    extended(store.extend(&holder, LONG));
}

#[test]
fn an_extend_whose_reply_was_lost_is_extended_in_full() {
    let (proxy, store) = through_a_proxy();
    let lease = take(&store, &key("extend-lost"), Duration::from_secs(60));
    proxy.replies_once(Fault::Cut { after: 0 });
    let grant = extended(store.extend(&lease, LONG));
    assert_eq!(grant.fence, lease.fence());
    assert!(grant.ttl > LONG - CALL, "{:?}", grant.ttl);
    let lease = lease.renewed(grant);
    extended(store.extend(&call(&lease, 2), LONG));
    // The same for a batch.
    let leases = [(call(&lease, 3), LONG)];
    extended(store.extend_many(&leases).remove(0));
    let leases = [(call(&lease, 4), LONG)];
    proxy.replies_once(Fault::Cut { after: 0 });
    let grant = extended(store.extend_many(&leases).remove(0));
    assert!(grant.ttl > LONG - CALL, "{:?}", grant.ttl);
    ours(store.release(&lease));
}

#[test]
fn a_batch_cut_in_the_middle_of_its_answers_is_judged_lease_by_lease() {
    let (proxy, store) = through_a_proxy();
    let leases: Vec<_> = (0..20)
        .map(|n| (take(&store, &key(&format!("cut-{n}")), LONG), LONG))
        .collect();
    let mut leases: Vec<_> = store
        .extend_many(&leases)
        .into_iter()
        .zip(&leases)
        .map(|(answer, (lease, ttl))| (call(&lease.renewed(extended(answer)), 2), *ttl))
        .collect();
    // One of them was extended meanwhile, so its answer requires a read.
    extended(store.extend(&leases[1].0, LONG));
    leases[1].0 = call(&leases[1].0, 3);
    proxy.replies_once(Fault::Cut { after: 100 });
    let answers = store.extend_many(&leases);
    assert_eq!(answers.len(), 20);
    let mut answers: Vec<_> = answers.into_iter().map(Some).collect();
    let unseen = answers[1].take().unwrap().unwrap_err();
    assert!(!unseen.may_have_executed(), "it was answered with no");
    let (done, unknown): (Vec<_>, Vec<_>) = answers.into_iter().flatten().partition(Result::is_ok);
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
    for (lease, ttl) in &leases {
        extended(store.extend(&call(lease, 4), *ttl));
    }
}

#[test]
fn a_release_whose_reply_was_lost_is_not_taken_for_a_lost_lease() {
    let (proxy, store) = through_a_proxy();
    let key = key("release-lost");
    let lease = take(&store, &key, LONG);
    proxy.replies_once(Fault::Cut { after: 0 });
    let error = store.release(&lease).unwrap_err();
    assert!(error.may_have_executed());
    assert_eq!(value(server(), &key), None);
    not_ours(store.release(&call(&lease, 2)));

    // A guard knows that it has released.
    let lock = Lock::with_options(
        store_at(&format!("memcache://{}", proxy.address())),
        &key["dlock:".len()..],
        LockOptions::builder().renew(false),
    )
    .unwrap();
    let guard = lock.try_acquire().unwrap();
    // Otherwise the fault would hit the confirmation after the grant.
    thread::sleep(Duration::from_millis(300));
    proxy.replies_once(Fault::Cut { after: 0 });
    guard.release().unwrap();
    assert_eq!(value(server(), &key), None);
}

#[test]
fn a_release_repeated_after_a_lost_reply_leaves_the_next_holder_alone() {
    let (proxy, store) = through_a_proxy();
    let key = key("next-holder");
    let first = take(&store, &key, LONG);
    ours(store.release(&first));
    let direct = crate::support::store(server());
    let second = take(&direct, &key, LONG);
    proxy.replies_once(Fault::Cut { after: 0 });
    // There was nothing of the first holder left to free, either time.
    let _ = store.release(&call(&first, 2));
    extended(direct.extend(&second, LONG));
}

#[test]
fn a_reply_that_drips_ends_at_the_deadline() {
    let (proxy, store) = through_a_proxy();
    proxy.replies(Fault::Split {
        bytes: 1,
        every: Duration::from_secs(3),
    });
    let claim = claim_within(&key("drip"), SOON);
    let (taken, answer) = timed(|| store.acquire(&claim, LONG));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    // The reply has more than six bytes.
    assert!(taken < SOON + GRACE, "{taken:?}");
    // Bytes that are still under way are not taken for the next reply.
    proxy.heal();
    let lease = take(&store, &key("after-drip"), LONG);
    ours(store.release(&lease));
}

#[test]
fn a_handshake_that_drips_ends_at_the_deadline() {
    let proxy = Proxy::to(server().address());
    proxy.replies(Fault::Split {
        bytes: 1,
        every: Duration::from_millis(50),
    });
    let store = store_at(&format!("memcache://{}", proxy.address()));
    let (taken, answer) = timed(|| store.acquire(&claim_within(&key("handshake"), SHORT), LONG));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed(), "nothing was asked for yet");
    assert!(taken < SHORT + GRACE, "{taken:?}");
}

#[test]
fn a_slow_handshake_does_not_shorten_the_lease_that_is_confirmed() {
    // Found by a random run with a slow proxy: a lease of two seconds was lost 0.4 s early.
    let (proxy, store) = through_a_proxy();
    let before = Clock::BOOTTIME.now();
    let lease = take(&store, &key("slow-handshake"), LONG);
    // The confirmation uses a new connection.
    proxy.replies(Fault::Delay(Duration::from_millis(150)));
    let called = Clock::BOOTTIME.now();
    let kept = extended(store.confirm(&call(&lease, 1)));
    let took = called.until(Clock::BOOTTIME.now());
    if took < Duration::from_millis(900) {
        let (end, promised) = (called.saturating_add(kept.ttl), before.saturating_add(LONG));
        assert!(end >= promised, "{:?} short", end.until(promised));
    } else {
        // More of the server's seconds may have passed than are certain.
        assert!(
            kept.ttl > LONG - took - Duration::from_secs(3),
            "{:?}",
            kept.ttl
        );
    }
    proxy.heal();
    ours(store.release(&lease));
}

#[test]
fn a_half_open_connection_ends_each_call_in_time_and_is_not_used_again() {
    let (proxy, store) = through_a_proxy();
    let lease = take(&store, &key("half-open"), LONG);
    proxy.replies(Fault::Lose);
    let short = |sequence| {
        let until = Clock::BOOTTIME.now().saturating_add(SHORT);
        lease.for_call(sequence, until)
    };
    let calls: [&dyn Fn() -> dlock_core::DatastoreError; 5] = [
        &|| {
            store
                .acquire(&claim_within(&key("x"), SHORT), LONG)
                .unwrap_err()
        },
        &|| store.extend(&short(2), LONG).unwrap_err(),
        &|| store.confirm(&short(3)).unwrap_err(),
        &|| {
            store
                .extend_many(&[(short(4), LONG)])
                .remove(0)
                .unwrap_err()
        },
        &|| store.release(&short(5)).unwrap_err(),
    ];
    for call in calls {
        let (taken, error) = timed(call);
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(taken < SHORT + GRACE, "{taken:?}");
    }
    proxy.heal();
    extended(store.extend(&call(&lease, 6), LONG));
    ours(store.release(&lease));
}

#[test]
fn a_server_that_is_down_is_unreachable_at_once_and_not_held() {
    // A port that the system gives to nobody by itself.
    let address = "127.0.0.1:1";
    let store = store_at(&format!("memcache://{address}"));
    let (taken, answer) = timed(|| store.acquire(&claim(&key("down")), LONG));
    let error = answer.unwrap_err();
    assert!(taken < CALL / 2, "{taken:?}");
    // Each lease of a batch gets the same error.
    let leases = [1, 2].map(|call| {
        let lease = Lease::new(claim(&key("down")), Grant::new(LONG));
        (crate::support::call(&lease, call), LONG)
    });
    let of_a_batch = store
        .extend_many(&leases)
        .into_iter()
        .map(Result::unwrap_err);
    for error in of_a_batch.chain([error]) {
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(!error.may_have_executed());
        let text = text(&error);
        assert!(text.contains(address) && text.contains("refused"), "{text}");
        assert_eq!(text.matches("nothing was done").count(), 1, "{text}");
    }
}

#[test]
fn replies_split_at_every_byte_are_understood() {
    let (proxy, store) = through_a_proxy();
    proxy.replies(Fault::Split {
        bytes: 1,
        every: Duration::ZERO,
    });
    let key = key("split");
    let lease = take(&store, &key, LONG);
    let lease = lease.renewed(extended(store.extend(&lease, LONG)));
    held(store.acquire(&claim(&key), LONG));
    extended(store.confirm(&lease));
    ours(store.release(&lease));
}

#[test]
fn a_release_on_a_silent_connection_frees_the_key_over_a_fresh_one() {
    let proxy = Proxy::to(server().address());
    let store = MemcacheDatastore::builder(&format!("memcache://{}", proxy.address()))
        .unwrap()
        .call_timeout(CALL)
        .connect_timeout(CALL)
        .build();
    // The network drops the request in the first round, and the answer in the second.
    for swallow in [Proxy::requests_once, Proxy::replies_once] {
        let key = key("swallowed");
        let lock = Lock::new(store.clone(), &key["dlock:".len()..]);
        let guard = lock.try_acquire().unwrap();
        swallow(&proxy, Fault::Hold);
        guard.release().unwrap();
        assert_eq!(value(server(), &key), None);
        proxy.heal();
    }
}
