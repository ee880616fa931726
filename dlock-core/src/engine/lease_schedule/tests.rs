//! What the schedule of a lease decides, without a lease or a clock.

use super::*;
use crate::contract::error::ErrorKind;
use crate::contract::grant::Grant;
use proptest::prelude::*;

const TTL: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

fn policy() -> LeasePolicy {
    LeasePolicy {
        ttl: TTL,
        renew: true,
        grace: TTL / 6,
        min_hold: None,
        max_hold: None,
        ttl_min: Duration::from_secs(1),
        confirm_after: None,
        call_timeout: Duration::from_secs(2),
    }
}

fn confirming() -> LeasePolicy {
    LeasePolicy {
        confirm_after: Some(Duration::from_secs(1)),
        ..policy()
    }
}

/// Granted at second 0 for the time to live.
fn schedule(policy: &LeasePolicy) -> LeaseSchedule {
    LeaseSchedule::new(policy, at(0), at(30))
}

fn granted(ttl: Duration) -> Result<Extension, DatastoreError> {
    Ok(Extension::Extended(Grant::new(ttl)))
}

fn no_answer() -> Result<Extension, DatastoreError> {
    Err(DatastoreError::maybe_executed(
        ErrorKind::Timeout,
        "no answer",
    ))
}

#[test]
fn one_call_is_made_at_a_time() {
    let policy = policy();
    let mut schedule = schedule(&policy);
    assert_eq!(schedule.due(&policy, at(9)), (Due::Nothing, None));
    assert_eq!(schedule.next_look(&policy), at(10));
    assert_eq!(schedule.due(&policy, at(10)).0, Due::Call(Call::Extend));
    assert_eq!(schedule.due(&policy, at(11)), (Due::Nothing, None));
    assert_eq!(schedule.next_look(&policy), at(25), "the risk");
    let asked = schedule.send(&policy, at(11)).expect("time to ask for");
    let after = schedule.extended(&policy, (at(11), at(12)), asked, &granted(TTL));
    assert!(matches!(after, After::Valid(_)));
    let third = at(11).until(schedule.valid_until()) / 3;
    assert_eq!(schedule.next_look(&policy), at(11).saturating_add(third));
}

#[test]
fn an_extend_takes_the_place_of_a_confirmation_that_was_not_sent() {
    let policy = confirming();
    let mut waits = schedule(&policy);
    assert_eq!(waits.due(&policy, at(1)).0, Due::Call(Call::Confirm));
    let mut sent = waits.clone();
    assert_eq!(waits.due(&policy, at(10)).0, Due::Call(Call::Extend));
    assert!(!waits.send_confirm(), "the extend is in its place");
    // One that was sent is waited for.
    assert!(sent.send_confirm());
    assert_eq!(sent.due(&policy, at(10)).0, Due::Nothing);
    assert_eq!(sent.next_look(&policy), at(25));
    assert!(!sent.send_confirm(), "it is sent once");
}

#[test]
fn a_loss_is_declared_once_and_for_good() {
    let policy = policy();
    let mut schedule = schedule(&policy);
    assert_eq!(
        schedule.due(&policy, at(30)),
        (Due::Over, Some(Notice::Lost))
    );
    assert_eq!(schedule.due(&policy, at(30)), (Due::Over, None));
    assert_eq!(schedule.send(&policy, at(30)), None);
    let mut late = schedule.clone();
    let sent = (at(29), at(31));
    let after = late.extended(&policy, sent, TTL, &granted(TTL));
    assert_eq!(after, After::Orphaned);
    assert_eq!(late, schedule, "it does not revive");
    assert_eq!(late.extended(&policy, sent, TTL, &no_answer()), After::Gone);
    assert_eq!(late.confirmed(&policy, sent, &granted(TTL)), After::Gone);
}

#[test]
fn what_the_guard_has_let_go_is_neither_called_for_nor_lost() {
    let policy = confirming();
    let mut schedule = schedule(&policy);
    assert_eq!(schedule.due(&policy, at(1)).0, Due::Call(Call::Confirm));
    schedule.release();
    assert!(!schedule.send_confirm());
    assert_eq!(schedule.due(&policy, at(60)), (Due::Over, None));
    let sent = (at(1), at(2));
    assert_eq!(
        schedule.confirmed(&policy, sent, &granted(TTL)),
        After::Gone
    );
    let after = schedule.extended(&policy, sent, TTL, &Ok(Extension::Lost));
    assert_eq!(after, After::Gone);
    schedule.lose();
    assert_eq!(
        schedule.extended(&policy, sent, TTL, &granted(TTL)),
        After::Gone,
        "a release frees what it finds"
    );
}

#[test]
fn the_answer_lost_is_a_loss() {
    let policy = confirming();
    for confirms in [true, false] {
        let mut schedule = schedule(&policy);
        let (sent, lost) = ((at(1), at(2)), Ok(Extension::Lost));
        let after = match confirms {
            true => schedule.confirmed(&policy, sent, &lost),
            false => schedule.extended(&policy, sent, TTL, &lost),
        };
        assert_eq!(after, After::Lost);
        assert_eq!(schedule.due(&policy, at(2)), (Due::Over, None));
    }
}

#[test]
fn where_nothing_is_worth_asking_for_no_call_is_made_any_more() {
    let policy = LeasePolicy {
        max_hold: Some(Duration::from_secs(10)),
        ..confirming()
    };
    let mut schedule = schedule(&policy);
    assert_eq!(schedule.valid_until(), at(10));
    assert_eq!(schedule.due(&policy, at(4)).0, Due::Call(Call::Extend));
    assert_eq!(schedule.send(&policy, at(9)), Some(Duration::from_secs(1)));
    assert_eq!(
        schedule.send(&policy, at(9).saturating_add(Duration::from_nanos(1))),
        None
    );
    let notices = (schedule.due(&policy, at(9)), schedule.due(&policy, at(9)));
    assert_eq!(
        notices,
        ((Due::Nothing, Some(Notice::AtRisk)), (Due::Nothing, None))
    );
    assert_eq!(schedule.next_look(&policy), at(10));
}

#[test]
fn a_failed_confirmation_is_tried_again_and_a_failed_extend_too() {
    let policy = confirming();
    let mut schedule = schedule(&policy);
    let after = schedule.confirmed(&policy, (at(1), at(2)), &no_answer());
    assert_eq!(after, After::Valid(Duration::from_secs(28)));
    assert_eq!(
        schedule.next_look(&policy),
        at(3),
        "a second later at the latest"
    );
    schedule.extended(&policy, (at(10), at(12)), TTL, &no_answer());
    assert_eq!(schedule.renewal_lag(at(14)), Duration::from_secs(1));
}

/// What happens to a schedule.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Pass(u64),
    Send,
    /// An answer: the time to live that was granted, 0 for "lost", 255 for none.
    Answer(u8),
    Release,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        6 => (1u64..12).prop_map(Happens::Pass),
        4 => Just(Happens::Send),
        4 => prop_oneof![3 => 20u8..40, 1 => 0u8..20, 1 => Just(255)].prop_map(Happens::Answer),
        1 => Just(Happens::Release),
    ]
}

proptest! {
    /// Whatever happens in whatever order: one call at a time, one loss, no end after `max_hold`,
    /// and a timing thread that never spins.
    #[test]
    fn any_order_of_events_keeps_what_is_promised(
        events in prop::collection::vec(happens(), 1..60),
        renew in any::<bool>(),
        confirms in any::<bool>(),
        max_hold in prop::option::of(1u64..90),
    ) {
        let policy = LeasePolicy {
            renew,
            confirm_after: confirms.then_some(Duration::from_secs(1)),
            max_hold: max_hold.map(Duration::from_secs),
            ..policy()
        };
        let hold_end = max_hold.map_or(Time::MAX, at);
        let mut schedule = schedule(&policy);
        let (mut now, mut queued, mut under_way) = (at(0), None, None);
        let (mut losses, mut is_over) = (0, false);
        for event in events {
            match event {
                Happens::Pass(seconds) => {
                    now = now.saturating_add(Duration::from_secs(seconds));
                    let (due, notice) = schedule.due(&policy, now);
                    losses += usize::from(notice == Some(Notice::Lost));
                    match due {
                        Due::Call(call) => {
                            prop_assert!(!is_over && now < schedule.valid_until());
                            prop_assert_eq!(under_way, None, "one call at a time");
                            let replaces = queued == Some(Call::Confirm) && call == Call::Extend;
                            prop_assert!(queued.is_none() || replaces);
                            queued = Some(call);
                        }
                        Due::Nothing => {
                            prop_assert!(schedule.next_look(&policy) > now, "it would spin");
                        }
                        Due::Over => is_over = true,
                    }
                }
                Happens::Send => under_way = match queued.take() {
                    Some(Call::Extend) => {
                        let asked = schedule.send(&policy, now);
                        if let Some(asked) = asked {
                            let end = now.saturating_add(asked);
                            prop_assert!(asked <= TTL && end <= hold_end);
                        }
                        asked.map(|asked| (Call::Extend, now, asked))
                    }
                    Some(Call::Confirm) => {
                        schedule.send_confirm().then_some((Call::Confirm, now, TTL))
                    }
                    None => under_way,
                },
                Happens::Answer(seconds) => {
                    let Some((call, sent, asked)) = under_way.take() else { continue };
                    let answer = match seconds {
                        0 => Ok(Extension::Lost),
                        255 => no_answer(),
                        seconds => granted(Duration::from_secs(u64::from(seconds))),
                    };
                    let before = schedule.valid_until();
                    let after = match call {
                        Call::Extend => schedule.extended(&policy, (sent, now), asked, &answer),
                        Call::Confirm => schedule.confirmed(&policy, (sent, now), &answer),
                    };
                    let until = schedule.valid_until();
                    match after {
                        After::Valid(left) => {
                            prop_assert!(!is_over);
                            // Or the end has come and nobody has looked yet.
                            prop_assert_eq!(left, now.until(until));
                        }
                        After::Lost => {
                            prop_assert!(!is_over);
                            (losses, is_over) = (losses + 1, true);
                        }
                        After::Orphaned | After::Gone => prop_assert_eq!(until, before),
                    }
                    prop_assert!(call == Call::Extend || until <= before);
                }
                Happens::Release => {
                    schedule.release();
                    is_over = true;
                }
            }
            prop_assert!(schedule.valid_until() <= hold_end && losses <= 1);
        }
    }
}
