//! The properties of waiting, for stores that queue their waiters. They are held against the quiet
//! times of a history only: a process that is stopped, or does not reach its server, loses its
//! place.

use std::collections::HashMap;
use std::time::Duration;

use dlock_core::Time;

use crate::lease::Lease;
use crate::report::{Property, Report, Rules, Violation};
use crate::{Event, What};

/// A key that is free for so long while somebody waits was not handed over at once: somebody missed
/// its turn, as it may on a busy machine.
const MISSED_TURN: Duration = Duration::from_millis(500);
/// More often than that in one quiet time it is not the machine.
const MOST_MISSED: usize = 3;

/// One who waited for a key.
struct Wait<'a> {
    queued: &'a Event,
    /// How it ended; unknown for a process that was killed.
    end: Option<&'a Event>,
}

impl Wait<'_> {
    fn was_served(&self) -> bool {
        self.end
            .is_some_and(|end| matches!(end.what, What::Served { .. }))
    }

    /// Whether it certainly waited, from then until then.
    fn lasted(&self, from: Time, to: Time) -> bool {
        self.queued.after <= from && self.end.is_some_and(|end| to <= end.before)
    }
}

/// The waits of one key, by their beginning.
fn waits<'a>(events: &[&'a Event]) -> Vec<Wait<'a>> {
    let mut waits: Vec<Wait<'a>> = Vec::new();
    let mut known = HashMap::new();
    for event in events {
        match event.what {
            What::Queued { waiter } => {
                known.insert((&event.actor, waiter), waits.len());
                waits.push(Wait {
                    queued: event,
                    end: None,
                });
            }
            What::Served { waiter } | What::Left { waiter } => {
                if let Some(place) = known.get(&(&event.actor, waiter)) {
                    waits[*place].end = Some(event);
                }
            }
            _ => {}
        }
    }
    waits
}

/// When a store was left in peace, and what faults leave behind is over.
pub(super) struct Quiet(Vec<(Time, Time)>);

impl Quiet {
    /// The times of `events`, which are all of a store's, that begin `settles` after the end of a
    /// fault and end with the beginning of the next.
    pub(super) fn of(events: &[&Event], settles: Duration) -> Self {
        let mut quiet = Vec::new();
        let mut from = events.first().map_or(Time::ZERO, |event| event.before);
        for fault in events {
            if !matches!(fault.what, What::Fault { .. }) {
                continue;
            }
            if from < fault.before {
                quiet.push((from, fault.before));
            }
            from = from.max(fault.after.saturating_add(settles));
        }
        quiet.push((from, Time::MAX));
        Quiet(quiet)
    }

    /// The quiet time that this lies in, if one does.
    fn around(&self, time: Time) -> Option<(Time, Time)> {
        let around = |(from, to): &&(Time, Time)| (*from..*to).contains(&time);
        self.0.iter().find(around).copied()
    }
}

/// The times between leases, each of which takes the key until `end` says.
fn gaps(leases: &[Lease<'_>], end: impl Fn(&Lease<'_>) -> Time) -> Vec<(Time, Time)> {
    let mut gaps = Vec::new();
    let mut taken_until = Time::ZERO;
    for lease in leases {
        if taken_until < lease.granted.after {
            gaps.push((taken_until, lease.granted.after));
        }
        taken_until = taken_until.max(end(lease));
    }
    gaps.push((taken_until, Time::MAX));
    gaps
}

/// When a lease is over for certain.
fn certain_end(lease: &Lease<'_>, granularity: Duration) -> Time {
    if let Some(freed) = lease.freed {
        return freed
            .after
            .max(lease.kept_at_most_until().unwrap_or(Time::ZERO));
    }
    // It may have been renewed once more before it was given up.
    let renewed = lease.end.saturating_add(lease.ttl);
    lease.until.max(renewed).saturating_add(granularity)
}

/// In quiet times nobody who begins to wait is served before one who waits already, and no key
/// stays free while somebody waits for it.
pub(super) fn waiting(
    leases: &[Lease<'_>],
    events: &[&Event],
    quiet: &Quiet,
    granularity: Duration,
    rules: &Rules,
    report: &mut Report,
) {
    let waits = waits(events);
    let kept = |lease: &Lease<'_>| lease.kept_until().unwrap_or(Time::ZERO);
    let perhaps_free = gaps(leases, |lease| lease.end.max(kept(lease)));
    for later in waits.iter().filter(|wait| wait.was_served()) {
        in_order(later, &waits, &perhaps_free, quiet, rules, report);
    }
    let free = gaps(leases, |lease| certain_end(lease, granularity));
    served_soon(&waits, &free, quiet, rules.served_within, report);
}

/// Nobody waits already who is served after this one.
fn in_order(
    later: &Wait<'_>,
    waits: &[Wait<'_>],
    gaps: &[(Time, Time)],
    quiet: &Quiet,
    rules: &Rules,
    report: &mut Report,
) {
    let (Some(served), Some((from, to))) = (later.end, quiet.around(later.queued.before)) else {
        return;
    };
    if to < served.after {
        return;
    }
    report.figures.turns += 1;
    let passed_over = waits
        .iter()
        .find(|earlier| earlier.lasted(later.queued.before, served.after));
    let Some(earlier) = passed_over else { return };
    let missed = gaps.iter().any(|(start, end)| {
        let (start, end) = (*start.max(&from), *end.min(&served.after));
        start.until(end) >= MISSED_TURN
    });
    // One who misses his turns for that long starves.
    let waited = from.max(earlier.queued.after).until(served.after);
    if missed && waited <= rules.served_within {
        report.figures.missed_turns += 1;
        return;
    }
    let behind = earlier.queued.after.until(later.queued.before);
    let text = format!("served before one who had begun to wait {behind:?} earlier");
    let mut shown = vec![earlier.queued, later.queued, served];
    shown.extend(earlier.end);
    report
        .violations
        .push(Violation::new(Property::Order, text, &shown));
}

/// The key is not free for long while somebody waits for it, nor for a while again and again.
fn served_soon(
    waits: &[Wait<'_>],
    gaps: &[(Time, Time)],
    quiet: &Quiet,
    within: Duration,
    report: &mut Report,
) {
    for (calm, broken) in &quiet.0 {
        let mut idle = Vec::new();
        for (start, over) in gaps {
            let (start, over) = (*start.max(calm), *over.min(broken));
            let in_vain = waits.iter().filter_map(|wait| {
                let end = wait.end?;
                let from = wait.queued.after.max(start);
                Some((from.until(end.before.min(over)), [wait.queued, end]))
            });
            let Some((free, shown)) = in_vain.max_by_key(|(free, _)| *free) else {
                return;
            };
            if free > within {
                let text = format!("the key was free for {free:?} while somebody waited for it");
                let violation = Violation::new(Property::Waiting, text, &shown);
                report.violations.push(violation);
            }
            if free >= MISSED_TURN {
                idle.push(shown);
            }
        }
        report.figures.idle += idle.len();
        if idle.len() > MOST_MISSED {
            let count = idle.len();
            let text = format!(
                "{count} times the key was free for {MISSED_TURN:?} or more while somebody waited for it"
            );
            let violation = Violation::new(Property::Waiting, text, &idle.concat());
            report.violations.push(violation);
        }
    }
}
