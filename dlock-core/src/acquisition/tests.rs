//! The decisions of an acquisition, in no time.

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

fn granted() -> Result<Attempt, DatastoreError> {
    Ok(Attempt::granted(TTL, crate::FencingToken::new(1)))
}

fn held(expires_in: Duration) -> Result<Attempt, DatastoreError> {
    Ok(Attempt::held(expires_in))
}

fn lost_reply() -> Result<Attempt, DatastoreError> {
    Err(DatastoreError::maybe_executed(
        ErrorKind::Timeout,
        "no answer",
    ))
}

fn refused_connection() -> Result<Attempt, DatastoreError> {
    Err(DatastoreError::not_executed(
        ErrorKind::Unreachable,
        "connection refused",
    ))
}

fn later(now: Time, millis: u64) -> Time {
    now.saturating_add(Duration::from_millis(millis))
}

#[test]
fn a_grant_is_valid_from_before_it_was_asked_for() {
    let (plan, now) = plan(None);
    let (mut acquisition, action) = Acquisition::start(plan, now);
    assert!(matches!(action, Action::Claim { fresh: false, .. }));
    let action = acquisition.on(
        later(now, 500),
        Event::Answered {
            sent: now,
            reply: granted(),
        },
    );
    assert!(matches!(action, Action::Finish));
    let until = acquisition.into_outcome().unwrap().until;
    assert_eq!(until, now.saturating_add(TTL - crate::drift(TTL)));
}

#[test]
fn who_only_tries_is_refused_after_one_claim() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let action = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(TTL),
        },
    );
    assert!(matches!(action, Action::Finish));
    assert!(acquisition.into_outcome().unwrap_err().is_held());
}

#[test]
fn a_lost_answer_is_asked_for_again_at_once_and_only_once() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let action = acquisition.on(
        later(now, 1),
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    assert!(
        matches!(action, Action::Claim { fresh: false, .. }),
        "the same token: {action:?}"
    );
    assert!(acquisition.needs_abandon());
    let action = acquisition.on(
        later(now, 2),
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    let Action::Sleep {
        until,
        wakeable: false,
    } = action
    else {
        panic!("{action:?}")
    };
    assert_eq!(until, later(now, 2000), "the lost request's end");
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
fn an_answer_that_is_lost_at_the_deadline_is_not_asked_for_again() {
    let (plan, now) = plan(None);
    let deadline = plan.deadline;
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let reply = lost_reply();
    let action = acquisition.on(deadline, Event::Answered { sent: now, reply });
    assert!(matches!(action, Action::Abandon), "{action:?}");
}

#[test]
fn a_refusal_after_a_lost_answer_does_not_prove_that_the_request_is_dead() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    let action = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(TTL),
        },
    );
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
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    let action = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: granted(),
        },
    );
    assert!(matches!(action, Action::Finish) && !acquisition.needs_abandon());
}

#[test]
fn a_winner_learns_of_a_copy_that_the_store_sent_before() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let grant = Grant::new(TTL).with_copy_to_follow(true);
    let reply = Ok(Attempt::Granted(grant));
    assert!(matches!(
        acquisition.on(now, Event::Answered { sent: now, reply }),
        Action::Finish
    ));
    assert_eq!(
        acquisition.into_outcome().unwrap().lost_request,
        Some(later(now, 2000))
    );
}

#[test]
fn a_grant_that_arrives_after_its_end_is_released_and_reported_as_a_timeout() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let late = now.saturating_add(TTL);
    let action = acquisition.on(
        late,
        Event::Answered {
            sent: now,
            reply: granted(),
        },
    );
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
    let _ = acquisition.on(
        late,
        Event::Answered {
            sent: now,
            reply: granted(),
        },
    );
    let action = acquisition.on(late, Event::Undone);
    assert!(
        matches!(action, Action::Claim { fresh: true, .. }),
        "{action:?}"
    );
    let action = acquisition.on(
        late,
        Event::Answered {
            sent: late,
            reply: granted(),
        },
    );
    assert!(matches!(action, Action::Finish));
    assert!(acquisition.into_outcome().is_ok());
}

#[test]
fn a_waiter_does_not_start_over_at_its_deadline() {
    let (plan, now) = plan(Some(TTL));
    let deadline = plan.deadline;
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let reply = granted();
    let action = acquisition.on(deadline, Event::Answered { sent: now, reply });
    assert!(matches!(action, Action::Discard(_)), "{action:?}");
    let action = acquisition.on(deadline, Event::Undone);
    assert!(matches!(action, Action::Finish), "{action:?}");
}

#[test]
fn a_waiter_claims_again_after_it_asked_to_be_woken() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let action = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(TTL),
        },
    );
    assert!(matches!(action, Action::Watch));
    let action = acquisition.on(now, Event::Watched(true));
    assert!(
        matches!(action, Action::Claim { .. }),
        "the key may have become free in between"
    );
    let action = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(TTL),
        },
    );
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
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(soon),
        },
    );
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
        next: retry.initial,
        max: retry.max,
        random: 7,
    };
    let mut full = retry.initial;
    for _ in 0..40 {
        let pause = pauses.draw();
        assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
        full = (full * 2).min(retry.max);
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
    // The start of the sequence from 1, as it is commonly quoted.
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
                acquisition.on(
                    now,
                    Event::Answered {
                        sent: now,
                        reply: refused_connection(),
                    },
                )
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
        let _ = acquisition.on(
            start,
            Event::Answered {
                sent: start,
                reply: held(TTL),
            },
        );
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
fn an_error_that_repeating_cannot_mend_ends_the_wait() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let reply = Err(DatastoreError::not_executed(
        ErrorKind::ForeignKey,
        "a list",
    ));
    assert!(matches!(
        acquisition.on(now, Event::Answered { sent: now, reply }),
        Action::Finish
    ));
}

#[test]
fn a_cancelled_wait_ends_at_once_and_cleans_up_only_what_may_be_there() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan.clone(), now);
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(TTL),
        },
    );
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
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
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
fn a_late_grant_after_a_lost_answer_is_undone_for_good_before_a_new_token_is_drawn() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    let short = Ok(Attempt::granted(
        Duration::from_millis(300),
        crate::FencingToken::new(1),
    ));
    let action = acquisition.on(
        later(now, 400),
        Event::Answered {
            sent: now,
            reply: short,
        },
    );
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
fn a_second_lost_answer_is_asked_for_again_if_there_was_an_answer_in_between() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(TTL),
        },
    );
    let _ = acquisition.on(now, Event::Watched(false));
    let _ = acquisition.on(later(now, 10), Event::Woken);
    let action = acquisition.on(
        later(now, 10),
        Event::Answered {
            sent: now,
            reply: lost_reply(),
        },
    );
    assert!(
        matches!(action, Action::Claim { fresh: false, .. }),
        "{action:?}"
    );
}

#[test]
fn a_grant_that_arrives_just_at_its_end_is_none() {
    let (plan, now) = plan(None);
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let end = valid_until(now, TTL);
    let reply = granted();
    let action = acquisition.on(end, Event::Answered { sent: now, reply });
    assert!(matches!(action, Action::Discard(_)), "{action:?}");
}

#[test]
fn only_the_wait_for_a_mark_ends_with_what_is_done() {
    for (until_done, ends) in [(true, true), (false, false)] {
        let (plan, now) = plan(Some(Duration::from_secs(60)));
        let (mut acquisition, _) = Acquisition::start(Plan { until_done, ..plan }, now);
        let done = "dlock1 web-3 4121 00000000000000aa 1764000271000 done";
        let reply = Ok(Attempt::Held(Held::new().with_holder_text(done)));
        let action = acquisition.on(now, Event::Answered { sent: now, reply });
        assert_eq!(matches!(action, Action::Finish), ends, "{action:?}");
    }
}

#[test]
fn who_is_woken_after_an_error_pauses_before_the_next_claim_fails_too() {
    let (plan, now) = plan(Some(Duration::from_secs(60)));
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let _ = acquisition.on(
        now,
        Event::Answered {
            sent: now,
            reply: held(TTL),
        },
    );
    let _ = acquisition.on(now, Event::Watched(true));
    let reply = refused_connection();
    let action = acquisition.on(now, Event::Answered { sent: now, reply });
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

/// The lost copy may have won meanwhile, and a store wakes nobody for a grant that it takes for known.
#[test]
fn a_queued_waiter_asks_again_when_the_time_of_a_lost_claim_is_over() {
    let (plan, now) = plan(Some(Duration::from_secs(3600)));
    let call_timeout = plan.call_timeout;
    let (mut acquisition, _) = Acquisition::start(plan, now);
    let answered = |sent, reply| Event::Answered { sent, reply };
    let queued = || {
        let held = Held::new().with_expires_in(TTL);
        Ok(Attempt::Held(held.with_retry_in(Duration::from_secs(1800))))
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
    assert!(until <= later(lost_until, 10), "the copy may come just now");

    let action = acquisition.on(until, Event::Woken);
    assert!(matches!(action, Action::Claim { .. }));
    let Action::Sleep { until, .. } = acquisition.on(until, answered(until, queued())) else {
        panic!("it waits")
    };
    assert_eq!(
        until,
        later(lost_until, 1 + 1_800_000),
        "as long as it was told"
    );
}
