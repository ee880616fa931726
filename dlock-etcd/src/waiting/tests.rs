//! What a claim that waits makes of the answers of a server, and what this process notes of it. No
//! thread runs, and no connection is opened.

use dlock_core::{FencingToken, HeldBy, OwnerToken};
use dlock_net::{Earlier, Limits};
use serde_json::{Value, json};

use super::*;
use crate::fuzzing::Constant;
use crate::operations::requests::bytes;
use crate::operations::unanswered::Unanswered;
use crate::operations::{grant, record, watching};

pub(super) const KEY: &str = "dlock:a";
const TTL: Duration = Duration::from_secs(5);
const OTHERS: &str = "dlock:a waits 1 x";
/// The run of the threads that would work.
pub(super) const RUN: u64 = 1;

/// A pool that opens nothing.
fn pool() -> Arc<Pool<ConnectionManager>> {
    let manager = ConnectionManager::new("etcd://127.0.0.1:1").unwrap();
    Arc::new(Pool::new(manager, Limits::default().pool))
}

/// What waiters share that have a lease for their places, and a claim that waits at one.
pub(super) fn with_waiter() -> (Shared, Claim) {
    let shared = Shared {
        pool: pool(),
        state: Mutex::default(),
        changed: Condvar::new(),
        alert: Alert::new().unwrap(),
        #[cfg(feature = "tokio")]
        answered: tokio::sync::Notify::new(),
    };
    let claim = Claim::new(KEY, &Clock::BOOTTIME, TTL).unwrap();
    let now = Clock::BOOTTIME.now();
    shared.with_state(|state| {
        assert_eq!(state.start(now), Some(RUN));
        state.enter(claim.owner(), &Signal::new());
        state.lease_granted(RUN, 7, now);
        assert!(state.claims(claim.owner(), now.saturating_add(TTL)));
        let place = queue::place(KEY, 9, claim.owner());
        state.enters(claim.owner(), place, now);
    });
    (shared, claim)
}

/// What a server answers that has this key and this place before that of the claim, whose place it
/// has too; the leases last for `left` seconds.
fn answer(key: &Value, before: &Value, left: &str) -> Value {
    let ranges = [key, before, &json!({"key": "eA=="})];
    let ranges = ranges.map(|key| json!({"response_range": {"kvs": [key]}}));
    json!({"header": {"revision": "9"}, "responses": ranges, "TTL": left})
}

fn lock() -> Value {
    let value = record::value(OwnerToken::random().unwrap(), 0, "");
    json!({"value": bytes(&value), "lease": "5", "create_revision": "7"})
}

fn acquired(
    shared: &Shared,
    claim: &Claim,
    answer: Value,
    earlier: Earlier,
) -> Result<AcquireOutcome, DatastoreError> {
    let turn = Turn { shared, claim };
    let mut server = Constant(answer);
    let outcome = at_once(grant::acquire(
        &mut server,
        claim,
        TTL,
        earlier,
        &Unanswered::default(),
        Some(&turn),
    ));
    turn.ended(&outcome);
    outcome
}

fn held(shared: &Shared, claim: &Claim, answer: Value) -> HeldBy {
    match acquired(shared, claim, answer, Earlier::NOTHING).unwrap() {
        AcquireOutcome::Granted(grant) => panic!("{grant:?}"),
        AcquireOutcome::Held(held) => held,
    }
}

#[test]
fn a_refused_waiter_waits_for_what_is_before_its_place() {
    let other = json!({"key": bytes(OTHERS), "value": bytes("waits "), "lease": "5"});
    for (before, watched) in [(&Value::Null, KEY), (&other, OTHERS)] {
        let (shared, claim) = with_waiter();
        let held = held(&shared, &claim, answer(&lock(), before, "10"));
        assert_eq!(held.fence(), Some(FencingToken::new(7)));
        let requests = shared.state().take_requests(RUN);
        assert_eq!(requests, [watching::create(1, watched)]);
    }
}

#[test]
fn the_first_waiter_claims_again_when_the_lease_of_the_holder_ends_and_others_when_woken() {
    let other = json!({"key": bytes(OTHERS), "value": bytes("waits "), "lease": "5"});
    for (before, left, retry_in) in [
        (&Value::Null, "10", 11),
        (&Value::Null, "-1", 1),
        (&Value::Null, "600", 60),
        (&other, "10", 60),
    ] {
        let (shared, claim) = with_waiter();
        let held = held(&shared, &claim, answer(&lock(), before, left));
        assert_eq!(held.retry_in(), Some(Duration::from_secs(retry_in)));
    }
}

#[test]
fn a_waiter_behind_another_one_of_a_free_key_waits_for_that_one() {
    let (shared, claim) = with_waiter();
    let other = json!({"key": bytes(OTHERS), "value": bytes("waits "), "lease": "5"});
    let held = held(&shared, &claim, answer(&Value::Null, &other, "10"));
    assert_eq!(held.fence(), None);
    assert_eq!(held.retry_in(), Some(Duration::from_secs(60)));
    let requests = shared.state().take_requests(RUN);
    assert_eq!(requests, [watching::create(1, OTHERS)]);
}

#[test]
fn a_waiter_without_a_lease_for_its_place_is_refused_as_one_that_does_not_wait() {
    let (shared, claim) = with_waiter();
    let now = Clock::BOOTTIME.now();
    assert!(shared.with_state(|state| state.lease_ended(7, now)));
    // Without a place, what is read of it is not there either.
    let mut answer = answer(&lock(), &Value::Null, "10");
    answer["responses"].as_array_mut().unwrap().pop();
    let held = held(&shared, &claim, answer);
    assert_eq!(held.retry_in(), None);
    let mut state = shared.state();
    assert_eq!(state.place(claim.owner()), None);
    assert!(state.take_requests(RUN).is_empty());
}

#[test]
fn a_waiter_whose_earlier_copy_may_yet_win_is_not_refused_but_waits() {
    let (shared, claim) = with_waiter();
    let answer = answer(&lock(), &Value::Null, "10");
    let error = acquired(&shared, &claim, answer, Earlier::NOTHING.and(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
    let requests = shared.state().take_requests(RUN);
    assert_eq!(requests, [watching::create(1, KEY)]);
}

#[test]
fn a_waiter_that_is_granted_the_key_gives_up_its_place() {
    let (shared, claim) = with_waiter();
    let _ = held(&shared, &claim, answer(&lock(), &Value::Null, "10"));
    let now = Clock::BOOTTIME.now();
    assert!(
        shared
            .state()
            .claims(claim.owner(), now.saturating_add(TTL))
    );
    let mut answer = answer(&Value::Null, &Value::Null, "10");
    answer["succeeded"] = json!(true);
    let outcome = acquired(&shared, &claim, answer, Earlier::NOTHING).unwrap();
    assert!(matches!(outcome, AcquireOutcome::Granted(_)));
    assert_eq!(shared.state().place(claim.owner()), None);
}

#[test]
fn only_a_claim_that_waits_has_a_turn() {
    let waiters = Waiters::new(pool());
    let [waits, tries] = [(); 2].map(|()| Claim::new(KEY, &Clock::BOOTTIME, TTL).unwrap());
    let end = Clock::BOOTTIME.now().saturating_add(TTL);
    assert!(waiters.turn(&waits, end).is_none(), "nobody has waited yet");
    let shared = waiters.shared().unwrap().unwrap();
    shared.state().enter(waits.owner(), &Signal::new());
    assert!(waiters.turn(&waits, end).is_some());
    assert!(waiters.turn(&tries, end).is_none());
    let place = queue::place(KEY, 9, waits.owner());
    shared.with_state(|state| state.enters(waits.owner(), Arc::clone(&place), end));
    assert_eq!(waiters.gives_up(&tries), None);
    assert_eq!(waiters.gives_up(&waits), Some(place));
    assert_eq!(waiters.gives_up(&waits), None);
}

#[test]
fn a_waiter_that_the_server_has_no_place_of_enters_the_queue_before_it_waits() {
    let (shared, claim) = with_waiter();
    let old = queue::place(KEY, 3, claim.owner());
    let now = Clock::BOOTTIME.now();
    shared.with_state(|state| state.enters(claim.owner(), old, now));
    let mut answer = answer(&lock(), &Value::Null, "10");
    answer["responses"][2] = json!({});
    // The answers never have the place, so it is tried until it is given up.
    let error = acquired(&shared, &claim, answer, Earlier::NOTHING).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.may_have_executed());
    let mut state = shared.state();
    let place = queue::place(KEY, 9, claim.owner());
    assert_eq!(state.place(claim.owner()), Some(place));
    assert!(state.take_requests(RUN).is_empty());
}
