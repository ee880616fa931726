//! What the answers mean to a caller, if an earlier copy of the call may have been carried out or
//! not.

use dlock_core::{Clock, ErrorKind};

use super::*;
use crate::operations::Heartbeat;

const LEFT: Duration = Duration::from_secs(5);

fn store() -> PostgresDatastore {
    PostgresDatastore::open("postgres://app@127.0.0.1:1/app").unwrap()
}

fn claim() -> Claim {
    Claim::new("dlock:a", &Clock::BOOTTIME, LEFT).unwrap()
}

/// An answer that no call but a heartbeat has.
fn other() -> Answer {
    Answer::Heartbeat(Heartbeat {
        backend: 1,
        is_known: true,
        next: None,
        handed: Vec::new(),
    })
}

fn failure<T>(outcome: Result<T, DatastoreError>) -> Option<(ErrorKind, bool)> {
    let error = outcome.err()?;
    Some((error.kind(), error.may_have_executed()))
}

/// The error of an answer that does not fit.
const UNEXPECTED: Option<(ErrorKind, bool)> = Some((ErrorKind::Protocol, true));
/// The error of a call whose earlier copy may have been, or may yet be, carried out.
const LOST: Option<(ErrorKind, bool)> = Some((ErrorKind::Unreachable, true));

#[test]
fn a_claim_is_granted_refused_or_came_too_late() {
    let (store, claim) = (store(), claim());
    let acquired = |answer, in_doubt| store.acquired(&claim, Ok((answer, in_doubt)));
    let held = || HeldBy::new().with_expires_in(LEFT);
    for in_doubt in [false, true] {
        let fence = FencingToken::new(7);
        let outcome = acquired(Answer::Granted { fence, left: LEFT }, in_doubt).unwrap();
        let AcquireOutcome::Granted(grant) = outcome else {
            panic!("it was granted")
        };
        assert_eq!((grant.fence, grant.ttl), (Some(fence), LEFT));
        assert_eq!(grant.copy_may_follow, in_doubt);
        assert_eq!(failure(acquired(other(), in_doubt)), UNEXPECTED);
    }
    let refused = |answer| match acquired(answer, false).unwrap() {
        AcquireOutcome::Held(held) => held,
        AcquireOutcome::Granted(grant) => panic!("{grant:?}"),
    };
    let by = refused(Answer::Held(held()));
    assert_eq!((by.expires_in(), by.retry_in()), (Some(LEFT), None));
    for is_next in [false, true] {
        let by = refused(Answer::Queued(held(), is_next));
        assert_eq!(by.expires_in(), Some(LEFT));
        assert!(by.retry_in().is_some(), "it is woken, or asks again");
    }
    let late = failure(acquired(Answer::TooLate, false));
    assert_eq!(late, Some((ErrorKind::Stale, false)));
    for answer in [
        Answer::Held(held()),
        Answer::Queued(held(), true),
        Answer::TooLate,
    ] {
        assert_eq!(failure(acquired(answer, true)), LOST, "it may yet win");
    }
}

#[test]
fn an_extend_has_what_is_left_or_is_lost_or_came_too_late() {
    let lease = Lease::new(claim(), Grant::new(LEFT));
    let extended = |answer, in_doubt| extension(&lease, Ok((answer, in_doubt)));
    for in_doubt in [false, true] {
        let outcome = extended(Answer::Extended(LEFT), in_doubt).unwrap();
        assert!(matches!(outcome, Extension::Extended(grant) if grant.ttl == LEFT));
        let outcome = extended(Answer::Lost, in_doubt).unwrap();
        assert!(matches!(outcome, Extension::Lost));
        let late = failure(extended(Answer::TooLate, in_doubt));
        assert_eq!(late, Some((ErrorKind::Stale, in_doubt)));
        assert_eq!(failure(extended(other(), in_doubt)), UNEXPECTED);
    }
}

#[test]
fn a_release_that_finds_nothing_may_come_after_one_whose_answer_was_lost() {
    let released = |done, in_doubt| freed(Ok((Answer::Freed(done), in_doubt)));
    for in_doubt in [false, true] {
        let outcome = released(true, in_doubt).unwrap();
        assert_eq!(outcome, ReleaseOutcome::Released);
        assert_eq!(failure(freed(Ok((other(), in_doubt)))), UNEXPECTED);
        for done in [false, true] {
            assert!(undone(Ok((Answer::Freed(done), in_doubt))).is_ok());
        }
        assert_eq!(failure(undone(Ok((other(), in_doubt)))), UNEXPECTED);
    }
    assert_eq!(released(false, false).unwrap(), ReleaseOutcome::NotHeld);
    assert_eq!(failure(released(false, true)), LOST);
}

#[test]
fn what_operators_ask_for_is_answered() {
    let held = HeldBy::new().with_expires_in(LEFT);
    let found = held_by(Ok((Answer::Holder(Some(held)), false))).unwrap();
    assert_eq!(found.unwrap().expires_in(), Some(LEFT));
    assert!(held_by(Ok((Answer::Holder(None), true))).unwrap().is_none());
    assert_eq!(failure(held_by(Ok((other(), false)))), UNEXPECTED);
    assert_eq!(counted(Ok((Answer::Waiting(12), false))).unwrap(), 12);
    assert_eq!(failure(counted(Ok((other(), false)))), UNEXPECTED);
    assert_eq!(
        failure(super::found(LEFT, Ok((other(), false)))),
        UNEXPECTED
    );
    let away = DatastoreError::not_executed(ErrorKind::Unreachable, "text");
    let error = failure(super::found(LEFT, Err(away)));
    assert_eq!(error, Some((ErrorKind::Unreachable, false)));
}
