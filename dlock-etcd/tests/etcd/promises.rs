//! What is promised on one node: what is written and what is left, and what others may do to it.

use dlock_core::{Clock, Datastore, ErrorKind, FencingToken, Inspect, ReleaseOutcome};
use dlock_test_servers::EtcdServer;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::support::{
    CALL, LONG, again, ask, base64, call, claim, claim_within, eventually, extended, fence,
    granted, held, key, leases, lost, ours, put_foreign, read, server, store, store_at, take,
};

/// The number of the last write of the whole cluster.
fn revision(server: &EtcdServer) -> String {
    let answer = ask(server, "/v3/maintenance/status", &json!({}));
    answer["header"]["revision"].as_str().unwrap().to_owned()
}

#[test]
fn a_lock_is_one_key_and_one_lease_and_a_release_leaves_neither() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("clean");
    let lease = take(&store, &key, LONG);
    for sequence in 1..5 {
        extended(store.extend(&call(&lease, sequence), LONG));
        assert_eq!(leases(&server).len(), 1);
    }
    // The same claim once more.
    granted(store.acquire(&again(lease.claim()), LONG));
    assert_eq!(leases(&server).len(), 1);
    ours(store.release(&call(&lease, 9)));
    assert_eq!((leases(&server).len(), read(&server, &key)), (0, None));
}

#[test]
fn a_refused_claim_writes_nothing() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("refused");
    let lease = take(&store, &key, LONG);
    let before = (revision(&server), leases(&server));
    let refusal = held(store.acquire(&claim(&key), LONG));
    assert_eq!(refusal.fence(), lease.fence());
    assert!(
        refusal
            .expires_in()
            .is_some_and(|left| left <= LONG + Duration::from_secs(1))
    );
    assert_eq!((revision(&server), leases(&server)), before);
}

#[test]
fn a_copy_of_an_abandoned_claim_that_arrives_late_takes_nothing() {
    let server = server();
    let store = store(server);
    let key = key("late");
    let abandoned = claim(&key);
    granted(store.acquire(&abandoned, LONG));
    let record = read(server, &key).unwrap();
    store.abandon(&again(&abandoned)).unwrap();
    assert_eq!(read(server, &key), None);
    let copy = json!({"key": base64(&key), "value": record["value"], "lease": record["lease"]});
    let answer = ask(server, "/v3/kv/put", &copy);
    assert_eq!(answer["error"], "etcdserver: requested lease not found");
    assert_eq!(read(server, &key), None);
}

#[test]
fn a_lease_that_was_revoked_under_its_holder_is_lost_and_the_next_holder_is_left_alone() {
    let server = server();
    let store = store(server);
    let key = key("revoked");
    let first = take(&store, &key, LONG);
    let number = read(server, &key).unwrap()["lease"].clone();
    ask(server, "/v3/lease/revoke", &json!({"ID": number}));
    let second = take(&store, &key, LONG);
    assert!(second.fence() > first.fence());
    lost(store.extend(&call(&first, 2), LONG));
    let released = store.release(&call(&first, 3)).unwrap();
    assert_eq!(released, ReleaseOutcome::NotHeld);
    ours(store.release(&call(&second, 2)));
}

#[test]
fn a_compaction_disturbs_no_lock_and_no_token() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("compacted");
    let first = take(&store, &key, LONG);
    extended(store.extend(&call(&first, 1), LONG));
    let body = json!({"revision": revision(&server), "physical": true});
    let answer = ask(&server, "/v3/kv/compaction", &body);
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let refusal = held(store.acquire(&claim(&key), LONG));
    assert_eq!(refusal.fence(), first.fence());
    extended(store.extend(&call(&first, 2), LONG));
    ours(store.release(&call(&first, 3)));
    assert!(take(&store, &key, LONG).fence() > first.fence());
}

#[test]
fn a_restart_keeps_the_lock_and_its_token() {
    let mut server = EtcdServer::start();
    let store = store(&server);
    let key = key("restarted");
    let first = take(&store, &key, LONG);
    server.restart();
    let refusal = held(store.acquire(&claim(&key), LONG));
    assert_eq!(refusal.fence(), first.fence());
    extended(store.extend(&call(&first, 1), LONG));
    ours(store.release(&call(&first, 2)));
    assert!(take(&store, &key, LONG).fence() > first.fence());
}

#[test]
fn an_operator_breaks_the_lock_of_the_holder_with_that_token_alone() {
    let server = server();
    let store = store(server);
    let key = key("broken");
    let first = take(&store, &key, LONG);
    let token = first.fence().unwrap();
    ours(store.break_lease(&key, token));
    assert_eq!(store.holder(&key).unwrap(), None);
    let second = take(&store, &key, LONG);
    let broken = store.break_lease(&key, token).unwrap();
    assert_eq!(broken, ReleaseOutcome::NotHeld);
    ours(store.release(&call(&second, 1)));
    for no_token in [0, u64::MAX] {
        let broken = store.break_lease(&key, FencingToken::new(no_token));
        assert_eq!(broken.unwrap(), ReleaseOutcome::NotHeld, "{no_token}");
    }
    put_foreign(server, &key);
    let error = store.break_lease(&key, token).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignKey);
    assert!(read(server, &key).is_some());
}

#[test]
fn held_keys_come_in_pages_without_what_others_wrote() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("page");
    for number in 0..70 {
        take(&store, &format!("{key}-{number:02}"), LONG);
    }
    put_foreign(&server, &format!("{key}-foreign"));
    let first = store.held(&key, None).unwrap();
    let mark = first.next.expect("another page");
    let second = store.held(&key, Some(&mark)).unwrap();
    assert_eq!((first.keys.len(), second.keys.len()), (64, 6));
    assert_eq!(second.next, None);
    assert_eq!(store.held("", None).unwrap().keys.len(), 64);
}

#[test]
fn a_stopped_server_is_an_error_by_the_end_of_the_call_and_the_lock_is_there_afterwards() {
    let server = EtcdServer::start();
    let store = store(&server);
    let key = key("stopped");
    let lease = take(&store, &key, LONG);
    server.pause();
    let end = Clock::BOOTTIME.now().saturating_add(Duration::from_secs(1));
    let error = store.extend(&lease.for_call(1, end), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let error = store
        .acquire(&claim_within(&key, Duration::from_secs(1)), LONG)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(!error.may_have_executed(), "only the look was sent");
    server.resume();
    extended(store.extend(&call(&lease, 2), LONG));
    ours(store.release(&call(&lease, 3)));
}

#[test]
fn a_full_database_refuses_claims_and_lets_holders_release() {
    let server = EtcdServer::start_with(&["--quota-backend-bytes", "500000"]);
    let store = store(&server);
    let key = key("full");
    let lease = take(&store, &key, LONG);
    let filler = base64(&"x".repeat(100_000));
    eventually("the database is full", || {
        let body = json!({"key": base64("filler"), "value": filler});
        let answer = ask(&server, "/v3/kv/put", &body);
        (answer["error"] != Value::Null).then_some(())
    });
    let other = crate::support::key("other");
    let error = store.acquire(&claim(&other), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("database space exceeded"));
    ours(store.release(&call(&lease, 1)));
}

#[test]
fn a_server_without_the_gateway_is_refused_with_the_reason() {
    let server = EtcdServer::start_with(&["--enable-grpc-gateway=false"]);
    let error = store(&server)
        .acquire(&claim(&key("no")), LONG)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.to_string().contains("--enable-grpc-gateway"),
        "{error}"
    );
    assert!(!error.may_have_executed());
}

#[test]
fn the_nodes_of_two_clusters_are_not_one_store() {
    let (mut one, other) = (EtcdServer::start(), EtcdServer::start());
    let store = store_at(&format!("etcd://{},{}", one.address(), other.address()));
    let lease = take(&store, &key("two"), LONG);
    one.kill();
    let error = store.extend(&call(&lease, 1), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[test]
fn tokens_rise_over_all_keys() {
    let store = store(server());
    let tokens: Vec<_> = (0..5)
        .map(|number| {
            let claim = claim(&key(&format!("token-{number}")));
            fence(&granted(store.acquire(&claim, LONG)))
        })
        .collect();
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[test]
fn a_time_that_etcd_cannot_keep_is_refused_before_anything_is_sent() {
    let store = store_at("etcd://127.0.0.1:1");
    for ttl in [
        Duration::from_millis(1999),
        Duration::from_secs(400 * 86_400),
    ] {
        let error = store.acquire(&claim("dlock:x"), ttl).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(store.characteristics().call_timeout, CALL);
}

#[test]
fn a_repeated_claim_holds_the_key_for_as_long_as_it_says() {
    const SHORT: Duration = Duration::from_secs(5);
    let (store, other) = (store(server()), store(server()));
    for (first, second) in [(LONG, SHORT), (SHORT, LONG)] {
        let claim = claim(&key("repeated"));
        granted(store.acquire(&claim, first));
        let sent = Instant::now();
        let grant = granted(store.acquire(&again(&claim), second));
        let holder = Inspect::holder(&other, claim.key()).unwrap().unwrap();
        // Rounded up, since etcd cuts what is left to whole seconds.
        let left = holder.expires_in().unwrap();
        assert!(left + sent.elapsed() >= grant.ttl, "{left:?} {grant:?}");
    }
}
