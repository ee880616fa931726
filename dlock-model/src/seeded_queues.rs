//! Deliberate mistakes in what is made of dead waiters and old copies of the data, each of which a
//! property must show.

use super::queues::{and_a_loss, begins_with, behind_a_holder, dead_and_reached, old_data};
use super::redis::Redis;
use super::scenarios::{NO_FAULTS, seconds};
use super::seeded::shows;
use super::types::{Part, Property, Seed};
use super::world::{Bounds, Faults};

#[test]
fn nothing_for_the_dead_shows_that_nobody_looks_how_many_receive_a_message() {
    let bounds = dead_and_reached(2, 1);
    shows::<Redis>(Property::NothingForTheDead, Seed::ReceiversIgnored, &bounds);
}

#[test]
fn nobody_overtakes_shows_a_queue_of_which_only_the_first_is_looked_at() {
    let bounds = Bounds {
        rounds: 2,
        ..dead_and_reached(3, 1)
    };
    shows::<Redis>(
        Property::NobodyOvertakes,
        Seed::OnlyTheFirstLookedAt,
        &bounds,
    );
}

#[test]
fn nobody_waits_for_ever_shows_a_deaf_process_that_is_taken_for_dead() {
    let faults = Faults {
        unsubscribed: 1,
        ..NO_FAULTS
    };
    let bounds = behind_a_holder(2, 2, faults);
    shows::<Redis>(
        Property::NobodyWaitsForEver,
        Seed::UnsubscribedIsDead,
        &bounds,
    );
}

#[test]
fn nobody_waits_for_ever_shows_a_process_that_keeps_what_was_handed_to_an_unknown_waiter() {
    let bounds = begins_with(2, 3, Part::Queue);
    shows::<Redis>(Property::NobodyWaitsForEver, Seed::NotGivenBack, &bounds);
}

#[test]
fn promise_kept_shows_a_lock_that_is_given_back_after_its_claim() {
    let faults = Faults {
        lates: 1,
        ..NO_FAULTS
    };
    let bounds = behind_a_holder(2, 2, faults);
    shows::<Redis>(Property::PromiseKept, Seed::GivenBackClaimed, &bounds);
}

#[test]
fn nobody_waits_for_ever_shows_an_old_record_that_nobody_is_asked_about() {
    let bounds = begins_with(2, 5, Part::Lock);
    shows::<Redis>(Property::NobodyWaitsForEver, Seed::NobodyAsked, &bounds);
}

#[test]
fn promise_kept_shows_a_process_that_frees_what_it_does_not_wait_for() {
    let bounds = Bounds {
        ttl: seconds(3),
        ..behind_a_holder(3, 2, NO_FAULTS)
    };
    shows::<Redis>(Property::PromiseKept, Seed::UnknownIsReleased, &bounds);
}

#[test]
fn nobody_waits_for_ever_shows_waiters_that_do_not_learn_that_an_old_queue_lacks_them() {
    let bounds = Bounds {
        begun: false,
        ..old_data(3, 1, &[Part::Queue])
    };
    shows::<Redis>(Property::NobodyWaitsForEver, Seed::LastNotNamed, &bounds);
}

#[test]
fn tokens_rise_shows_a_claim_that_takes_the_token_of_an_old_fence() {
    let bounds = old_data(2, 1, &[Part::Fence]);
    shows::<Redis>(Property::TokensRise, Seed::HandedTokenNotDrawn, &bounds);
}

#[test]
fn tokens_rise_shows_a_claim_that_was_not_answered_and_takes_the_token_of_an_old_fence() {
    let bounds = and_a_loss(&[Part::Fence]);
    shows::<Redis>(Property::TokensRise, Seed::RepeatedTokenNotDrawn, &bounds);
}
