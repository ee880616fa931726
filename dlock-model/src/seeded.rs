//! Deliberate mistakes, each of which a property must show.

use super::explored;
use super::memcache::Memcached;
use super::protocol::Protocol;
use super::queues::{behind_a_holder, copies_after_leases};
use super::redis::Redis;
use super::scenarios::{NO_FAULTS, plain, seconds};
use super::types::{Property, Seed};
use super::world::{Bounds, Faults};

/// More states than any of them needs.
const MOST: usize = 1_000_000;
/// No counterexample is longer.
const LONGEST: usize = 17;

/// Breaks the model, looks at one property, and expects it broken; with the mistake left out it
/// must hold as far.
pub(super) fn shows<P: Protocol>(property: Property, seed: Seed, bounds: &Bounds) {
    let properties = vec![property];
    let bounds = Bounds {
        properties,
        seed,
        ..bounds.clone()
    };
    let seeded = explored::<P>(&bounds, MOST);
    let Some(broken) = &seeded.broken else {
        panic!("{property:?} does not show {seed:?}: {seeded}")
    };
    assert!(
        broken.what.starts_with(&format!("{property:?}")),
        "{seeded}"
    );
    assert!(broken.steps <= LONGEST, "{seeded}");
    let sound = Bounds {
        seed: Seed::None,
        ..bounds
    };
    let sound = explored::<P>(&sound, seeded.states.max(1000));
    assert!(sound.broken.is_none(), "{sound}");
}

fn with(faults: Faults) -> Bounds {
    Bounds { faults, ..plain() }
}

#[test]
fn tokens_rise_shows_a_fence_without_counter() {
    let bounds = with(Faults {
        clock_back: 1,
        ..NO_FAULTS
    });
    shows::<Redis>(Property::TokensRise, Seed::FenceIsClock, &bounds);
}

#[test]
fn tokens_rise_shows_a_fence_without_clock() {
    let bounds = with(Faults {
        wipes: 1,
        ..NO_FAULTS
    });
    shows::<Redis>(Property::TokensRise, Seed::FenceIsCounter, &bounds);
}

#[test]
fn resource_is_safe_shows_a_resource_that_checks_nothing() {
    let bounds = Bounds {
        writes: true,
        ..plain()
    };
    shows::<Redis>(
        Property::ResourceIsSafe,
        Seed::ResourceChecksNothing,
        &bounds,
    );
    shows::<Memcached>(
        Property::ResourceIsSafe,
        Seed::ResourceChecksNothing,
        &bounds,
    );
}

#[test]
fn resource_is_safe_shows_tokens_that_repeat() {
    let bounds = Bounds {
        writes: true,
        ..with(Faults {
            wipes: 1,
            ..NO_FAULTS
        })
    };
    shows::<Redis>(Property::ResourceIsSafe, Seed::FenceIsCounter, &bounds);
}

#[test]
fn one_holder_shows_a_lease_without_margin_for_clocks() {
    let bounds = Bounds {
        renew: false,
        ..plain()
    };
    shows::<Redis>(Property::OneHolder, Seed::NoDriftMargin, &bounds);
}

#[test]
fn promise_kept_shows_a_repeated_claim_that_raises_nothing() {
    let bounds = Bounds {
        renew: false,
        ..with(Faults {
            losses: 1,
            lates: 1,
            ..NO_FAULTS
        })
    };
    shows::<Redis>(Property::PromiseKept, Seed::RepeatDoesNotRaise, &bounds);
}

#[test]
fn promise_kept_shows_calls_that_overtake_each_other() {
    let bounds = Bounds {
        clients: 1,
        min_hold: Some(seconds(6)),
        ticks: 7,
        ..with(Faults {
            losses: 1,
            lates: 1,
            ..NO_FAULTS
        })
    };
    shows::<Redis>(Property::PromiseKept, Seed::SequenceIgnored, &bounds);
}

#[test]
fn someone_can_acquire_shows_a_record_that_never_ends() {
    shows::<Redis>(
        Property::SomeoneCanAcquire,
        Seed::ExtendIsImmortal,
        &plain(),
    );
    shows::<Memcached>(
        Property::SomeoneCanAcquire,
        Seed::ExtendIsImmortal,
        &plain(),
    );
}

#[test]
fn strangers_are_safe_shows_a_release_of_whatever_is_there() {
    let bounds = Bounds {
        ticks: 6,
        ..with(Faults {
            pauses: 1,
            ..NO_FAULTS
        })
    };
    shows::<Redis>(Property::StrangersAreSafe, Seed::ReleaseByKey, &bounds);
}

#[test]
fn strangers_are_safe_shows_an_extend_of_whatever_is_there() {
    let bounds = with(Faults {
        lates: 2,
        ..NO_FAULTS
    });
    shows::<Redis>(Property::StrangersAreSafe, Seed::ExtendByKey, &bounds);
}

#[test]
fn one_ttl_at_most_shows_a_record_that_never_ends() {
    shows::<Redis>(Property::OneTtlAtMost, Seed::ExtendIsImmortal, &plain());
}

#[test]
fn nothing_left_shows_calls_that_are_carried_out_after_their_end() {
    let bounds = with(Faults {
        losses: 2,
        ..NO_FAULTS
    });
    shows::<Redis>(Property::NothingLeft, Seed::NotAfterIgnored, &bounds);
}

#[test]
fn nothing_left_shows_claims_that_are_not_abandoned() {
    let bounds = with(Faults {
        losses: 2,
        ..NO_FAULTS
    });
    shows::<Redis>(Property::NothingLeft, Seed::NoAbandon, &bounds);
    shows::<Memcached>(Property::NothingLeft, Seed::NoAbandon, &bounds);
}

#[test]
fn nothing_left_shows_a_claim_that_was_sent_twice_and_reported_once() {
    let bounds = Bounds {
        clients: 1,
        rounds: 2,
        ..with(Faults {
            losses: 1,
            ..NO_FAULTS
        })
    };
    shows::<Redis>(Property::NothingLeft, Seed::ResendUntold, &bounds);
}

#[test]
fn orphans_are_known_shows_a_process_that_forgets_what_it_gave_up() {
    let bounds = with(Faults {
        losses: 2,
        ..NO_FAULTS
    });
    shows::<Memcached>(Property::OrphansAreKnown, Seed::NotRemembered, &bounds);
}

#[test]
fn orphans_are_known_shows_a_lost_claim_that_is_forgotten_after_its_end() {
    let bounds = with(Faults {
        losses: 1,
        ..NO_FAULTS
    });
    shows::<Memcached>(
        Property::OrphansAreKnown,
        Seed::ForgottenAfterItsEnd,
        &bounds,
    );
}

#[test]
fn nobody_waits_for_ever_shows_a_dead_waiter_that_is_handed_the_lock_again_and_again() {
    let faults = Faults {
        crashes: 1,
        ..NO_FAULTS
    };
    let bounds = Bounds {
        renew: false,
        ..behind_a_holder(3, 3, faults)
    };
    shows::<Redis>(Property::NobodyWaitsForEver, Seed::NotDoubted, &bounds);
}

#[test]
fn nobody_waits_for_ever_shows_a_look_that_hands_nothing_over() {
    let bounds = behind_a_holder(
        3,
        2,
        Faults {
            crashes: 1,
            ..NO_FAULTS
        },
    );
    shows::<Redis>(
        Property::NobodyWaitsForEver,
        Seed::LookHandsNothingOver,
        &bounds,
    );
}

#[test]
fn nobody_waits_for_ever_shows_a_release_that_hands_nothing_on() {
    let bounds = behind_a_holder(2, 1, NO_FAULTS);
    shows::<Redis>(
        Property::NobodyWaitsForEver,
        Seed::ReleaseHandsNothingOn,
        &bounds,
    );
}

#[test]
fn nobody_waits_for_ever_shows_a_queue_that_is_not_marked() {
    let bounds = behind_a_holder(2, 1, NO_FAULTS);
    let bounds = Bounds {
        begun: false,
        ..bounds
    };
    shows::<Redis>(Property::NobodyWaitsForEver, Seed::QueueUnmarked, &bounds);
}

#[test]
fn nobody_waits_for_ever_shows_a_waiter_that_does_not_learn_that_it_left_the_queue() {
    let bounds = behind_a_holder(
        3,
        1,
        Faults {
            flushes: 1,
            ..NO_FAULTS
        },
    );
    shows::<Redis>(
        Property::NobodyWaitsForEver,
        Seed::GenerationIgnored,
        &bounds,
    );
}

#[test]
fn nothing_stays_shows_a_queue_without_end() {
    let bounds = behind_a_holder(
        2,
        1,
        Faults {
            crashes: 1,
            ..NO_FAULTS
        },
    );
    shows::<Redis>(Property::NothingStays, Seed::QueueIsImmortal, &bounds);
}

#[test]
fn nothing_stays_shows_a_leave_that_is_not_repeated() {
    let bounds = Bounds {
        waits: Some(seconds(1)),
        ..behind_a_holder(
            2,
            2,
            Faults {
                losses: 2,
                ..NO_FAULTS
            },
        )
    };
    shows::<Redis>(Property::NothingStays, Seed::LeaveNotRepeated, &bounds);
}

#[test]
fn nothing_stays_shows_a_late_copy_of_a_claim_that_won_and_lost() {
    let bounds = copies_after_leases();
    shows::<Redis>(Property::NothingStays, Seed::CopyStaysQueued, &bounds);
}

#[test]
fn promise_kept_shows_a_winner_that_leaves_the_queue_as_if_it_had_given_up() {
    let bounds = behind_a_holder(2, 1, NO_FAULTS);
    shows::<Redis>(Property::PromiseKept, Seed::LeaveAfterGrant, &bounds);
}

#[test]
fn promise_kept_shows_a_message_that_is_taken_for_a_lease() {
    let bounds = behind_a_holder(2, 1, NO_FAULTS);
    shows::<Redis>(Property::PromiseKept, Seed::MessageIsLease, &bounds);
}

#[test]
fn one_holder_shows_a_late_message_that_is_taken_for_a_lease() {
    let bounds = behind_a_holder(
        3,
        2,
        Faults {
            lates: 1,
            ..NO_FAULTS
        },
    );
    shows::<Redis>(Property::OneHolder, Seed::MessageIsLease, &bounds);
}
