//! How long a waiter sleeps, and what ends its wait.

use super::*;

#[test]
fn a_waiter_claims_again_after_it_asked_to_be_woken() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let action = answered(&mut acquisition, now, now, held(TTL));
    assert!(matches!(action, Action::Watch));
    let action = acquisition.on(now, Event::Watched(true));
    assert!(
        matches!(action, Action::Claim { .. }),
        "the key may have become free in between"
    );
    let action = answered(&mut acquisition, now, now, held(TTL));
    let Action::Sleep {
        until,
        wakeable: true,
    } = action
    else {
        panic!("{action:?}")
    };
    assert_eq!(
        until,
        now.saturating_add(TTL),
        "the end of the holder's lease"
    );
    let action = acquisition.on(later(now, 5), Event::Woken);
    assert!(matches!(action, Action::Claim { .. }));
}

#[test]
fn a_poller_sleeps_no_longer_than_the_holders_lease() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let soon = Duration::from_millis(3);
    let _ = answered(&mut acquisition, now, now, held(soon));
    let action = acquisition.on(now, Event::Watched(false));
    let Action::Sleep { until, .. } = action else {
        panic!("{action:?}")
    };
    assert_eq!(until, now.saturating_add(soon));
}

#[test]
fn pauses_double_up_to_their_maximum_and_lose_at_most_half() {
    let retry = Backoff::default();
    let mut pauses = Pauses {
        next: retry.initial(),
        max: retry.max(),
        random: 7,
    };
    let mut full = retry.initial();
    for _ in 0..40 {
        let pause = pauses.draw();
        assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
        full = (full * 2).min(retry.max());
    }
}

#[test]
fn the_random_part_of_a_pause_is_drawn_by_xorshift64() {
    let pause = Duration::from_millis(2048);
    let mut pauses = Pauses {
        next: pause,
        max: pause,
        random: 1,
    };
    assert_eq!(pauses.draw(), pause - Duration::from_millis(65));
    // The published start of the sequence from seed 1.
    assert_eq!(pauses.random, 1_082_269_761);
    let _ = pauses.draw();
    assert_eq!(pauses.random, 1_152_992_998_833_853_505);
    let _ = pauses.draw();
    assert_eq!(pauses.random, 11_177_516_664_432_764_457);
}

#[test]
fn every_seed_gives_pauses_that_differ() {
    for seed in [0, 1, 2, u64::MAX] {
        let (plan, now) = plan(Some(Duration::from_secs(60)));
        let (acquisition, _) = Acquisition::start(Plan { seed, ..plan }, now);
        assert_ne!(acquisition.pauses.random, 0, "xorshift would stay there");
    }
}

#[test]
fn a_waiter_retries_an_unreachable_store_until_its_deadline_and_then_says_so() {
    let (plan, start) = plan(Some(Duration::from_secs(5)));
    let deadline = plan.deadline;
    let (mut acquisition, mut action) = Acquisition::start(plan, start);
    let (mut now, mut claims) = (start, 0);
    while !matches!(action, Action::Finish) {
        action = match action {
            Action::Claim { not_after, .. } => {
                assert!(now < not_after && not_after <= deadline);
                claims += 1;
                answered(&mut acquisition, now, now, refused_connection())
            }
            Action::Sleep { until, .. } => {
                now = until;
                acquisition.on(now, Event::Woken)
            }
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(now, deadline);
    assert!(claims > 10, "{claims}");
    let error = acquisition.into_outcome().unwrap_err();
    assert!(
        matches!(error, AcquireError::Datastore(error) if error.kind() == ErrorKind::Unreachable)
    );
}

#[test]
fn a_last_claim_that_its_deadline_cut_short_does_not_hide_who_holds_the_lock() {
    for (left, is_held) in [(50, true), (200, false), (1500, false)] {
        let (plan, start) = plan(Some(Duration::from_secs(5)));
        let deadline = plan.deadline;
        let (mut acquisition, _) = Acquisition::start(plan, start);
        let _ = answered(&mut acquisition, start, start, held(TTL));
        let _ = acquisition.on(start, Event::Watched(false));
        let sent = deadline.saturating_sub(Duration::from_millis(left));
        let _ = acquisition.on(sent, Event::Woken);
        let reply = Err(DatastoreError::not_executed(ErrorKind::Timeout, "too late"));
        let action = acquisition.on(deadline, Event::Answered { sent, reply });
        assert!(matches!(action, Action::Finish), "{action:?}");
        assert_eq!(
            acquisition.into_outcome().unwrap_err().is_held(),
            is_held,
            "{left} ms left"
        );
    }
}

#[test]
fn a_cancelled_wait_ends_at_once_and_cleans_up_only_what_may_be_there() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan.clone(), now);
    let _ = answered(&mut acquisition, now, now, held(TTL));
    let _ = acquisition.on(now, Event::Watched(false));
    assert!(matches!(
        acquisition.on(now, Event::Cancelled),
        Action::Finish
    ));
    assert!(matches!(
        acquisition.into_outcome(),
        Err(AcquireError::Cancelled)
    ));

    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = answered(&mut acquisition, now, now, lost_reply());
    let _ = answered(&mut acquisition, now, now, lost_reply());
    let action = acquisition.on(now, Event::Cancelled);
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
fn the_mark_of_a_done_job_ends_only_a_wait_that_asks_for_it() {
    for (until_done, ends) in [(true, true), (false, false)] {
        let (plan, now) = plan(Some(Duration::from_secs(60)));
        let (mut acquisition, _) = Acquisition::start(Plan { until_done, ..plan }, now);
        let done = "dlock1 web-3 4121 00000000000000aa 1764000271000 done";
        let reply = Ok(AcquireOutcome::Held(HeldBy::new().with_holder_text(done)));
        let action = answered(&mut acquisition, now, now, reply);
        assert_eq!(matches!(action, Action::Finish), ends, "{action:?}");
    }
}

#[test]
fn a_waiter_with_a_wake_up_still_polls_after_an_error() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = answered(&mut acquisition, now, now, held(TTL));
    let _ = acquisition.on(now, Event::Watched(true));
    let reply = refused_connection();
    let action = answered(&mut acquisition, now, now, reply);
    let Action::Sleep {
        until,
        wakeable: true,
    } = action
    else {
        panic!("{action:?}")
    };
    assert!(
        until <= later(now, 10),
        "a store that cannot be reached wakes nobody: poll"
    );
}
