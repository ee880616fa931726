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

/// Of a store that may declare a lease shorter itself.
fn violated_where_confirmed(events: &[&[Event]]) -> Vec<Property> {
    let mut opened = opened();
    if let What::Opened { confirms, .. } = &mut opened.what {
        *confirms = true;
    }
    let mut all = vec![opened];
    all.extend(events.concat());
    let report = History::of(all).check(&Rules::default());
    report.violations.iter().map(|v| v.property).collect()
}

#[test]
fn a_release_by_a_third_counts_only_after_its_own_lease() {
    let holders = [
        granted("c", 0, 5, 10),
        granted("a", 310, 315, 11),
        granted("b", 450, 455, 12),
    ];
    let third = released("c", 400, 400, End::Unknown);
    let cut_short = [lost("c", 300)];
    assert_eq!(
        violated_where_confirmed(&[&holders, &cut_short, &third]),
        [Property::Own]
    );
    let found = violated_where_confirmed(&[&holders, &third]);
    assert_eq!(found, [Property::Exclusion; 2], "of c and a, of a and b");
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
    // What was not released is not kept.
    let next = granted("b", 300, 305, 11);
    let cut_short = [first, lost("a", 100), next];
    assert_eq!(violated_where_confirmed(&[&cut_short]), NOTHING);
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
    // A fault before both or after both excuses neither.
    let twice = [ran("a", 100), ran("b", 200)];
    for (before, after, found) in [
        (90, 99, &[Property::Once][..]),
        (90, 100, &[]),
        (200, 210, &[]),
        (201, 210, &[Property::Once]),
    ] {
        let fault = [fault(before, after, Harm::Loss)];
        assert_eq!(violated(&[&twice, &fault]), found);
    }
}
