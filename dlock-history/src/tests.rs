//! Histories made by hand: each property has at least one that violates it.

use std::time::Duration;

use dlock_core::Time;

use crate::{End, Event, Harm, History, Property, Report, Rules, What};

mod bounds;
mod declared;
mod dropped;
mod outside;
mod shown;
mod waiting;

const TTL: u64 = 1000;
const GRANULARITY: u64 = 100;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Time {
    Time::from_nanos(1_000_000_000_000).saturating_add(ms(millis))
}

fn event(actor: &str, before: u64, after: u64, what: What) -> Event {
    let store_wide = matches!(
        what,
        What::Fault { .. } | What::Calm { .. } | What::Opened { .. }
    );
    Event {
        actor: actor.into(),
        before: at(before),
        after: at(after),
        store: "s".into(),
        key: if store_wide { "-" } else { "k" }.into(),
        what,
    }
}

fn opened() -> Event {
    let what = What::Opened {
        granularity: ms(GRANULARITY),
        fenced: true,
        confirms: false,
        wakes: true,
    };
    event("a", 0, 0, what)
}

/// Granted to `actor` as holding 0: asked for at `before`, received at `after`, for [`TTL`] from
/// `before`.
fn granted(actor: &str, before: u64, after: u64, fence: u64) -> Event {
    numbered(actor, 0, before, after, fence)
}

fn numbered(actor: &str, holding: u64, before: u64, after: u64, fence: u64) -> Event {
    let what = What::Granted {
        holding,
        fence: Some(fence),
        ttl: ms(TTL),
        until: at(before + TTL),
        refusals: 0,
        min_hold: Duration::ZERO,
    };
    event(actor, before, after, what)
}

fn released(actor: &str, before: u64, after: u64, end: End) -> [Event; 2] {
    let (holding, begin) = (0, What::Releasing { holding: 0 });
    [
        event(actor, before, before, begin),
        event(actor, before, after, What::Released { holding, end }),
    ]
}

fn lost(actor: &str, time: u64) -> Event {
    event(actor, time, time, What::Lost { holding: 0 })
}

fn wrote(actor: &str, time: u64, token: u64, accepted: bool) -> Event {
    let what = What::Wrote {
        holding: 0,
        token,
        accepted,
    };
    event(actor, time, time + 1, what)
}

fn fault(before: u64, after: u64, harm: Harm) -> Event {
    let name = "some".to_owned();
    event("f", before, after, What::Fault { name, harm })
}

fn check(events: &[&[Event]]) -> Report {
    let mut all = vec![opened()];
    all.extend(events.concat());
    History::of(all).check(&Rules::default())
}

/// What is violated, each once.
fn violated(events: &[&[Event]]) -> Vec<Property> {
    let report = check(events);
    let mut found: Vec<_> = report.violations.iter().map(|v| v.property).collect();
    found.sort();
    found.dedup();
    // A reader must be able to understand it.
    assert_eq!(found.is_empty(), report.violations.is_empty(), "{report}");
    found
}

const NOTHING: [Property; 0] = [];

#[test]
fn a_good_history_passes() {
    let patience = ms(500);
    let report = check(&[
        &[granted("a", 0, 5, 10), wrote("a", 6, 10, true)],
        &released("a", 100, 110, End::Freed),
        // Received before the release was answered, which is how it is.
        &[granted("b", 101, 108, 11), wrote("b", 120, 11, true)],
        // A zombie's write, and the refusal that it is owed.
        &[wrote("a", 130, 10, false)],
        &[event(
            "b",
            900,
            901,
            What::Extended {
                holding: 0,
                until: at(1900),
            },
        )],
        // Not renewed any more: ends by itself, and is found lost later.
        &[lost("b", 2500), granted("c", 1910, 1920, 12)],
        &released("c", 2000, 2001, End::Freed),
        &[
            fault(2100, 2200, Harm::None),
            event("f", 2300, 2300, What::Calm { patience }),
            granted("d", 2400, 2401, 13),
        ],
    ]);
    assert!(report.violations.is_empty(), "{report}");
    let figures = &report.figures;
    assert_eq!((figures.grants, figures.lost, figures.extended), (4, 1, 1));
    assert_eq!((figures.writes, figures.writes_refused), (2, 1));
    assert_eq!(figures.faults["some"], 1);
    assert_eq!(figures.excused_overlaps + figures.excused_losses, 0);
    assert_eq!(report.fences[&("s".into(), "k".into())], 13);
}

#[test]
fn two_believed_leases_that_overlap_are_found() {
    for second in [
        granted("b", 900, 905, 11),
        // Hidden by a third that was over before.
        granted("b", 700, 705, 11),
    ] {
        let third = [granted("c", 650, 651, 12), lost("c", 652)];
        let found = violated(&[&[granted("a", 0, 5, 10), second], &third]);
        assert!(found.contains(&Property::Exclusion), "{found:?}");
    }
    // An extended lease counts to its new end.
    let until = at(1900);
    let extended = event("a", 900, 901, What::Extended { holding: 0, until });
    let events = [granted("a", 0, 5, 10), granted("b", 1500, 1505, 11)];
    assert_eq!(violated(&[&events]), NOTHING);
    assert_eq!(violated(&[&events, &[extended]]), [Property::Exclusion]);
}

#[test]
fn a_lease_ends_with_its_release_its_loss_or_when_it_was_shortened() {
    let pair = [granted("a", 0, 5, 10), granted("b", 500, 505, 11)];
    assert_eq!(violated(&[&pair]), [Property::Exclusion]);
    let release = released("a", 490, 600, End::Unknown);
    assert_eq!(violated(&[&pair, &release]), NOTHING);
    let late = released("a", 510, 600, End::Freed);
    assert_eq!(violated(&[&pair, &late]), [Property::Exclusion]);
    let until = at(480);
    let shortened = event("a", 100, 101, What::Shortened { holding: 0, until });
    assert_eq!(violated(&[&pair, &[shortened]]), NOTHING);
}

#[test]
fn an_overlap_is_excused_by_a_loss_of_data_for_one_time_to_live_and_no_longer() {
    let extended = |actor, time, until| {
        let until = at(until);
        event(actor, time, time + 1, What::Extended { holding: 0, until })
    };
    for harm in [Harm::Loss, Harm::Clock] {
        let events = [
            granted("a", 0, 5, 10),
            granted("b", 500, 505, 11),
            fault(400, 410, harm),
        ];
        let report = check(&[&events]);
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!(report.figures.excused_overlaps, 1);
        // What may have been renewed before the loss is excused to its end; what was renewed after
        // it has no excuse, however long the first grant was for.
        let longest = 410 + TTL + GRANULARITY;
        let second = extended("b", 1400, 2400);
        for (until, found) in [(longest, &[][..]), (longest + 1, &[Property::Exclusion])] {
            let first = extended("a", 415, until);
            assert_eq!(violated(&[&events, &[first, second.clone()]]), found);
        }
    }
    // Not what was before the fault, not what was granted to both after it, and not by a fault that
    // loses nothing.
    for fault in [
        fault(600, 610, Harm::Loss),
        fault(400, 410, Harm::None),
        Event {
            store: "other".into(),
            ..fault(400, 410, Harm::Loss)
        },
    ] {
        let pair = [granted("a", 0, 5, 10), granted("b", 500, 505, 11)];
        assert_eq!(violated(&[&pair, &[fault]]), [Property::Exclusion]);
    }
    let after = [
        fault(400, 410, Harm::Loss),
        granted("a", 420, 425, 10),
        granted("b", 500, 505, 11),
    ];
    assert_eq!(violated(&[&after]), [Property::Exclusion]);
}

#[test]
fn a_lease_that_is_longer_than_was_asked_for_is_found_and_excused_to_its_own_end() {
    let grant = |until| {
        let mut first = granted("a", 0, 5, 10);
        if let What::Granted { until: end, .. } = &mut first.what {
            *end = at(until);
        }
        first
    };
    let longest = 5 + TTL + GRANULARITY;
    assert_eq!(violated(&[&[grant(longest)]]), NOTHING);
    assert_eq!(violated(&[&[grant(longest + 1)]]), [Property::Length]);
    let until = at(500 + TTL + GRANULARITY + 1);
    let extended = event("a", 490, 500, What::Extended { holding: 0, until });
    assert_eq!(
        violated(&[&[granted("a", 0, 5, 10), extended]]),
        [Property::Length]
    );
    // The loss of data that breaks it is none of its holder's fault.
    let broken = [
        grant(3000),
        fault(400, 410, Harm::Loss),
        granted("b", 1000, 1005, 11),
        lost("a", 1900),
    ];
    assert_eq!(violated(&[&broken]), [Property::Length]);
}

#[test]
fn a_lease_that_is_lost_before_its_end_is_found() {
    let early = [granted("a", 0, 5, 10), lost("a", 500)];
    assert_eq!(violated(&[&early]), [Property::Own]);
    let by_release = released("a", 400, 500, End::Lost);
    assert_eq!(
        violated(&[&[granted("a", 0, 5, 10)], &by_release]),
        [Property::Own]
    );
    let in_time = [granted("a", 0, 5, 10), lost("a", 1000)];
    assert_eq!(violated(&[&in_time]), NOTHING);
    let report = check(&[&early, &[fault(300, 310, Harm::Loss)]]);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.excused_losses, 1);
}

#[test]
fn a_store_that_confirms_may_cut_a_lease_short_but_not_deny_it() {
    let mut opened = opened();
    if let What::Opened { confirms, .. } = &mut opened.what {
        *confirms = true;
    }
    let early = vec![opened, granted("a", 0, 5, 10), lost("a", 500)];
    let report = History::of(early.clone()).check(&Rules::default());
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.cut_short, 1);
    // Of another lease, by another process, or later: no reason for this loss.
    for (actor, fence, time, found) in [
        ("a", 10, 490, 1),
        ("a", 9, 490, 0),
        ("b", 10, 490, 0),
        ("a", 10, 600, 0),
    ] {
        let fence = Some(fence);
        let mut events = early.clone();
        events.push(event(actor, time, time + 1, What::Denied { fence }));
        let report = History::of(events).check(&Rules::default());
        assert_eq!(report.violations.len(), found, "{report}");
    }
}

#[test]
fn a_release_by_a_loser_that_frees_the_other_s_lock_is_found() {
    let loser = [granted("a", 0, 5, 10)];
    let late = released("a", 1500, 1510, End::Lost);
    let others = [granted("b", 1200, 1205, 11), granted("c", 1520, 1525, 12)];
    assert_eq!(violated(&[&loser, &late, &others]), [Property::Own]);
    let text = check(&[&loser, &late, &others]).to_string();
    assert!(text.contains("after a release by a third"), "{text}");
}

#[test]
fn tokens_that_do_not_rise_are_found_and_never_excused() {
    let first = [granted("a", 0, 5, 10)];
    let release = released("a", 10, 20, End::Freed);
    for fence in [9, 10] {
        let second = [
            fault(25, 26, Harm::Loss),
            granted("b", 30, 40, fence),
            lost("b", 1200),
        ];
        assert_eq!(violated(&[&first, &release, &second]), [Property::Fencing]);
    }
    // Which of two concurrent grants was first is not known.
    let concurrent = [granted("b", 4, 40, 9)];
    assert_eq!(violated(&[&first, &release, &concurrent]), NOTHING);
    let mut none = granted("b", 30, 40, 0);
    if let What::Granted { fence, .. } = &mut none.what {
        *fence = None;
    }
    assert_eq!(violated(&[&first, &release, &[none]]), [Property::Fencing]);
}

#[test]
fn tokens_rise_from_one_history_to_the_next() {
    let first = check(&[&[granted("a", 0, 5, 10)]]);
    let rules = Rules {
        fences: first.fences,
        ..Rules::default()
    };
    for (fence, violations) in [(10, 1), (11, 0)] {
        let next = History::of(vec![opened(), granted("a", 2000, 2005, fence)]).check(&rules);
        assert_eq!(next.violations.len(), violations, "{next}");
    }
    // Also past a history that knows nothing of the key.
    let between = History::of(vec![opened()]).check(&rules);
    assert_eq!(between.fences, rules.fences);
}

#[test]
fn a_resource_that_takes_a_lower_token_is_found() {
    let leases = [granted("a", 0, 5, 10), granted("b", 1100, 1105, 11)];
    let good = [wrote("b", 1200, 11, true), wrote("a", 1300, 10, false)];
    assert_eq!(violated(&[&leases, &good]), NOTHING);
    let bad = [wrote("b", 1200, 11, true), wrote("a", 1300, 10, true)];
    assert_eq!(violated(&[&leases, &bad]), [Property::Resource]);
}

#[test]
fn a_valid_holder_whose_write_is_refused_is_found() {
    let refused = [granted("a", 0, 5, 10), wrote("a", 500, 10, false)];
    assert_eq!(violated(&[&refused]), [Property::Resource]);
    let report = check(&[&refused, &[fault(300, 310, Harm::Loss)]]);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.excused_losses, 1);
}

#[test]
fn a_minimum_hold_that_is_not_kept_is_found() {
    let mut first = granted("a", 0, 5, 10);
    if let What::Granted { min_hold, .. } = &mut first.what {
        *min_hold = ms(500);
    }
    let release = released("a", 100, 110, End::Freed);
    for (before, found) in [(300, &[Property::MinHold][..]), (495, &[])] {
        let next = granted("b", before, before + 10, 11);
        assert_eq!(violated(&[&[first.clone(), next], &release]), found);
    }
    let lost_data = [granted("b", 300, 305, 11), fault(200, 210, Harm::Loss)];
    let report = check(&[&[first], &release, &lost_data]);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.excused_others, 1);
}

#[test]
fn a_job_that_runs_again_after_it_was_done_is_found() {
    let ran = |actor, before, marked| {
        let what = What::Ran {
            job: "j".to_owned(),
            keep: ms(5000),
            marked,
        };
        event(actor, before, before + 10, what)
    };
    assert_eq!(
        violated(&[&[ran("a", 0, true), ran("b", 100, true)]]),
        [Property::Once]
    );
    for second in [ran("b", 100, true), ran("b", 5000, true)] {
        let marked = second.before >= at(5000);
        assert_eq!(violated(&[&[ran("a", 0, marked), second]]), NOTHING);
    }
    let excused = [
        ran("a", 0, true),
        fault(50, 51, Harm::Loss),
        ran("b", 100, true),
    ];
    let report = check(&[&excused]);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.excused_others, 1);
}

#[test]
fn a_key_that_stays_taken_when_the_faults_are_over_is_found() {
    let patience = ms(500);
    let calm = event("f", 2000, 2000, What::Calm { patience });
    let other_key = Event {
        key: "other".into(),
        ..granted("b", 2100, 2105, 11)
    };
    for again in [2400, 2600] {
        let events = [granted("a", 0, 5, 10), calm.clone(), other_key.clone()];
        let late = granted("b", again, again + 5, 12);
        let mark = Event {
            key: "mark".into(),
            ..event("a", 30, 31, What::Denied { fence: None })
        };
        let found = violated(&[&events, &[late, mark]]);
        assert_eq!(found.is_empty(), again == 2400, "{found:?}");
    }
}

#[test]
fn a_history_in_which_nothing_happened_is_found() {
    let calm = What::Calm { patience: ms(500) };
    let refused = What::Refused { refusals: 1 };
    let events = vec![
        opened(),
        granted("a", 0, 5, 10),
        event("b", 1, 2, refused),
        fault(3, 4, Harm::None),
        event("f", 10, 10, calm),
        numbered("a", 1, 1200, 1201, 11),
    ];
    let enough = Rules {
        grants: 2,
        contended: 1,
        faults: 1,
        calm: true,
        ..Rules::default()
    };
    let report = History::of(events.clone()).check(&enough);
    assert_eq!(report.violations.len(), 1, "not acquired in time: {report}");
    for missing in 0..events.len() {
        let mut events = events.clone();
        events.remove(missing);
        let report = History::of(events).check(&enough);
        let vacuous = |v: &super::Violation| v.property == Property::NotVacuous;
        assert_eq!(
            report.violations.iter().any(vacuous),
            missing > 0,
            "{report}"
        );
    }
}
