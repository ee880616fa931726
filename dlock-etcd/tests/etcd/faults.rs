//! Connections that break, hang or deliver bytes slowly.

use std::time::{Duration, Instant};

use dlock_core::{Clock, Datastore, ErrorKind, Inspect, Lease, ReleaseOutcome};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdServer;
use dlock_test_servers::faults::{Fault, Proxy};

use crate::support::{
    LONG, again, call, claim, claim_within, extended, granted, held, key, leases, ours, read,
    server, store_at, take,
};

/// By how much a call may overshoot its deadline on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

/// A proxy to a server, and a store with a warm connection through it.
fn through_a_proxy_to(server: &EtcdServer) -> (Proxy, EtcdDatastore) {
    let proxy = Proxy::to(server.address());
    let store = store_at(&format!("etcd://{}", proxy.address()));
    let warm = take(&store, &key("warm"), LONG);
    ours(store.release(&warm));
    proxy.reset_counts();
    (proxy, store)
}

/// Numbers of bytes after which the answers of `call` are cut: from none to all of them.
fn cuts(proxy: &Proxy, call: impl FnOnce()) -> Vec<usize> {
    proxy.reset_counts();
    call();
    let bytes = usize::try_from(proxy.counts().reply_bytes).unwrap();
    assert!(bytes > 500, "{bytes} bytes of answers");
    (0..bytes).step_by(61).collect()
}

#[test]
fn wherever_the_answers_to_a_claim_are_cut_it_is_granted_once_and_leaves_nothing() {
    let server = EtcdServer::start();
    let (proxy, store) = through_a_proxy_to(&server);
    let direct = crate::support::store(&server);
    let mut first = None;
    for after in cuts(&proxy, || {
        first = Some(take(&store, &key("whole"), LONG));
    }) {
        let key = key("cut");
        proxy.replies_once(Fault::Cut { after });
        let claim = claim(&key);
        let grant = granted(store.acquire(&claim, LONG));
        proxy.heal();
        let refusal = held(direct.acquire(&crate::support::claim(&key), LONG));
        assert_eq!(refusal.fence(), grant.fence, "cut after {after} bytes");
        let repeated = granted(store.acquire(&again(&claim), LONG));
        assert_eq!(repeated.fence, grant.fence, "cut after {after} bytes");
        ours(store.release(&call(&Lease::new(claim.clone(), grant), 1)));
        // As core does if a copy may follow.
        store.abandon(&again(&claim)).unwrap();
        assert_eq!(read(&server, &key), None);
        assert_eq!(leases(&server).len(), 1, "cut after {after} bytes");
    }
    ours(store.release(&call(&first.unwrap(), 1)));
}

#[test]
fn wherever_the_answers_to_an_extend_are_cut_the_lease_goes_on() {
    let (proxy, store) = through_a_proxy_to(server());
    let lease = take(&store, &key("extend-cut"), LONG);
    let mut sequence = 1;
    let whole = || {
        extended(store.extend(&call(&lease, 1), LONG));
    };
    for after in cuts(&proxy, whole) {
        sequence += 1;
        // The cut before may have left no connection, and only one that was used is replaced.
        store.holder(lease.key()).unwrap();
        proxy.replies_once(Fault::Cut { after });
        let grant = extended(store.extend(&call(&lease, sequence), LONG));
        proxy.heal();
        // etcd states what is left in whole seconds.
        assert!(
            grant.ttl + Duration::from_secs(60) > LONG,
            "{:?}",
            grant.ttl
        );
    }
    ours(store.release(&call(&lease, sequence + 1)));
}

#[test]
fn wherever_the_answers_to_a_release_are_cut_the_key_is_free() {
    let (proxy, store) = through_a_proxy_to(server());
    let first = take(&store, &key("whole"), LONG);
    let whole = || ours(store.release(&call(&first, 1)));
    for after in cuts(&proxy, whole) {
        let key = key("release-cut");
        let lease = take(&store, &key, LONG);
        proxy.replies_once(Fault::Cut { after });
        match store.release(&call(&lease, 1)) {
            Ok(outcome) => assert_eq!(outcome, ReleaseOutcome::Released),
            Err(error) => assert!(error.may_have_executed(), "{error}"),
        }
        proxy.heal();
        assert_eq!(read(server(), &key), None, "cut after {after} bytes");
    }
}

#[test]
fn a_claim_that_gets_no_answer_ends_by_its_deadline_and_can_be_taken_back() {
    let (proxy, store) = through_a_proxy_to(server());
    let key = key("silent");
    let claim = claim_within(&key, Duration::from_millis(500));
    proxy.replies(Fault::Lose);
    let started = Instant::now();
    let error = store.acquire(&claim, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(started.elapsed() < GRACE);
    proxy.cut();
    proxy.heal();
    store.abandon(&again(&claim)).unwrap();
    assert_eq!(read(server(), &key), None);
}

#[test]
fn an_answer_that_drips_ends_with_the_deadline() {
    let (proxy, store) = through_a_proxy_to(server());
    let lease = take(&store, &key("drips"), LONG);
    let every = Duration::from_millis(50);
    proxy.replies(Fault::Split { bytes: 1, every });
    let end = Clock::BOOTTIME
        .now()
        .saturating_add(Duration::from_millis(500));
    let started = Instant::now();
    let error = store.extend(&lease.for_call(1, end), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(started.elapsed() < GRACE);
    proxy.cut();
    proxy.heal();
    ours(store.release(&call(&lease, 2)));
}
