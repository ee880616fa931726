//! Tests of the decisions of an acquisition.

mod lost_answers;
mod waiting;

use super::*;

const TTL: Duration = Duration::from_secs(10);

fn plan(wait: Option<Duration>) -> (Plan, Time) {
    let now = Time::from_nanos(1_000_000_000_000);
    let call_timeout = Duration::from_secs(2);
    let deadline = now.saturating_add(wait.unwrap_or(call_timeout));
    let retry = Backoff::default();
    let waits = wait.is_some();
    (
        Plan {
            deadline,
            waits,
            until_done: false,
            call_timeout,
            retry,
            seed: 42,
        },
        now,
    )
}

fn granted() -> Result<AcquireOutcome, DatastoreError> {
    Ok(AcquireOutcome::granted(
        TTL,
        crate::contract::grant::FencingToken::new(1),
    ))
}

fn held(expires_in: Duration) -> Result<AcquireOutcome, DatastoreError> {
    Ok(AcquireOutcome::held(expires_in))
}

fn lost_reply() -> Result<AcquireOutcome, DatastoreError> {
    Err(DatastoreError::maybe_executed(
        ErrorKind::Timeout,
        "no answer",
    ))
}

fn refused_connection() -> Result<AcquireOutcome, DatastoreError> {
    Err(DatastoreError::not_executed(
        ErrorKind::Unreachable,
        "connection refused",
    ))
}

fn later(now: Time, millis: u64) -> Time {
    now.saturating_add(Duration::from_millis(millis))
}

/// The action, at `now`, after the reply to the claim that was sent at `sent`.
fn answered(
    acquisition: &mut Acquisition,
    now: Time,
    sent: Time,
    reply: Result<AcquireOutcome, DatastoreError>,
) -> Action {
    acquisition.on(now, Event::Answered { sent, reply })
}

#[test]
fn a_grant_is_valid_from_before_it_was_asked_for() {
    let (plan, now) = plan(None);
    let (mut acquisition, action) = Acquisition::start(plan, now);
    assert!(matches!(action, Action::Claim { fresh: false, .. }));
    let action = answered(&mut acquisition, later(now, 500), now, granted());
    assert!(matches!(action, Action::Finish));
    let until = acquisition.into_outcome().unwrap().valid_until;
    assert_eq!(
        until,
        now.saturating_add(TTL - crate::contract::grant::drift(TTL))
    );
}

#[test]
fn a_caller_that_does_not_wait_is_refused_after_one_claim() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let action = answered(&mut acquisition, now, now, held(TTL));
    assert!(matches!(action, Action::Finish));
    assert!(acquisition.into_outcome().unwrap_err().is_held());
}

#[test]
fn a_grant_that_arrives_after_its_end_is_released_and_reported_as_a_timeout() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let late = now.saturating_add(TTL);
    let action = answered(&mut acquisition, late, now, granted());
    assert!(matches!(action, Action::Discard(_)), "{action:?}");
    assert!(matches!(
        acquisition.on(late, Event::Undone),
        Action::Finish
    ));
    assert!(
        matches!(acquisition.into_outcome(), Err(AcquireError::Datastore(error)) if error.kind() == ErrorKind::Timeout)
    );
}

#[test]
fn a_waiter_starts_over_under_a_new_token_after_a_late_grant() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let late = now.saturating_add(TTL);
    let _ = answered(&mut acquisition, late, now, granted());
    let action = acquisition.on(late, Event::Undone);
    assert!(
        matches!(action, Action::Claim { fresh: true, .. }),
        "{action:?}"
    );
    let action = answered(&mut acquisition, late, late, granted());
    assert!(matches!(action, Action::Finish));
    assert!(acquisition.into_outcome().is_ok());
}

#[test]
fn a_waiter_does_not_start_over_at_its_deadline() {
    let (plan, now) = plan(Some(TTL));
    let deadline = plan.deadline;
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let reply = granted();
    let action = answered(&mut acquisition, deadline, now, reply);
    assert!(matches!(action, Action::Discard(_)), "{action:?}");
    let action = acquisition.on(deadline, Event::Undone);
    assert!(matches!(action, Action::Finish), "{action:?}");
}

#[test]
fn a_permanent_error_ends_the_wait() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let reply = Err(DatastoreError::not_executed(
        ErrorKind::ForeignKey,
        "a list",
    ));
    assert!(matches!(
        answered(&mut acquisition, now, now, reply),
        Action::Finish
    ));
}

#[test]
fn a_grant_that_arrives_exactly_at_its_end_counts_as_none() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let end = valid_until(now, TTL);
    let reply = granted();
    let action = answered(&mut acquisition, end, now, reply);
    assert!(matches!(action, Action::Discard(_)), "{action:?}");
}
