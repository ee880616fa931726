//! The properties, one function each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::Time;

use crate::lease::{Harms, Lease};
use crate::ledger::NOISE;
use crate::report::{Property, Report, Rules, Violation};
use crate::{Event, Figures, What};

/// The leases of a key never overlap.
pub(super) fn exclusion(leases: &[Lease<'_>], harms: &Harms<'_>, report: &mut Report) {
    // Those that are not over, of the leases before; they are ordered by their start.
    let mut alive: Vec<usize> = Vec::new();
    for (number, later) in leases.iter().enumerate() {
        alive.retain(|earlier| leases[*earlier].end > later.start);
        for earlier in alive.iter().map(|earlier| &leases[*earlier]) {
            let (from, to) = (later.start, earlier.end.min(later.end));
            if from >= to {
                continue;
            }
            let excuse = harms.excuse(earlier, from, to);
            if excuse.or_else(|| harms.excuse(later, from, to)).is_some() {
                report.figures.excused_overlaps += 1;
                continue;
            }
            report
                .violations
                .push(overlap(leases, earlier, later, from.until(to)));
        }
        if later.end > later.start {
            alive.push(number);
        }
    }
}

fn overlap(
    leases: &[Lease<'_>],
    earlier: &Lease<'_>,
    later: &Lease<'_>,
    both: Duration,
) -> Violation {
    let mut events = vec![earlier.granted, later.granted];
    events.extend(last_words(earlier));
    events.extend(last_words(later));
    let stranger = leases.iter().find(|third| {
        let released = third.releasing.filter(|_| third.was_released_late());
        released.is_some_and(|event| earlier.start <= event.before && event.before <= later.start)
    });
    let Some(stranger) = stranger else {
        let text = format!("two holders for {both:?}");
        return Violation::new(Property::Exclusion, text, &events);
    };
    events.extend(last_words(stranger));
    let text =
        format!("two holders for {both:?}, after a release by a third, whose own lease was over");
    Violation::new(Property::Own, text, &events)
}

/// Where a lease ended.
fn last_words<'a>(lease: &Lease<'a>) -> impl Iterator<Item = &'a Event> {
    [lease.lost, lease.releasing, lease.freed]
        .into_iter()
        .flatten()
}

/// No lease is reckoned with for longer than its time to live and the granularity: that long the
/// key stays taken if its holder dies.
pub(super) fn length(leases: &[Lease<'_>], granularity: Duration, report: &mut Report) {
    for lease in leases {
        let most = lease.ttl.saturating_add(granularity);
        let too_long = lease
            .ends
            .iter()
            .find(|(event, until)| event.after.until(*until) > most);
        let Some((event, until)) = too_long else {
            continue;
        };
        let (lasts, ttl) = (event.after.until(*until), lease.ttl);
        let text = format!("a lease of {lasts:?} was granted, where {ttl:?} was asked for");
        let violation = Violation::new(Property::Length, text, &[lease.granted, event]);
        report.violations.push(violation);
    }
}

/// No lease ends before its holder's reckoning. A store that confirms may say itself that it keeps
/// a lease for less than it granted; that it denies the lease is another matter.
pub(super) fn own(
    leases: &[Lease<'_>],
    events: &[&Event],
    confirms: bool,
    harms: &Harms<'_>,
    report: &mut Report,
) {
    let denials: Vec<(Option<u64>, &Event)> = events
        .iter()
        .filter_map(|event| match event.what {
            What::Denied { fence } => Some((fence, *event)),
            _ => None,
        })
        .collect();
    for lease in leases {
        // A lease that was shortened by less than the noise is not on record as such.
        let early = |lost: &&Event| lost.after.saturating_add(NOISE) < lease.until;
        let Some(lost) = lease.lost.filter(early) else {
            continue;
        };
        if harms.excuse(lease, lost.after, lost.before).is_some() {
            report.figures.excused_losses += 1;
            continue;
        }
        let denied = denials.iter().find(|(fence, event)| {
            *fence == lease.fence && event.actor == lost.actor && event.before <= lost.after
        });
        if confirms && denied.is_none() {
            report.figures.cut_short += 1;
            continue;
        }
        let early = lost.after.until(lease.until);
        let text = format!("lost {early:?} before its end, by nothing that its holder did");
        let mut shown = vec![lease.granted, lost];
        shown.extend(denied.map(|(_, event)| *event));
        let violation = Violation::new(Property::Own, text, &shown);
        report.violations.push(violation);
    }
}

/// Tokens strictly increase in the real-time order of grants. Answers the highest.
pub(super) fn fencing(
    leases: &[Lease<'_>],
    known: Option<&u64>,
    report: &mut Report,
) -> Option<u64> {
    let mut grants = Vec::with_capacity(leases.len());
    for lease in leases {
        match lease.fence {
            Some(fence) => grants.push((fence, lease.granted)),
            None => report.violations.push(Violation::new(
                Property::Fencing,
                "a grant without a fencing token".to_owned(),
                &[lease.granted],
            )),
        }
    }
    if let Some(known) = known {
        let lower = grants.iter().find(|(fence, _)| fence <= known);
        report.violations.extend(lower.map(|(fence, event)| {
            let text = format!("token {fence} after {known}, in an earlier history");
            Violation::new(Property::Fencing, text, &[event])
        }));
    }
    for (before, after) in falling(&grants) {
        let text = format!("token {} after {}", after.0, before.0);
        let violation = Violation::new(Property::Fencing, text, &[before.1, after.1]);
        report.violations.push(violation);
    }
    let mut by_token = grants.clone();
    by_token.sort_by_key(|(fence, _)| *fence);
    for pair in by_token.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let text = format!("token {} twice", pair[0].0);
        let violation = Violation::new(Property::Fencing, text, &[pair[0].1, pair[1].1]);
        report.violations.push(violation);
    }
    grants.iter().map(|(fence, _)| *fence).max()
}

type Numbered<'a> = (u64, &'a Event);

/// The pairs of events of which the first was over before the second began, and has the higher
/// number; for each second one at most.
fn falling<'a>(events: &[Numbered<'a>]) -> Vec<(Numbered<'a>, Numbered<'a>)> {
    let mut ends = events.to_vec();
    ends.sort_by_key(|(_, event)| event.after);
    let mut begins = events.to_vec();
    begins.sort_by_key(|(_, event)| event.before);
    let mut ends = ends.into_iter().peekable();
    let mut highest: Option<Numbered<'a>> = None;
    let mut found = Vec::new();
    for begin in begins {
        while let Some(end) = ends.next_if(|(_, event)| event.after < begin.1.before) {
            highest = highest.filter(|(number, _)| *number >= end.0).or(Some(end));
        }
        found.extend(
            highest
                .filter(|(number, _)| *number > begin.0)
                .map(|highest| (highest, begin)),
        );
    }
    found
}

/// The guarded resource never accepts a lower token after a higher one, and never refuses a holder
/// whose lease is valid.
pub(super) fn resource(leases: &[Lease<'_>], harms: &Harms<'_>, report: &mut Report) {
    let mut taken = Vec::new();
    for lease in leases {
        for write in &lease.writes {
            let What::Wrote {
                token, accepted, ..
            } = write.what
            else {
                continue;
            };
            if accepted {
                taken.push((token, *write));
            } else if write.after < lease.end {
                if harms.excuse(lease, write.after, write.before).is_some() {
                    report.figures.excused_losses += 1;
                    continue;
                }
                let text = format!("refused token {token} of a holder whose lease was valid");
                let events = [lease.granted, *write];
                report
                    .violations
                    .push(Violation::new(Property::Resource, text, &events));
            }
        }
    }
    for (before, after) in falling(&taken) {
        let text = format!("took token {} after {}", after.0, before.0);
        let violation = Violation::new(Property::Resource, text, &[before.1, after.1]);
        report.violations.push(violation);
    }
}

/// After an early release the key is not granted again before the end of its minimum hold.
pub(super) fn min_hold(leases: &[Lease<'_>], harms: &Harms<'_>, report: &mut Report) {
    for (number, lease) in leases.iter().enumerate() {
        let Some(kept) = lease.kept_until() else {
            continue;
        };
        // They are ordered by the receipt of the grant, and what began before ours ended is no
        // matter of the minimum hold.
        let next = leases[number + 1..]
            .iter()
            .take_while(|next| next.start < kept)
            .find(|next| next.granted.before >= lease.end);
        let Some(next) = next else { continue };
        if harms.excuse(lease, next.start, kept).is_some() {
            report.figures.excused_others += 1;
            continue;
        }
        let early = next.start.until(kept);
        let text = format!("granted {early:?} before the end of a minimum hold");
        let events = [lease.granted, next.granted];
        report
            .violations
            .push(Violation::new(Property::MinHold, text, &events));
    }
}

/// A job that is done does not run again while it counts as done.
pub(super) fn once(events: &[&Event], harms: &Harms<'_>, report: &mut Report) {
    let mut runs: BTreeMap<&str, Vec<(&Event, Duration, bool)>> = BTreeMap::new();
    for event in events {
        if let What::Ran { job, keep, marked } = &event.what {
            runs.entry(job).or_default().push((event, *keep, *marked));
        }
    }
    for (job, runs) in runs {
        for (first, keep, _) in runs.iter().filter(|(_, _, marked)| *marked) {
            let done_until = first.before.saturating_add(*keep);
            let again = runs
                .iter()
                .find(|(second, _, _)| first.after < second.before && second.before < done_until);
            let Some((again, _, _)) = again else { continue };
            if harms.between(first.before, again.before).is_some() {
                report.figures.excused_others += 1;
                continue;
            }
            let text = format!("`{job}` ran again although it was done");
            let violation = Violation::new(Property::Once, text, &[first, again]);
            report.violations.push(violation);
        }
    }
}

/// What was dropped holds nothing when its clean-up is over. A store that lost data may have got
/// back what was cleaned up.
pub(super) fn clean(events: &[&Event], harms: &Harms<'_>, report: &mut Report) {
    for event in events {
        if !matches!(event.what, What::Dropped { held: true }) {
            continue;
        }
        if harms.between(event.before, event.after).is_some() {
            report.figures.excused_others += 1;
            continue;
        }
        let text = "held after it was dropped and cleaned up".to_owned();
        report
            .violations
            .push(Violation::new(Property::Clean, text, &[event]));
    }
}

/// When the faults are over, every key is acquired again.
pub(super) fn progress(
    events: &[&Event],
    keys: &BTreeMap<&Arc<str>, Vec<&Event>>,
    report: &mut Report,
) {
    for calm in events {
        let What::Calm { patience } = calm.what else {
            continue;
        };
        let within = calm.before.saturating_add(patience);
        for (key, events) in keys {
            let granted = |event: &&&Event| {
                matches!(event.what, What::Granted { .. })
                    && (calm.before..=within).contains(&event.after)
            };
            let wanted = |event: &&Event| {
                matches!(
                    event.what,
                    What::Granted { .. } | What::Refused { .. } | What::Failed { .. }
                )
            };
            // A mark of a job, say, is no lock that anybody acquires.
            if !events.iter().any(wanted) || events.iter().any(|event| granted(&event)) {
                continue;
            }
            let text = format!("{key} was not acquired within {patience:?} of the last fault");
            let mut shown = vec![*calm];
            shown.extend(last_grant(events, calm.before));
            report
                .violations
                .push(Violation::new(Property::Progress, text, &shown));
        }
    }
}

fn last_grant<'a>(events: &[&'a Event], before: Time) -> Option<&'a Event> {
    events
        .iter()
        .rev()
        .copied()
        .find(|event| event.before < before && matches!(event.what, What::Granted { .. }))
}

/// Enough happened.
pub(super) fn not_vacuous(
    store: &Arc<str>,
    events: &[&Event],
    wakes: bool,
    rules: &Rules,
    report: &mut Report,
) {
    let mut figures = Figures::default();
    for event in events {
        figures.count(event);
    }
    let calms = events
        .iter()
        .filter(|event| matches!(event.what, What::Calm { .. }))
        .count();
    for (what, there, wanted) in [
        ("grants", figures.grants, rules.grants),
        ("contended acquires", figures.contended, rules.contended),
        (
            "waiters served",
            figures.served,
            if wakes { rules.served } else { 0 },
        ),
        ("drops", figures.dropped, rules.dropped),
        ("faults", figures.faults.values().sum(), rules.faults),
        ("commands", figures.commands.values().sum(), rules.commands),
        ("calms", calms, usize::from(rules.calm)),
    ] {
        if there < wanted {
            let text = format!("{there} {what}, which shows nothing: at least {wanted} are wanted");
            report.violations.push(Violation {
                store: Arc::clone(store),
                ..Violation::new(Property::NotVacuous, text, &[])
            });
        }
    }
}
