//! A lost answer proves neither that the claim was carried out nor that it was not.

use super::*;

#[test]
fn after_a_lost_answer_the_claim_is_repeated_at_once_and_only_once() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let action = answered(&mut acquisition, later(now, 1), now, lost_reply());
    assert!(
        matches!(action, Action::Claim { fresh: false, .. }),
        "the same token: {action:?}"
    );
    assert!(acquisition.needs_abandon());
    let action = answered(&mut acquisition, later(now, 2), now, lost_reply());
    let Action::Sleep {
        until,
        wakeable: false,
    } = action
    else {
        panic!("{action:?}")
    };
    assert_eq!(until, later(now, 2000), "the lost request's not_after");
    let action = acquisition.on(until, Event::Woken);
    assert!(matches!(action, Action::Abandon));
    assert!(matches!(
        acquisition.on(until, Event::Undone),
        Action::Finish
    ));
    let error = acquisition.into_outcome().unwrap_err();
    assert!(matches!(error, AcquireError::Datastore(error) if error.kind() == ErrorKind::Timeout));
}

#[test]
fn after_an_answer_lost_at_the_deadline_the_claim_is_not_repeated() {
    let (plan, now) = plan(None);
    let deadline = plan.deadline;
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let reply = lost_reply();
    let action = answered(&mut acquisition, deadline, now, reply);
    assert!(matches!(action, Action::Abandon), "{action:?}");
}

#[test]
fn a_refusal_after_a_lost_answer_does_not_prove_that_the_request_is_dead() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = answered(&mut acquisition, now, now, lost_reply());
    let action = answered(&mut acquisition, now, now, held(TTL));
    assert!(
        matches!(
            action,
            Action::Sleep {
                wakeable: false,
                ..
            }
        ),
        "{action:?}"
    );
    assert!(matches!(
        acquisition.on(later(now, 2000), Event::Woken),
        Action::Abandon
    ));
}

#[test]
fn a_grant_after_a_lost_answer_needs_no_cleaning_up() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = answered(&mut acquisition, now, now, lost_reply());
    let action = answered(&mut acquisition, now, now, granted());
    assert!(matches!(action, Action::Finish) && !acquisition.needs_abandon());
    let won = acquisition.into_outcome().unwrap();
    assert!(won.grant.copy_may_follow, "the store learns of the copy");
}

#[test]
fn a_winner_learns_of_a_copy_that_the_store_sent_before() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let grant = Grant::new(TTL).with_copy_to_follow(true);
    let reply = Ok(AcquireOutcome::Granted(grant));
    assert!(matches!(
        answered(&mut acquisition, now, now, reply),
        Action::Finish
    ));
    assert_eq!(
        acquisition.into_outcome().unwrap().lost_request,
        Some(later(now, 2000))
    );
}

#[test]
fn a_late_grant_after_a_lost_answer_is_undone_for_good_before_a_new_token_is_drawn() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = answered(&mut acquisition, now, now, lost_reply());
    let short = Ok(AcquireOutcome::granted(
        Duration::from_millis(300),
        crate::contract::grant::FencingToken::new(1),
    ));
    let action = answered(&mut acquisition, later(now, 400), now, short);
    assert!(matches!(action, Action::Discard(_)));
    let action = acquisition.on(later(now, 400), Event::Undone);
    let Action::Sleep {
        until,
        wakeable: false,
    } = action
    else {
        panic!("{action:?}")
    };
    assert!(matches!(
        acquisition.on(until, Event::Woken),
        Action::Abandon
    ));
    let action = acquisition.on(until, Event::Undone);
    assert!(
        matches!(action, Action::Claim { fresh: true, .. }),
        "{action:?}"
    );
}

#[test]
fn after_a_second_lost_answer_the_claim_is_repeated_if_there_was_an_answer_in_between() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = answered(&mut acquisition, now, now, lost_reply());
    let _ = answered(&mut acquisition, now, now, held(TTL));
    let _ = acquisition.on(now, Event::Watched(false));
    let _ = acquisition.on(later(now, 10), Event::Woken);
    let action = answered(&mut acquisition, later(now, 10), now, lost_reply());
    assert!(
        matches!(action, Action::Claim { fresh: false, .. }),
        "{action:?}"
    );
}

/// The lost copy may have won meanwhile. The store does not wake the waiter for that, since it has
/// answered the claim.
#[test]
fn a_queued_waiter_claims_again_when_the_time_of_a_lost_claim_is_over() {
    let (plan, now) = plan(Some(Duration::from_secs(3600)));
    let call_timeout = plan.call_timeout;
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let answered = |sent, reply| Event::Answered { sent, reply };
    let queued = || {
        let held = HeldBy::new().with_expires_in(TTL);
        Ok(AcquireOutcome::Held(
            held.with_retry_in(Duration::from_secs(1800)),
        ))
    };
    let _ = acquisition.on(now, answered(now, queued()));
    let action = acquisition.on(now, Event::Watched(true));
    assert!(matches!(action, Action::Claim { .. }));
    let broken = later(now, 5);
    let action = acquisition.on(broken, answered(now, lost_reply()));
    assert!(matches!(action, Action::Claim { .. }), "asked again");
    let Action::Sleep { until, .. } = acquisition.on(broken, answered(broken, queued())) else {
        panic!("it waits")
    };
    let lost_until = now.saturating_add(call_timeout);
    assert!(
        until > lost_until && until <= later(lost_until, 10),
        "{until:?}"
    );

    let _ = acquisition.on(lost_until, Event::Woken);
    let reply = queued();
    let Action::Sleep { until, .. } = acquisition.on(lost_until, answered(lost_until, reply))
    else {
        panic!("it waits")
    };
    assert!(until <= later(lost_until, 10), "the copy may arrive now");

    let action = acquisition.on(until, Event::Woken);
    assert!(matches!(action, Action::Claim { .. }));
    let Action::Sleep { until, .. } = acquisition.on(until, answered(until, queued())) else {
        panic!("it waits")
    };
    assert_eq!(
        until,
        later(lost_until, 1 + 1_800_000),
        "the time that the store gave"
    );
}
