//! The bounds of the usual run, and mistakes that a property must show.

use super::functions::Mistake;
use super::world::{Bounds, Property, World};
use crate::explorer::{Explored, explore};

const MOST: usize = 200_000;

/// Two clients that claim once or twice.
const PLAIN: Bounds = Bounds {
    clients: 2,
    claims: 1,
    extends: 0,
    ticks: 3,
    ttl: 2,
    timeout: 1,
    slow: 2,
    losses: 0,
    aborts: 0,
    strangers: 0,
    checks: 0,
    mistake: Mistake::None,
};

fn explored(bounds: Bounds) -> Explored {
    explore(&World::new(bounds), MOST)
}

const AGAIN: Bounds = Bounds {
    claims: 2,
    ticks: 2,
    ttl: 1,
    slow: 0,
    ..PLAIN
};

/// A call may take so long that its lease is over by then.
const SLOW: Bounds = Bounds {
    timeout: 2,
    ..PLAIN
};

const EXTENDS: Bounds = Bounds {
    clients: 1,
    extends: 2,
    ticks: 4,
    strangers: 1,
    slow: 1,
    ..SLOW
};

const OLD_EXTENDS: Bounds = Bounds {
    losses: 1,
    strangers: 0,
    ticks: 3,
    ..EXTENDS
};

const CHECKS: Bounds = Bounds {
    checks: 1,
    ttl: 1,
    ticks: 2,
    slow: 0,
    ..PLAIN
};

const LOST: Bounds = Bounds {
    losses: 1,
    aborts: 1,
    slow: 1,
    ticks: 2,
    ..PLAIN
};

const GIVEN_UP: Bounds = Bounds {
    clients: 1,
    claims: 2,
    strangers: 1,
    slow: 1,
    ..PLAIN
};

macro_rules! scenarios {
    ($($name:ident: $bounds:expr,)+) => { $(
        #[test]
        fn $name() {
            let explored = explored($bounds);
            assert!(explored.broken.is_none(), "{explored}");
            assert!(explored.complete && explored.states > 500, "{explored}");
        }
    )+ };
}

scenarios! {
    claims_that_wait_for_each_other: PLAIN,
    claims_again_and_again: AGAIN,
    slow_claims: SLOW,
    extends_that_wait_for_another_transaction: EXTENDS,
    extends_that_come_late: OLD_EXTENDS,
    transactions_that_check_the_token: CHECKS,
    lost_answers_and_terminated_backends: LOST,
    claims_that_are_given_up_behind_another_transaction: GIVEN_UP,
}

macro_rules! shows {
    ($($name:ident: $property:ident by $mistake:ident in $bounds:expr,)+) => { $(
        #[test]
        fn $name() {
            let mistake = Mistake::$mistake;
            let explored = explored(Bounds { mistake, ..$bounds });
            let broken = explored.broken.expect("a mistake that nothing shows");
            let is_shown = broken.what.starts_with(&format!("{:?}", Property::$property));
            assert!(is_shown, "{}\n{}", broken.what, broken.trace);
        }
    )+ };
}

shows! {
    no_revival_shows_an_extend_that_reads_the_clock_first:
        NoRevival by ExtendReadsClockFirst in EXTENDS,
    nothing_old_shows_an_extend_that_ignores_the_sequence:
        NothingOld by SequenceIgnored in OLD_EXTENDS,
    nothing_late_shows_a_claim_that_reads_the_clock_first:
        NothingLate by ClaimReadsClockFirst in GIVEN_UP,
    nothing_late_shows_a_claim_that_is_granted_after_its_end:
        NothingLate by LateClaimGranted in GIVEN_UP,
    nothing_late_shows_an_insert_that_waited_too_long:
        NothingLate by LateInsertGranted in LOST,
    one_holder_shows_a_claim_that_locks_nothing:
        OneHolder by ClaimLocksNothing in AGAIN,
    tokens_rise_shows_a_token_that_is_drawn_first:
        TokensRise by FenceDrawnFirst in AGAIN,
    tokens_rise_shows_a_token_that_is_the_time_alone:
        TokensRise by FenceIsClock in AGAIN,
    nothing_left_shows_an_abandon_that_does_not_wait:
        NothingLeft by AbandonDoesNotWait in GIVEN_UP,
    nothing_left_shows_an_abandon_that_inserts_nothing:
        NothingLeft by AbandonInsertsNothing in GIVEN_UP,
    checks_hold_shows_a_claim_that_locks_little:
        ChecksHold by ClaimLocksLittle in CHECKS,
    checks_hold_shows_a_check_that_locks_nothing:
        ChecksHold by CheckLocksNothing in CHECKS,
    promise_kept_shows_a_release_by_key:
        PromiseKept by ReleaseByKey in SLOW,
}
