//! What an extend, a release and a break make of the answers of a server. What they ask, and in
//! which order, real servers test.

use dlock_core::{Clock, Grant, at_once};
use serde_json::json;

use super::*;
use crate::fuzzing::Constant;
use crate::operations::requests::bytes;

const TTL: Duration = Duration::from_secs(5);

fn held() -> Lease {
    let claim = Claim::new("dlock:a", &Clock::BOOTTIME, TTL).unwrap();
    Lease::new(claim, Grant::new(TTL).with_fence(FencingToken::new(7)))
}

/// A key of this owner, with a lease.
fn lock(owner: OwnerToken) -> Value {
    json!({"value": bytes(&record::value(owner, 9, "")), "lease": "5", "create_revision": "7"})
}

/// What a server answers that refuses a transaction since it has this key, whose lease lasts for
/// ten seconds.
fn refuses(key: &Value) -> Value {
    json!({"responses": [{"response_range": {"kvs": [key]}}], "kvs": [key], "TTL": "10"})
}

/// The same, but the transaction is carried out.
fn does(key: &Value) -> Value {
    let mut answer = refuses(key);
    answer["succeeded"] = json!(true);
    answer
}

fn extended(held: &Lease, answer: Value) -> Option<Duration> {
    match at_once(extend(&mut Constant(answer), held, TTL)).unwrap() {
        Extension::Extended(grant) => Some(grant.ttl),
        Extension::Lost => None,
    }
}

#[test]
fn an_extend_that_comes_after_a_newer_one_has_what_that_left() {
    let held = held();
    assert_eq!(extended(&held, does(&Value::Null)), Some(TTL));
    let newer = refuses(&lock(held.owner()));
    assert_eq!(
        extended(&held, newer.clone()),
        Some(Duration::from_secs(10))
    );
    let mut ended = newer;
    ended["TTL"] = json!("-1");
    assert_eq!(extended(&held, ended), None);
}

#[test]
fn a_key_that_is_free_foreign_or_another_owners_is_lost_to_an_extend() {
    let other = lock(OwnerToken::random().unwrap());
    for key in [Value::Null, json!({"value": bytes("hello")}), other] {
        assert_eq!(extended(&held(), refuses(&key)), None, "{key}");
    }
}

#[test]
fn a_release_that_finds_nothing_may_come_after_one_whose_answer_was_lost() {
    let held = held();
    let released = |answer, may_have_run| {
        let earlier = Earlier::NOTHING.and(may_have_run);
        at_once(release(&mut Constant(answer), &held, earlier))
    };
    for may_have_run in [false, true] {
        let outcome = released(does(&Value::Null), may_have_run).unwrap();
        assert_eq!(outcome, ReleaseOutcome::Released);
    }
    let outcome = released(refuses(&Value::Null), false).unwrap();
    assert_eq!(outcome, ReleaseOutcome::NotHeld);
    let error = released(refuses(&Value::Null), true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
}

fn broken(fence: u64, answer: Value, may_have_run: bool) -> Result<ReleaseOutcome, ErrorKind> {
    let (fence, earlier) = (FencingToken::new(fence), Earlier::NOTHING.and(may_have_run));
    let mut server = Constant(answer);
    let outcome = at_once(delete_fenced(&mut server, "dlock:a", fence, earlier));
    outcome.map_err(|error| error.kind())
}

#[test]
fn a_break_frees_the_grant_with_its_token_and_nothing_else() {
    let key = lock(OwnerToken::random().unwrap());
    assert_eq!(broken(7, does(&key), false), Ok(ReleaseOutcome::Released));
    assert_eq!(broken(7, refuses(&key), false), Ok(ReleaseOutcome::NotHeld));
    let lost = Err(ErrorKind::Unreachable);
    assert_eq!(broken(7, refuses(&key), true), lost);
    assert_eq!(broken(7, does(&key), true), Ok(ReleaseOutcome::Released));
}

#[test]
fn a_break_of_a_token_that_no_grant_has_deletes_nothing() {
    // To the server a key that does not exist was created at 0.
    for fence in [0, u64::MAX] {
        let outcome = broken(fence, does(&Value::Null), false);
        assert_eq!(outcome, Ok(ReleaseOutcome::NotHeld));
    }
    let least = broken(1, does(&Value::Null), false);
    assert_eq!(least, Ok(ReleaseOutcome::Released));
}

#[test]
fn what_dlock_did_not_write_is_not_broken_and_has_no_holder() {
    let foreign = json!({"value": bytes("hello"), "lease": "5"});
    let refused = Err(ErrorKind::ForeignKey);
    assert_eq!(broken(7, does(&foreign), false), refused);
    let holder_of = |key| {
        let holder = at_once(holder(&mut Constant(refuses(&key)), "dlock:a"));
        holder.map_err(|error| error.kind())
    };
    assert_eq!(holder_of(foreign).unwrap_err(), ErrorKind::ForeignKey);
    assert!(holder_of(Value::Null).unwrap().is_none());
    let held = holder_of(lock(OwnerToken::random().unwrap()))
        .unwrap()
        .unwrap();
    assert_eq!(held.fence(), Some(FencingToken::new(7)));
    assert_eq!(held.expires_in(), Some(Duration::from_secs(11)));
}
