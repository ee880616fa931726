//! What a claim makes of the answers of a server. What it asks, and in which order, real servers
//! test.

use dlock_core::{Clock, FencingToken, OwnerToken, at_once};
use serde_json::Value;

use super::*;
use crate::fuzzing::Constant;
use crate::operations::requests::bytes;
use crate::waiting::Turn;

const TTL: Duration = Duration::from_secs(5);
const HOLDER: &str = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";

fn claim() -> Claim {
    Claim::new("dlock:a", &Clock::BOOTTIME, TTL).unwrap()
}

fn other() -> OwnerToken {
    OwnerToken::random().unwrap()
}

/// A key of this owner, with a lease.
fn lock(owner: OwnerToken) -> Value {
    json!({
        "value": bytes(&record::value(owner, 0, HOLDER)), "lease": "5",
        "create_revision": "7", "mod_revision": "8",
    })
}

fn place(lease: &str) -> Value {
    json!({
        "key": bytes("dlock:a waits 1 x"), "value": bytes(&format!("waits {HOLDER}")),
        "lease": lease,
    })
}

/// What a server answers that has this key, this place of a waiter and nothing else, and whose
/// leases last for ten seconds.
fn answer(key: &Value, place: &Value) -> Value {
    json!({
        "header": {"revision": "9"},
        "responses": [
            {"response_range": {"kvs": [key]}},
            {"response_range": {"kvs": [place]}},
        ],
        "TTL": "10",
    })
}

/// The same, and it carries out each transaction.
fn takes(key: &Value, place: &Value) -> Value {
    let mut answer = answer(key, place);
    answer["succeeded"] = json!(true);
    answer
}

fn acquired(
    claim: &Claim,
    answer: Value,
    ttl: Duration,
    earlier: Earlier,
) -> Result<AcquireOutcome, DatastoreError> {
    let (queue, unanswered) = (None::<&Turn<'_>>, Unanswered::default());
    let mut server = Constant(answer);
    at_once(acquire(
        &mut server,
        claim,
        ttl,
        earlier,
        &unanswered,
        queue,
    ))
}

fn granted_by(claim: &Claim, answer: Value, ttl: Duration) -> Grant {
    match acquired(claim, answer, ttl, Earlier::NOTHING).unwrap() {
        AcquireOutcome::Granted(grant) => grant,
        AcquireOutcome::Held(held) => panic!("{held}"),
    }
}

fn held(answer: Value) -> HeldBy {
    match acquired(&claim(), answer, TTL, Earlier::NOTHING).unwrap() {
        AcquireOutcome::Granted(grant) => panic!("{grant:?}"),
        AcquireOutcome::Held(held) => held,
    }
}

fn error(claim: &Claim, answer: Value) -> (ErrorKind, bool) {
    let error = acquired(claim, answer, TTL, Earlier::NOTHING).unwrap_err();
    (error.kind(), error.may_have_executed())
}

#[test]
fn a_free_key_is_granted_with_the_revision_as_its_token() {
    let claim = claim();
    let grant = granted_by(&claim, takes(&Value::Null, &Value::Null), TTL);
    assert_eq!(grant.fence, Some(FencingToken::new(9)));
    assert_eq!((grant.ttl, grant.copy_may_follow), (TTL, false));
    let earlier = Earlier::NOTHING.and(true);
    let outcome = acquired(&claim, takes(&Value::Null, &Value::Null), TTL, earlier).unwrap();
    assert!(matches!(outcome, AcquireOutcome::Granted(grant) if grant.copy_may_follow));
}

#[test]
fn a_grant_without_a_revision_is_no_answer() {
    for revision in [json!(null), json!("0"), json!("-1")] {
        let mut answer = takes(&Value::Null, &Value::Null);
        answer["header"]["revision"] = revision;
        assert_eq!(error(&claim(), answer), (ErrorKind::Protocol, true));
    }
}

#[test]
fn the_claim_that_has_the_key_keeps_its_token_and_only_gains_time() {
    let claim = claim();
    for place in [Value::Null, place("5"), place("0")] {
        for (ttl, expected) in [(5, 10), (30, 30)] {
            let answer = takes(&lock(claim.owner()), &place);
            let grant = granted_by(&claim, answer, Duration::from_secs(ttl));
            assert_eq!(grant.fence, Some(FencingToken::new(7)));
            assert_eq!(grant.ttl, Duration::from_secs(expected));
        }
    }
}

#[test]
fn a_key_that_changes_whenever_it_is_to_be_taken_is_given_up() {
    let claim = claim();
    for key in [Value::Null, lock(claim.owner())] {
        let error = error(&claim, answer(&key, &Value::Null));
        assert_eq!(error, (ErrorKind::Refused, true));
    }
}

#[test]
fn what_dlock_did_not_write_is_neither_taken_nor_waited_for() {
    let foreign = json!({"value": bytes("hello"), "lease": "5"});
    for (key, place) in [
        (foreign, Value::Null),
        (Value::Null, place("0")),
        (lock(other()), place("0")),
    ] {
        let error = error(&claim(), takes(&key, &place));
        assert_eq!(error, (ErrorKind::ForeignKey, false));
    }
}

#[test]
fn a_refusal_names_the_holder_or_else_the_waiter_that_comes_first() {
    for waiter in [Value::Null, place("5")] {
        let by_holder = held(takes(&lock(other()), &waiter));
        assert_eq!(by_holder.fence(), Some(FencingToken::new(7)));
        assert_eq!(by_holder.holder().unwrap().to_text(), HOLDER);
        // Its lease, cut to whole seconds, and the second in which the server ends it.
        assert_eq!(by_holder.expires_in(), Some(Duration::from_secs(11)));
        assert_eq!(by_holder.retry_in(), None);
    }
    let by_waiter = held(takes(&Value::Null, &place("5")));
    assert_eq!(by_waiter.fence(), None);
    assert_eq!(by_waiter.holder().unwrap().to_text(), HOLDER);
    assert_eq!(by_waiter.expires_in(), None);
}

#[test]
fn a_refusal_after_a_copy_that_may_yet_win_is_none() {
    let answer = takes(&lock(other()), &Value::Null);
    let error = acquired(&claim(), answer, TTL, Earlier::NOTHING.and(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
}

#[test]
fn a_transaction_that_found_no_lease_did_nothing_and_of_others_the_error_stays() {
    for kind in [ErrorKind::Stale, ErrorKind::Timeout, ErrorKind::Protocol] {
        let error = lease_ended(DatastoreError::maybe_executed(kind, "text"));
        assert_eq!(error.kind(), kind);
        assert_eq!(error.may_have_executed(), kind != ErrorKind::Stale);
    }
}
