use std::time::Duration;

use dlock_core::OwnerToken;
use dlock_net::{failed_after_sending, failed_before_sending};

use super::*;
use crate::operations::{Keys, Record};

fn node(port: u16) -> Endpoint {
    let host = "10.0.0.1".to_owned();
    Endpoint::Tcp { host, port }
}

fn refused(code: &str, message: &str) -> DatastoreError {
    ServerError::new(code, message).into()
}

fn broken(sent: bool) -> DatastoreError {
    let error = NetError::new("peer", "read", std::io::ErrorKind::ConnectionReset.into());
    match sent {
        true => failed_after_sending(error),
        false => failed_before_sending(error),
    }
}

/// A release of a key where somebody waits, as far as is known, or not.
fn release(keys: Keys) -> Call<'static> {
    let record = Record {
        key: "dlock:a",
        owner: OwnerToken::random().unwrap(),
        sequence: 0,
        process: None,
        holder: "",
    };
    Call::Release { record, keys }
}

fn leave() -> Call<'static> {
    Call::Leave {
        key: "dlock:a",
        owner: OwnerToken::random().unwrap(),
        process: "process",
    }
}

fn names_few(walk: &Walk<'_>) -> bool {
    let few = |keys| keys == Keys::Few;
    matches!(walk.call(), Call::Release { keys, .. } if few(keys))
}

fn failed(walk: &mut Walk<'_>, error: DatastoreError) -> Result<Next, DatastoreError> {
    walk.failed(error, Some(&node(1)), true)
}

fn goes_on(owner: Option<Endpoint>, pauses: bool) -> Next {
    Next { owner, pauses }
}

#[test]
fn a_call_follows_a_slot_that_has_moved_at_once() {
    let mut walk = Walk::new(release(Keys::Few));
    let moved = failed(&mut walk, refused("MOVED", "1 10.0.0.2:7")).unwrap();
    let host = "10.0.0.2".to_owned();
    let owner = Endpoint::Tcp { host, port: 7 };
    assert_eq!(moved, goes_on(Some(owner), false));
    assert!(walk.asks().is_none() && !walk.earlier().may_have_run());
}

#[test]
fn a_call_asks_where_a_slot_is_being_moved_and_only_once() {
    let mut walk = Walk::new(release(Keys::Few));
    let asks = failed(&mut walk, refused("ASK", "1 :7")).unwrap();
    assert_eq!(asks, goes_on(None, false));
    assert_eq!(walk.asks(), Some(&node(7)), "at the host that redirected");
    failed(&mut walk, refused("TRYAGAIN", "")).unwrap();
    assert!(walk.asks().is_none(), "its owner knows where the key is");
}

#[test]
fn a_redirection_names_a_node_in_any_form() {
    let tcp = |host: &str, port| {
        let host = host.to_owned();
        Some(Endpoint::Tcp { host, port })
    };
    for (redirection, target) in [
        ("3999 db.example.org:6381", tcp("db.example.org", 6381)),
        ("3999 ::1:6381", tcp("::1", 6381)),
        ("3999 [::1]:6381", tcp("::1", 6381)),
        ("3999 ?:6381", Some(node(6381))),
        ("3999 :0", None),
        ("3999 host", None),
        ("3999", None),
        ("3999 host:70000", None),
    ] {
        let endpoint = endpoint(redirection, Some(&node(1)));
        assert_eq!(endpoint, target, "{redirection}");
    }
    assert_eq!(endpoint("3999 :6381", None), None);
    let mut walk = Walk::new(release(Keys::Few));
    let error = failed(&mut walk, refused("MOVED", "nowhere")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn nodes_that_disagree_get_a_little_time_and_then_the_call_is_refused_for_now() {
    let mut walk = Walk::new(release(Keys::Few));
    for count in 1..=REDIRECTIONS {
        let next = failed(&mut walk, refused("MOVED", "1 :7")).unwrap();
        assert_eq!(next.pauses, count > AT_ONCE, "{count}");
    }
    let error = failed(&mut walk, refused("MOVED", "1 :7")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "a waiter keeps waiting");
    assert!(!error.may_have_executed());
    let mut walk = Walk::new(release(Keys::Few));
    let late = walk.failed(refused("ASK", "1 :7"), Some(&node(1)), false);
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Refused);
}

/// A claim of a free key: its owner does not have it, and the node that it sends the claim to may
/// not make it while the slot moves.
#[test]
fn a_call_is_repeated_for_as_long_as_its_slot_is_being_moved() {
    let mut walk = Walk::new(release(Keys::Few));
    for _ in 0..100 {
        let asks = failed(&mut walk, refused("ASK", "1 :7")).unwrap();
        assert_eq!(asks, goes_on(None, false));
        let splits = failed(&mut walk, refused("TRYAGAIN", "")).unwrap();
        assert_eq!(splits, goes_on(None, true));
    }
    failed(&mut walk, refused("ASK", "1 :7")).unwrap();
    let over = walk.failed(refused("TRYAGAIN", ""), Some(&node(7)), false);
    assert!(over.unwrap_err().is_transient());
}

#[test]
fn a_slot_that_is_being_moved_is_released_by_one_key_or_waited_for() {
    let mut walk = Walk::new(release(Keys::All));
    assert!(!names_few(&walk));
    let next = failed(&mut walk, refused("TRYAGAIN", "")).unwrap();
    assert_eq!(next, goes_on(None, false), "nobody may wait any more");
    assert!(names_few(&walk));
    for call in [walk.call(), release(Keys::Few), leave()] {
        let mut walk = Walk::new(call);
        let next = failed(&mut walk, refused("TRYAGAIN", "")).unwrap();
        assert_eq!(next, goes_on(None, true), "the queue is needed");
    }
    let next = failed(&mut walk, refused("TRYAGAIN", "")).unwrap();
    assert_eq!(next, goes_on(None, true), "somebody waits");
    assert!(names_few(&walk));
}

#[test]
fn a_node_that_does_not_serve_the_slot_is_tried_again_until_the_time_is_over() {
    for error in [
        refused("CLUSTERDOWN", "The cluster is down"),
        refused("LOADING", ""),
        broken(false),
        DatastoreError::not_executed(ErrorKind::Refused, Unserved),
    ] {
        let mut walk = Walk::new(release(Keys::Few));
        for _ in 0..100 {
            let next = failed(&mut walk, error.clone()).unwrap();
            assert_eq!(next, goes_on(None, true), "{error}");
        }
        assert!(suspects_map(&error));
        let over = walk.failed(error.clone(), Some(&node(1)), false);
        let over = over.unwrap_err();
        assert_eq!(
            (over.kind(), over.may_have_executed()),
            (error.kind(), false)
        );
    }
}

#[test]
fn what_no_other_node_does_better_ends_the_call() {
    for error in [
        refused("OOM", ""),
        refused("NOAUTH", ""),
        refused("WRONGTYPE", ""),
        refused("CROSSSLOT", ""),
        DatastoreError::not_executed(ErrorKind::Stale, "late"),
        DatastoreError::not_executed(ErrorKind::Timeout, "all connections were in use"),
    ] {
        let mut walk = Walk::new(release(Keys::Few));
        let ended = failed(&mut walk, error.clone()).unwrap_err();
        assert_eq!(
            (ended.kind(), ended.may_have_executed()),
            (error.kind(), false)
        );
    }
}

#[test]
fn what_an_earlier_try_may_have_done_is_never_forgotten() {
    let mut walk = Walk::new(release(Keys::Few));
    failed(&mut walk, broken(true)).unwrap();
    assert!(walk.earlier().may_have_run());
    failed(&mut walk, refused("MOVED", "1 :7")).unwrap();
    failed(&mut walk, broken(false)).unwrap();
    assert!(walk.earlier().may_have_run());
    for error in [
        refused("OOM", ""),
        refused("CLUSTERDOWN", ""),
        broken(false),
    ] {
        let mut walk = Walk::new(release(Keys::Few));
        failed(&mut walk, broken(true)).unwrap();
        let ended = walk.failed(error, Some(&node(1)), false).unwrap_err();
        assert!(ended.may_have_executed(), "{ended}");
    }
    let mut walk = Walk::new(release(Keys::Few));
    failed(&mut walk, broken(true)).unwrap();
    for _ in 0..REDIRECTIONS {
        failed(&mut walk, refused("MOVED", "1 :7")).unwrap();
    }
    let ended = failed(&mut walk, refused("MOVED", "1 :7")).unwrap_err();
    assert!(ended.may_have_executed());
}

#[test]
fn an_extend_that_names_the_queue_has_a_form_that_does_not() {
    let claim = dlock_core::Claim::new(
        "dlock:a",
        &dlock_core::Clock::BOOTTIME,
        Duration::from_secs(9),
    );
    let grant = dlock_core::Grant::new(Duration::from_secs(9));
    let lease = dlock_core::Lease::new(claim.unwrap(), grant);
    let mut walk = Walk::new(Call::Extend(&lease, Duration::from_millis(500)));
    failed(&mut walk, refused("TRYAGAIN", "")).unwrap();
    assert!(matches!(walk.call(), Call::ExtendAlone(..)));
    failed(&mut walk, refused("ASK", "1 :7")).unwrap();
    assert!(
        matches!(walk.call(), Call::ExtendAlone(..)),
        "there as well"
    );
}
