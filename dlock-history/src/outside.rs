//! What can be observed from outside of the processes that lock: commands that run jobs, and
//! processes that crash.

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

/// No job runs on when it may not.
pub(super) fn outlived(events: &[&Event], report: &mut Report) {
    for doomed in events {
        let What::Doomed { by, why } = &doomed.what else {
            continue;
        };
        let late: Vec<&Event> = events
            .iter()
            .copied()
            .filter(|event| {
                let runs = matches!(event.what, What::Extended { .. } | What::Wrote { .. });
                runs && event.actor == doomed.actor && event.before > *by
            })
            .collect();
        if late.len() < RUNS_ON {
            continue;
        }
        let granted = events.iter().find(|event| {
            event.actor == doomed.actor && matches!(event.what, What::Granted { .. })
        });
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
    for event in events {
        let What::Amiss { text } = &event.what else {
            continue;
        };
        let shown: Vec<&Event> = events
            .iter()
            .copied()
            .filter(|other| {
                let steps = matches!(other.what, What::Extended { .. } | What::Wrote { .. });
                other.actor == event.actor && !steps
            })
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
        let granted: Vec<&Event> = events
            .iter()
            .copied()
            .filter(|event| {
                matches!(event.what, What::Granted { .. })
                    && *event.actor == **actor
                    && (demand.before..=demand.after).contains(&event.after)
            })
            .collect();
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
