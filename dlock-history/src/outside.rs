//! What can be observed from outside of the processes that lock: commands that run jobs, and
//! processes that crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::Time;

use crate::recorder::{Recorder, now};
use crate::report::{Property, Report, Violation};
use crate::{Event, What};

/// A job that runs on writes a line every few milliseconds. One that is killed late on a busy
/// machine writes fewer than this.
const RUNS_ON: usize = 5;

impl Recorder {
    /// Records that the job of this actor may not run after `by`, and a word for the reason.
    pub fn doomed(&self, key: &str, by: Time, why: &str) {
        let (now, why) = (now(), why.to_owned());
        self.record(key, (now, now), What::Doomed { by, why });
    }

    /// Records that `actor` must be granted `key` at least `least` times from `since` on, within
    /// `lasts`.
    pub fn thrives(&self, key: &str, actor: &str, least: u64, since: Time, lasts: Duration) {
        let actor = actor.to_owned();
        let span = (since, since.saturating_add(lasts));
        self.record(key, span, What::Thrives { actor, least });
    }

    /// Records that since then `actor` used `key` alone, or, with a `share`, beside processes that
    /// crashed: then it must be granted the key at least at one part in `share` of the rate that it
    /// has alone, and once. All these times are compared together, so take turns between the two: a
    /// machine that is busy for a while then slows both. A time in which the key was
    /// [orphaned](Self::orphaned) does not count.
    pub fn paced(&self, key: &str, actor: &str, share: Option<u64>, since: Time) {
        let actor = actor.to_owned();
        self.record(key, (since, now()), What::Paced { actor, share });
    }

    /// Records that a process was just killed that held `key`, or had been handed it. The lease
    /// ends in `left`.
    pub fn orphaned(&self, key: &str, since: Time, left: Duration) {
        let until = now().saturating_add(left);
        self.record(key, (since, now()), What::Orphaned { until });
    }

    /// Records how the command of this actor ended, which was started at `since`.
    pub fn exited(&self, key: &str, since: Time, status: &str) {
        let status = status.to_owned();
        self.record(key, (since, now()), What::Exited { status });
    }

    /// Records what the command of this actor did and its page excludes.
    pub fn amiss(&self, key: &str, since: Time, text: &str) {
        let text = text.to_owned();
        self.record(key, (since, now()), What::Amiss { text });
    }
}

/// The events of each actor, in their order.
fn by_actor<'a>(events: &[&'a Event]) -> BTreeMap<&'a Arc<str>, Vec<&'a Event>> {
    let mut of_actors: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        of_actors.entry(&event.actor).or_default().push(*event);
    }
    of_actors
}

/// No job runs on when it may not.
pub(super) fn outlived(events: &[&Event], report: &mut Report) {
    let of_actors = by_actor(events);
    for doomed in events {
        let What::Doomed { by, why } = &doomed.what else {
            continue;
        };
        let events = &of_actors[&doomed.actor];
        let late: Vec<&Event> = events
            .iter()
            .copied()
            .filter(|event| {
                let runs = matches!(event.what, What::Extended { .. } | What::Wrote { .. });
                runs && event.before > *by
            })
            .collect();
        if late.len() < RUNS_ON {
            continue;
        }
        let granted = events
            .iter()
            .find(|event| matches!(event.what, What::Granted { .. }));
        let last = late[late.len() - 1];
        let text = format!(
            "a job ran for {:?} after it had to be over ({why})",
            by.until(last.before)
        );
        let shown: Vec<&Event> = granted
            .into_iter()
            .copied()
            .chain([*doomed, late[0], last])
            .collect();
        report
            .violations
            .push(Violation::new(Property::Outlived, text, &shown));
    }
}

/// No command does what its page excludes.
pub(super) fn commands(events: &[&Event], report: &mut Report) {
    let of_actors = by_actor(events);
    for event in events {
        let What::Amiss { text } = &event.what else {
            continue;
        };
        let shown: Vec<&Event> = of_actors[&event.actor]
            .iter()
            .copied()
            .filter(|other| !matches!(other.what, What::Extended { .. } | What::Wrote { .. }))
            .collect();
        let text = text.replace('_', " ");
        report
            .violations
            .push(Violation::new(Property::Command, text, &shown));
    }
}

/// A healthy process is granted its key.
pub(super) fn thrives(events: &[&Event], report: &mut Report) {
    for demand in events {
        let What::Thrives { actor, least } = &demand.what else {
            continue;
        };
        let granted = granted_to(actor, demand, events);
        let times = granted.len();
        if u64::try_from(times).is_ok_and(|times| times >= *least) {
            continue;
        }
        let lasts = demand.before.until(demand.after);
        let text = format!(
            "{actor} was granted the key {times} times in {lasts:?} while others crashed or had just died, at least {least} are wanted"
        );
        let mut shown = vec![*demand];
        shown.extend(granted.last());
        report
            .violations
            .push(Violation::new(Property::Thrives, text, &shown));
    }
}

/// The grants to an actor in the time of an event.
fn granted_to<'a>(actor: &str, time: &Event, events: &[&'a Event]) -> Vec<&'a Event> {
    let granted = events.iter().copied().filter(|event| {
        matches!(event.what, What::Granted { .. })
            && *event.actor == *actor
            && (time.before..=time.after).contains(&event.after)
    });
    granted.collect()
}

/// The times of an actor with a key, alone or beside others.
#[derive(Default)]
struct Pace<'a> {
    times: Vec<&'a Event>,
    lasts: Duration,
    grants: u128,
}

impl<'a> Pace<'a> {
    fn add(&mut self, time: &'a Event, events: &[&Event]) {
        let What::Paced { actor, .. } = &time.what else {
            return;
        };
        let lasts = time.before.until(time.after);
        self.times.push(time);
        self.lasts += lasts.saturating_sub(orphaned(time, events));
        self.grants += granted_to(actor, time, events).len() as u128;
    }
}

/// How much of the time of `time` the key belonged to a process that was dead: until the end of its
/// lease, or until somebody else was granted the key.
fn orphaned(time: &Event, events: &[&Event]) -> Duration {
    let mut spans = Vec::new();
    for event in events {
        let What::Orphaned { until } = event.what else {
            continue;
        };
        let next = events
            .iter()
            .filter(|next| matches!(next.what, What::Granted { .. }) && next.after > event.before);
        let next = next.map(|next| next.after).min().unwrap_or(Time::MAX);
        spans.push((
            event.before.max(time.before),
            until.min(next).min(time.after),
        ));
    }
    spans.sort();
    let (mut sum, mut counted) = (Duration::ZERO, time.before);
    for (from, to) in spans {
        sum += from.max(counted).until(to);
        counted = counted.max(to);
    }
    sum
}

/// A healthy process keeps its share of the rate that it has alone.
pub(super) fn pace(events: &[&Event], report: &mut Report) {
    let mut actors: BTreeMap<&str, (Pace<'_>, Pace<'_>, u64)> = BTreeMap::new();
    for time in events {
        let What::Paced { actor, share } = &time.what else {
            continue;
        };
        let (alone, beside, of) = actors.entry(actor).or_default();
        match share {
            None => alone.add(time, events),
            Some(share) => {
                beside.add(time, events);
                *of = *share;
            }
        }
    }
    for (actor, (alone, beside, share)) in actors {
        if beside.times.is_empty() {
            continue;
        }
        report.figures.thrived += 1;
        let parts = alone.lasts.as_nanos().max(1) * u128::from(share.max(1));
        let least = (alone.grants * beside.lasts.as_nanos() / parts).max(1);
        if beside.grants >= least {
            continue;
        }
        let text = format!(
            "{actor} was granted the key {} times in {:?} beside processes that crashed, and {} \
             times in {:?} alone: at least {least} are wanted",
            beside.grants, beside.lasts, alone.grants, alone.lasts
        );
        let shown = [beside.times, alone.times].concat();
        report
            .violations
            .push(Violation::new(Property::Thrives, text, &shown));
    }
}
