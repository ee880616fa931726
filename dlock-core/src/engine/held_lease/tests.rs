//! The decisions about a held lease, in virtual time.

use super::*;
use crate::contract::claim::Claim;
use crate::contract::error::ErrorKind;
use crate::contract::grant::{Grant, valid_until};
use crate::engine::lease_schedule::Call;
use crate::time::fake_clock::FakeClock;

const TTL: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

fn policy() -> LeasePolicy {
    LeasePolicy {
        ttl: TTL,
        renew: true,
        grace: TTL / 6,
        min_hold: None,
        max_hold: None,
        ttl_min: Duration::from_millis(10),
        confirm_after: None,
        call_timeout: Duration::from_secs(2),
    }
}

fn held(fake: &FakeClock, policy: LeasePolicy) -> HeldLease {
    let clock = fake.clock();
    let claim = Claim::new("dlock:x", &clock, SECOND).unwrap();
    let until = valid_until(clock.now(), policy.first_ttl());
    HeldLease::new(
        ProcessId::current(),
        Lease::new(claim, Grant::new(policy.first_ttl())),
        clock.now(),
        until,
        policy,
    )
}

/// Moves the clock and looks, as the timing thread does at each second.
fn run(fake: &FakeClock, held: &HeldLease, time: Duration) -> Vec<Call> {
    let mut calls = Vec::new();
    for _ in 0..time.as_secs() {
        fake.advance(SECOND);
        match held.due(fake.clock().now(), &mut Callbacks::default()) {
            Due::Call(call) => calls.push(call),
            Due::Nothing => {
                let next = held.next_look();
                assert!(next > fake.clock().now(), "the timing thread would spin");
            }
            Due::Over => {}
        }
    }
    calls
}

fn answer(held: &HeldLease, answer: &Result<Extension, DatastoreError>) -> After {
    let sent = held.clock.now();
    let (_, asked) = held.send(Room::WIDE).expect("something to ask for");
    held.extended(sent, asked, answer, &mut Callbacks::default())
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
fn a_lease_is_renewed_when_a_third_of_it_is_over() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    assert_eq!(run(&fake, &held, Duration::from_secs(9)), []);
    assert_eq!(run(&fake, &held, SECOND), [Call::Extend]);
    assert_eq!(run(&fake, &held, SECOND), [], "one call at a time");
    assert!(matches!(answer(&held, &granted(TTL)), After::Valid(_)));
    assert_eq!(run(&fake, &held, Duration::from_secs(11)), [Call::Extend]);
}

#[test]
fn without_renewal_a_lease_runs_out() {
    let fake = FakeClock::new();
    let held = held(
        &fake,
        LeasePolicy {
            renew: false,
            ..policy()
        },
    );
    assert_eq!(run(&fake, &held, TTL), []);
    assert!(held.look().0.is_zero());
}

#[test]
fn a_failed_renewal_is_tried_again_until_the_end_of_the_lease_and_no_longer() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    let mut tries = 0;
    for _ in 0..40 {
        if !run(&fake, &held, SECOND).is_empty() {
            tries += 1;
            answer(&held, &no_answer());
        }
    }
    assert!((15..=20).contains(&tries), "{tries}");
    assert!(held.look().0.is_zero() && held.send(Room::WIDE).is_none());
}

#[test]
fn a_renewal_that_fails_and_recovers_keeps_the_lease() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    for _ in 0..5 {
        while run(&fake, &held, SECOND).is_empty() {}
        assert!(matches!(answer(&held, &no_answer()), After::Valid(_)));
    }
    while run(&fake, &held, SECOND).is_empty() {}
    let After::Valid(left) = answer(&held, &granted(TTL)) else {
        panic!()
    };
    assert!(left > TTL - SECOND);
}

#[test]
fn a_call_ends_within_a_third_of_what_is_left() {
    let fake = FakeClock::new();
    let held = held(
        &fake,
        LeasePolicy {
            ttl: SECOND * 3,
            grace: SECOND,
            ..policy()
        },
    );
    fake.advance(SECOND * 2);
    let (lease, _) = held.send(Room::WIDE).unwrap();
    let left = held.look().0;
    assert!(
        lease.time_left() <= left / 3,
        "{:?} of {left:?}",
        lease.time_left()
    );
}

#[test]
fn calls_are_numbered_in_the_order_they_are_sent() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    let (first, _) = held.send(Room::WIDE).unwrap();
    let (second, _) = held.send(Room::WIDE).unwrap();
    let taken = held.take().unwrap();
    let third = held.number(&taken, Time::MAX);
    assert_eq!(
        [first.sequence(), second.sequence(), third.sequence()],
        [1, 2, 3]
    );
}

#[test]
fn the_answer_to_a_renewal_in_flight_is_ignored_after_the_release() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    let sent = fake.clock().now();
    let (_, asked) = held.send(Room::WIDE).unwrap();
    assert!(held.take().is_some());
    assert_eq!(
        held.extended(sent, asked, &granted(TTL), &mut Callbacks::default()),
        After::Gone
    );
    assert!(held.send(Room::WIDE).is_none());
}

#[test]
fn a_renewal_that_arrives_after_the_loss_must_be_released_and_does_not_revive() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    fake.advance(TTL - SECOND);
    let sent = fake.clock().now();
    let (_, asked) = held.send(Room::WIDE).unwrap();
    fake.advance(SECOND * 2);
    assert!(held.look().0.is_zero(), "the look declares the loss");
    assert_eq!(
        held.extended(sent, asked, &granted(TTL), &mut Callbacks::default()),
        After::Orphaned
    );
    assert!(held.look().0.is_zero(), "lost is final");
    let orphan = held
        .for_clean_up(None, Room::WIDE)
        .expect("the guard did not release it");
    assert_eq!((orphan.sequence(), orphan.time_left()), (2, SECOND * 2));
}

#[test]
fn what_the_store_calls_lost_is_lost_whatever_time_was_left() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    let now = fake.clock().now();
    let nothing = || Callback::new(|| {});
    assert!(held.on_lost(nothing()).is_none());
    let mut call = Callbacks::default();
    let after = held.extended(now, TTL, &Ok(Extension::Lost), &mut call);
    assert_eq!((after, call.len()), (After::Lost, 1));
    assert!(held.look().0.is_zero() && !held.was_valid(now));
    assert!(held.on_lost(nothing()).is_some() && held.on_at_risk(nothing()).is_some());
    assert!(matches!(
        held.due(now, &mut Callbacks::default()),
        Due::Over
    ));
    assert!(held.send(Room::WIDE).is_none());
}

#[test]
fn a_lease_is_valid_until_its_end_and_not_at_it() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    let end = held.until();
    assert!(held.was_valid(end.saturating_sub(Duration::from_nanos(1))));
    assert!(!held.was_valid(end));
}

#[test]
fn a_failed_renewal_is_tried_again_after_a_tenth_of_the_ttl() {
    let fake = FakeClock::new();
    let ttl = SECOND * 3;
    let grace = ttl / 6;
    let held = held(
        &fake,
        LeasePolicy {
            ttl,
            grace,
            ..policy()
        },
    );
    fake.advance(SECOND);
    assert!(matches!(answer(&held, &no_answer()), After::Valid(_)));
    assert_eq!(
        held.next_look(),
        fake.clock().now().saturating_add(ttl / 10)
    );
}

#[test]
fn max_hold_ends_the_lease_whatever_renewal_could_do() {
    let fake = FakeClock::new();
    let hold = Duration::from_secs(65);
    let held = held(
        &fake,
        LeasePolicy {
            max_hold: Some(hold),
            ..policy()
        },
    );
    let start = fake.clock().now();
    let mut asked_in_all = Duration::ZERO;
    for _ in 0..120 {
        if !run(&fake, &held, SECOND).is_empty() {
            assert!(asked_in_all < hold, "there is nothing more to ask for");
            let sent = fake.clock().now();
            let (_, asked) = held.send(Room::WIDE).unwrap();
            assert!(
                sent.saturating_add(asked) <= start.saturating_add(hold),
                "never beyond max_hold"
            );
            asked_in_all = start.until(sent.saturating_add(asked));
            held.extended(sent, asked, &granted(asked), &mut Callbacks::default());
        }
        assert!(held.until() <= start.saturating_add(hold));
    }
    assert_eq!(
        asked_in_all, hold,
        "the last extend asks for all that is left"
    );
}

#[test]
fn max_hold_shortens_the_first_grant() {
    let policy = LeasePolicy {
        max_hold: Some(SECOND),
        ..policy()
    };
    assert_eq!(policy.first_ttl(), SECOND);
}

#[test]
fn a_store_that_keeps_less_than_it_granted_shortens_the_lease_and_is_asked_at_once() {
    for renew in [true, false] {
        let fake = FakeClock::new();
        let start = fake.clock().now();
        let confirm_after = Some(Duration::from_millis(50));
        let held = held(
            &fake,
            LeasePolicy {
                confirm_after,
                renew,
                ..policy()
            },
        );
        assert_eq!(run(&fake, &held, SECOND), [Call::Confirm]);
        let sent = fake.clock().now();
        let after = held.confirmed(
            sent,
            &granted(Duration::from_secs(5)),
            &mut Callbacks::default(),
        );
        let After::Valid(left) = after else {
            panic!("{after:?}")
        };
        assert!(left <= Duration::from_secs(5));
        let Due::Call(Call::Extend) = held.due(sent, &mut Callbacks::default()) else {
            panic!("renew: {renew}")
        };
        let (_, asked) = held.send(Room::WIDE).unwrap();
        let granted = valid_until(start, TTL);
        let expected = if renew { TTL } else { sent.until(granted) };
        assert_eq!(asked, expected, "back to what was granted");
    }
}

#[test]
fn a_confirmation_never_lengthens_the_lease() {
    let fake = FakeClock::new();
    let held = held(
        &fake,
        LeasePolicy {
            confirm_after: Some(SECOND),
            ..policy()
        },
    );
    let before = held.until();
    fake.advance(SECOND);
    let now = fake.clock().now();
    held.confirmed(now, &granted(TTL * 10), &mut Callbacks::default());
    assert_eq!(held.until(), before);
    let due = held.due(now, &mut Callbacks::default());
    assert!(matches!(due, Due::Nothing), "nothing is to be restored");
}

#[test]
fn the_holder_is_notified_of_the_risk_before_the_loss_and_of_each_once() {
    let fake = FakeClock::new();
    let held = held(
        &fake,
        LeasePolicy {
            renew: false,
            ..policy()
        },
    );
    let nothing = || Callback::new(|| {});
    assert!(held.on_at_risk(nothing()).is_none());
    assert!(held.on_lost(nothing()).is_none());
    let told_after = |time| {
        fake.advance(time);
        let mut call = Callbacks::default();
        held.due(fake.clock().now(), &mut call);
        call.len()
    };
    assert_eq!(told_after(TTL - TTL / 6 - SECOND), 0);
    assert_eq!(told_after(SECOND), 1, "at risk");
    assert_eq!(told_after(SECOND), 0);
    assert_eq!(told_after(TTL / 6), 1, "lost");
    assert_eq!(told_after(SECOND), 0);
    assert!(
        held.on_lost(nothing()).is_some(),
        "who asks late is called at once"
    );
}

#[test]
fn a_release_calls_nobody() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    assert!(held.on_lost(Callback::new(|| {})).is_none());
    held.take();
    let mut call = Callbacks::default();
    assert!(matches!(held.due(fake.clock().now(), &mut call), Due::Over));
    fake.advance(TTL * 2);
    held.due(fake.clock().now(), &mut call);
    assert!(call.is_empty());
}

#[test]
fn what_is_left_of_min_hold_counts_from_the_grant_and_is_never_too_short_for_the_store() {
    let fake = FakeClock::new();
    let min_hold = Some(Duration::from_secs(300));
    let ttl_min = SECOND;
    let held = held(
        &fake,
        LeasePolicy {
            min_hold,
            ttl_min,
            ..policy()
        },
    );
    fake.advance(Duration::from_secs(100));
    assert_eq!(held.hold_left(), Some(Duration::from_secs(200)));
    fake.advance(Duration::from_millis(199_999));
    assert_eq!(held.hold_left(), Some(ttl_min));
    fake.advance(Duration::from_millis(1));
    assert_eq!(held.hold_left(), None);
}

#[test]
fn an_extend_counts_from_before_it_was_sent() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    fake.advance(SECOND * 10);
    let sent = fake.clock().now();
    let (_, asked) = held.send(Room::WIDE).unwrap();
    fake.advance(SECOND * 5);
    held.extended(sent, asked, &granted(TTL), &mut Callbacks::default());
    assert_eq!(held.until(), valid_until(sent, TTL));
}

#[test]
fn max_hold_ends_what_a_generous_store_granted() {
    let fake = FakeClock::new();
    let clock = fake.clock();
    let hold = SECOND * 40;
    let end = clock.now().saturating_add(hold);
    let claim = Claim::new("dlock:x", &clock, SECOND).unwrap();
    let until = valid_until(clock.now(), TTL * 10);
    let policy = LeasePolicy {
        max_hold: Some(hold),
        ..policy()
    };
    let held = HeldLease::new(
        ProcessId::current(),
        Lease::new(claim, Grant::new(TTL * 10)),
        clock.now(),
        until,
        policy,
    );
    assert!(held.until() <= end);
    let (_, asked) = held.send(Room::WIDE).unwrap();
    held.extended(
        clock.now(),
        asked,
        &granted(TTL * 10),
        &mut Callbacks::default(),
    );
    assert!(held.until() <= end);
}

#[test]
fn an_extend_takes_the_place_of_a_confirmation_that_waits() {
    let fake = FakeClock::new();
    let held = held(
        &fake,
        LeasePolicy {
            confirm_after: Some(SECOND),
            ..policy()
        },
    );
    assert_eq!(run(&fake, &held, SECOND * 2), [Call::Confirm]);
    assert_eq!(
        run(&fake, &held, SECOND * 9),
        [Call::Extend],
        "although nobody confirmed"
    );
    assert!(held.send_confirm(Room::WIDE).is_none());
    assert!(matches!(answer(&held, &granted(TTL)), After::Valid(_)));
    assert_eq!(
        run(&fake, &held, SECOND),
        [Call::Confirm],
        "the new grant's"
    );
    assert!(held.send_confirm(Room::WIDE).is_some() && held.send_confirm(Room::WIDE).is_none());
}

#[test]
fn the_risk_ends_with_a_renewal_and_can_come_again() {
    let fake = FakeClock::new();
    let held = held(&fake, policy());
    fake.advance(TTL - SECOND * 2);
    let notified = |held: &HeldLease| {
        assert!(held.on_at_risk(Callback::new(|| {})).is_none() || held.look().0 <= TTL / 6);
        let mut call = Callbacks::default();
        held.due(fake.clock().now(), &mut call);
        call.len()
    };
    assert_eq!(notified(&held), 1);
    assert!(matches!(answer(&held, &granted(TTL)), After::Valid(_)));
    assert_eq!(notified(&held), 0);
    fake.advance(TTL - SECOND * 2);
    assert_eq!(
        notified(&held),
        2,
        "the one that was not called before, and the new one"
    );
}
