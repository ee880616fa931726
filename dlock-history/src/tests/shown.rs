//! What a violation shows: its reader sees why.

use super::*;

/// The events of the only violation of `property`.
fn shown(property: Property, events: &[&[Event]]) -> Vec<Event> {
    let mut report = check(events);
    report.violations.retain(|v| v.property == property);
    assert_eq!(report.violations.len(), 1, "{report}");
    report.violations.remove(0).events
}

#[test]
fn two_holders_are_shown_with_how_they_ended_and_the_faults_of_the_seconds_before() {
    let before = 10_000;
    let [first, second] = [
        granted("a", before, before + 5, 10),
        granted("b", before + 500, before + 505, 11),
    ];
    let ends = [lost("b", before + 600), lost("a", before + TTL)];
    let faults = [
        fault(1000, before - 8001, Harm::None),
        fault(1000, before - 8000, Harm::None),
        fault(before + TTL, before + 3000, Harm::None),
        fault(before + TTL + 1, before + 3000, Harm::None),
    ];
    // Neither a fault nor what it is about.
    let beside = event("c", before - 10, before - 9, What::Refused { refusals: 1 });
    let pair = [first.clone(), second.clone()];
    let found = shown(Property::Exclusion, &[&pair, &[beside], &ends, &faults]);
    let [lost_b, lost_a] = ends;
    let [_, early, late, _] = faults;
    assert_eq!(found, [early, first, second, lost_b, lost_a, late]);
}

#[test]
fn a_key_that_stays_taken_is_shown_with_its_last_grant() {
    let calm = event("f", 2000, 2000, What::Calm { patience: ms(500) });
    let last = granted("b", 1100, 1105, 11);
    let lost = lost("b", 1900);
    // Asked for when the calm began, and received too late.
    let late = granted("c", 2000, 2600, 12);
    let history = [granted("a", 0, 5, 10), last.clone(), lost, calm.clone()];
    assert_eq!(
        shown(Property::Progress, &[&history, &[late]]),
        [last, calm]
    );
}

#[test]
fn what_shows_nothing_names_its_store() {
    let rules = Rules {
        grants: 1,
        ..Rules::default()
    };
    let report = History::of(vec![opened()]).check(&rules);
    assert_eq!(report.violations.len(), 1, "{report}");
    let place = (&*report.violations[0].store, &*report.violations[0].key);
    assert_eq!(place, ("s", "-"));
}
