//! Histories of waiters.

use super::*;

fn queued(actor: &str, waiter: u64, time: u64) -> Event {
    event(actor, time, time + 1, What::Queued { waiter })
}

/// The claim of a waiter that was granted, as the store's witness and the recorder record it.
fn served(actor: &str, waiter: u64, time: u64, fence: u64) -> [Event; 2] {
    [
        event(actor, time, time + 1, What::Served { waiter }),
        numbered(actor, fence, time, time + 2, fence),
    ]
}

/// The release of what was granted under this token.
fn freed(actor: &str, time: u64, fence: u64) -> [Event; 2] {
    let (holding, end) = (fence, End::Freed);
    [
        event(actor, time, time, What::Releasing { holding }),
        event(actor, time, time + 1, What::Released { holding, end }),
    ]
}

fn left(actor: &str, waiter: u64, time: u64) -> Event {
    event(actor, time, time + 1, What::Left { waiter })
}

/// `a` holds, `b` and later `c` queue, and `c` is served before `b`.
fn overtaken() -> Vec<Event> {
    [
        &[
            granted("a", 0, 5, 10),
            queued("b", 0, 20),
            queued("c", 0, 40),
        ][..],
        &released("a", 100, 101, End::Freed),
        &served("c", 0, 101, 11),
        &freed("c", 120, 11),
        &served("b", 0, 121, 12),
    ]
    .concat()
}

#[test]
fn who_is_served_before_one_who_waited_already_is_found() {
    let report = check(&[&overtaken()]);
    assert_eq!(report.violations.len(), 1, "{report}");
    assert_eq!(report.violations[0].property, Property::Order);
    assert_eq!((report.figures.queued, report.figures.served), (2, 2));
    assert_eq!(report.figures.turns, 2);
    // Also if that one goes without in the end.
    let mut events = overtaken();
    events.truncate(events.len() - 2);
    assert_eq!(
        violated(&[&events, &[left("b", 0, 300)]]),
        [Property::Order]
    );
}

#[test]
fn an_order_that_is_kept_or_not_known_passes() {
    let in_turn = [
        &[
            granted("a", 0, 5, 10),
            queued("b", 0, 20),
            queued("c", 0, 40),
        ][..],
        &released("a", 100, 101, End::Freed),
        &served("b", 0, 101, 11),
        &freed("b", 120, 11),
        &served("c", 0, 121, 12),
    ];
    assert_eq!(violated(&[&in_turn.concat()]), NOTHING);
    for (place, event) in [
        // It began to wait at the same time.
        (1, queued("b", 0, 40)),
        // It had given up.
        (6, left("b", 0, 99)),
        // It was killed, nobody knows when.
        (1, granted("z", 5000, 5001, 20)),
    ] {
        let mut events = overtaken();
        if place == 6 {
            events.truncate(events.len() - 2);
            events.push(event);
        } else {
            events[place] = event;
        }
        let report = check(&[&events]);
        assert!(report.violations.is_empty(), "{report}");
    }
}

#[test]
fn an_order_is_asked_for_only_when_faults_are_over() {
    for (before, after, found) in [
        (60, 61, false),
        // What it leaves behind lasts.
        (10, 30, false),
        (122, 123, true),
    ] {
        let report = check(&[&overtaken(), &[fault(before, after, Harm::None)]]);
        assert_eq!(report.violations.is_empty(), !found, "{before}: {report}");
        assert_eq!(report.figures.turns, if found { 2 } else { 0 });
    }
    let long_ago = fault(0, 30, Harm::None);
    let rules = Rules {
        settles: ms(9),
        ..Rules::default()
    };
    let mut events = vec![opened(), long_ago];
    events.extend(overtaken());
    let report = History::of(events).check(&rules);
    assert_eq!(report.violations.len(), 1, "{report}");
}

#[test]
fn who_misses_its_turn_is_overtaken() {
    let mut events = overtaken();
    // `b` was handed the lock and did not come: nobody had it for a while.
    for event in &mut events[5..] {
        (event.before, event.after) = (
            event.before.saturating_add(ms(1000)),
            event.after.saturating_add(ms(1000)),
        );
    }
    let report = check(&[&events]);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.figures.missed_turns, 1);
    assert_eq!(report.figures.idle, 1);
    // A waiter that misses its turns for this long starves.
    let starves = Rules {
        served_within: ms(1050),
        ..Rules::default()
    };
    events.insert(0, opened());
    let report = History::of(events).check(&starves);
    assert_eq!(report.violations.len(), 1, "{report}");
    assert_eq!(report.violations[0].property, Property::Order);
}

#[test]
fn a_key_that_stays_free_while_somebody_waits_is_found() {
    let wait = [granted("a", 0, 5, 10), queued("b", 0, 20)];
    let release = released("a", 100, 101, End::Freed);
    for (until, found) in [(4000, &[][..]), (4200, &[Property::Waiting])] {
        let served = served("b", 0, until, 11);
        assert_eq!(violated(&[&wait, &release, &served]), found);
        let gone = [left("b", 0, until)];
        assert_eq!(violated(&[&wait, &release, &gone]), found);
    }
    // A holder that does not report its release may have been renewed once more.
    let end = 2 * TTL + GRANULARITY;
    for (until, found) in [(end + 4000, &[][..]), (end + 4100, &[Property::Waiting])] {
        assert_eq!(violated(&[&wait, &served("b", 0, until, 11)]), found);
    }
    let broken = [fault(2000, 2010, Harm::None)];
    let served = served("b", 0, 9000, 11);
    assert_eq!(violated(&[&wait, &release, &served, &broken]), NOTHING);
}

#[test]
fn a_minimum_hold_counts_from_the_grant_of_a_claim_that_waited() {
    // It began to wait at 0, and the key is kept for it until 9000.
    let mut first = granted("a", 0, 5000, 10);
    if let What::Granted { min_hold, .. } = &mut first.what {
        *min_hold = ms(4000);
    }
    let events = [first, queued("b", 0, 4000)];
    let release = released("a", 5010, 5011, End::Freed);
    for (until, found) in [(12_900, &[][..]), (13_100, &[Property::Waiting])] {
        let served = served("b", 0, until, 11);
        assert_eq!(violated(&[&events, &release, &served]), found);
    }
}

#[test]
fn a_key_that_is_free_again_and_again_while_somebody_waits_is_found() {
    for (turns, found) in [(3, &[][..]), (4, &[Property::Waiting])] {
        let mut events = Vec::new();
        for turn in 0..turns {
            let begin = 1000 * turn;
            events.push(queued("b", turn, begin));
            // For whom it is kept nobody knows.
            events.extend(served("b", turn, begin + 600, turn + 10));
            events.extend(freed("b", begin + 700, turn + 10));
        }
        assert_eq!(violated(&[&events]), found);
        assert_eq!(
            check(&[&events]).figures.idle,
            usize::try_from(turns).unwrap()
        );
    }
}

#[test]
fn a_queue_of_which_nobody_was_served_is_found() {
    let rules = Rules {
        served: 1,
        ..Rules::default()
    };
    for (wakes, violations) in [(true, 1), (false, 0)] {
        let mut opened = opened();
        if let What::Opened {
            wakes: declared, ..
        } = &mut opened.what
        {
            *declared = wakes;
        }
        let report = History::of(vec![opened, granted("a", 0, 5, 10)]).check(&rules);
        assert_eq!(report.violations.len(), violations, "{report}");
    }
}
