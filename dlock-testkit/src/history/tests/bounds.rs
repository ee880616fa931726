//! Where a violation begins: what is in order to the instant, beside what just is not.

use super::*;

/// `a` with 10, and `b` that asked at `before` with `fence`, after an early release.
fn two_grants(before: u64, fence: u64) -> Vec<Event> {
    let release = released("a", 5, 6, End::Freed);
    let grants = [
        granted("a", 0, 5, 10),
        granted("b", before, before + 10, fence),
    ];
    [&grants[..], &release].concat()
}

#[test]
fn a_loss_within_the_noise_of_two_looks_is_no_early_one() {
    for (time, found) in [(TTL - 2, &[][..]), (TTL - 3, &[Property::Own])] {
        assert_eq!(
            violated(&[&[granted("a", 0, 5, 10), lost("a", time)]]),
            found
        );
    }
}

#[test]
fn a_release_by_a_third_counts_between_the_two_only() {
    let pair = [granted("a", 1200, 1205, 11), granted("b", 1500, 1505, 12)];
    for (time, found) in [
        (1100, Property::Exclusion),
        (1300, Property::Own),
        (1600, Property::Exclusion),
    ] {
        let third = released("c", time, time, End::Unknown);
        assert_eq!(
            violated(&[&pair, &[granted("c", 0, 5, 10)], &third]),
            [found]
        );
    }
}

#[test]
fn of_two_grants_at_one_instant_neither_was_first() {
    assert_eq!(violated(&[&two_grants(5, 9)]), NOTHING);
    assert_eq!(violated(&[&two_grants(6, 9)]), [Property::Fencing]);
}

#[test]
fn a_token_that_is_lower_than_any_before_is_found() {
    let third = [granted("c", 1100, 1110, 11)];
    assert_eq!(
        violated(&[&two_grants(6, 12), &third]),
        [Property::Fencing],
        "higher than the first, lower than the second"
    );
}

#[test]
fn a_resource_may_take_one_token_again() {
    let twice = [wrote("a", 10, 10, true), wrote("a", 20, 10, true)];
    assert_eq!(violated(&[&[granted("a", 0, 5, 10)], &twice]), NOTHING);
}

#[test]
fn a_write_that_ends_with_the_lease_may_be_refused() {
    for (time, found) in [(TTL - 1, &[][..]), (TTL - 2, &[Property::Resource])] {
        let refused = wrote("a", time, 10, false);
        assert_eq!(violated(&[&[granted("a", 0, 5, 10), refused]]), found);
    }
}

#[test]
fn a_key_may_be_granted_at_the_end_of_a_minimum_hold() {
    let mut first = granted("a", 0, 0, 10);
    if let What::Granted { min_hold, .. } = &mut first.what {
        *min_hold = ms(500);
    }
    // Granted and released at one instant, which makes nobody his own successor.
    let release = released("a", 0, 0, End::Freed);
    for (before, found) in [(490, &[][..]), (489, &[Property::MinHold])] {
        let next = granted("b", before, before + 10, 11);
        assert_eq!(violated(&[&[first.clone(), next], &release]), found);
    }
}

#[test]
fn a_job_may_run_at_the_instant_at_which_another_run_of_it_ends() {
    let ran = |actor, before| {
        let what = What::Ran {
            job: "j".to_owned(),
            keep: ms(5000),
            marked: true,
        };
        event(actor, before, before + 10, what)
    };
    for (second, found) in [(10, &[][..]), (11, &[Property::Once])] {
        assert_eq!(violated(&[&[ran("a", 0), ran("b", second)]]), found);
    }
}
