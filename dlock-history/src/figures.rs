//! What there was in a history, counted.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Event, What};

/// Counts over a history; they add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Events of all kinds.
    pub events: usize,
    /// Acquires that were granted.
    pub grants: usize,
    /// Acquires that met another holder, whatever became of them.
    pub contended: usize,
    /// Acquires that were refused.
    pub refused: usize,
    /// Waiters that queued.
    pub queued: usize,
    /// Those of them that were served.
    pub served: usize,
    /// Those of them that were served in quiet times, whose order was checked.
    pub turns: usize,
    /// Those of them that were served before somebody who had missed his turn.
    pub missed_turns: usize,
    /// How often in quiet times a key was free for half a second or more while somebody waited for
    /// it.
    pub idle: usize,
    /// Acquires that failed in another way, by the reason.
    pub failed: BTreeMap<String, usize>,
    /// Async acquires, releases and jobs that were dropped.
    pub dropped: usize,
    /// Leases found longer than before.
    pub extended: usize,
    /// Leases found shorter than before.
    pub shortened: usize,
    /// Guards found lost.
    pub lost: usize,
    /// Leases that the store itself declared to be over before their end, as it may where it only
    /// counts seconds.
    pub cut_short: usize,
    /// Writes that the guarded resource took.
    pub writes: usize,
    /// Writes that it refused.
    pub writes_refused: usize,
    /// Jobs that ran once.
    pub jobs: usize,
    /// Commands that ran a job under a lock, or did not get it, by their status.
    pub commands: BTreeMap<String, usize>,
    /// How often an actor had to be granted its key, whatever other processes did.
    pub thrived: usize,
    /// Faults by name.
    pub faults: BTreeMap<String, usize>,
    /// Overlapping leases that a loss of data or a clock step excuses.
    pub excused_overlaps: usize,
    /// Leases that ended early, or holders that were refused a write, where that is the excuse.
    pub excused_losses: usize,
    /// Minimum holds and jobs that are excused in the same way.
    pub excused_others: usize,
}

impl Figures {
    pub(super) fn count(&mut self, event: &Event) {
        self.events += 1;
        match &event.what {
            What::Granted { refusals, .. } => {
                self.grants += 1;
                self.contended += usize::from(*refusals > 0);
            }
            What::Refused { .. } => {
                self.refused += 1;
                self.contended += 1;
            }
            What::Failed { why } => *self.failed.entry(why.clone()).or_default() += 1,
            What::Queued { .. } => self.queued += 1,
            What::Served { .. } => self.served += 1,
            What::Dropped { .. } => self.dropped += 1,
            What::Extended { .. } => self.extended += 1,
            What::Shortened { .. } => self.shortened += 1,
            What::Lost { .. } => self.lost += 1,
            What::Wrote { accepted, .. } => {
                self.writes += usize::from(*accepted);
                self.writes_refused += usize::from(!*accepted);
            }
            What::Ran { .. } => self.jobs += 1,
            What::Exited { status } => *self.commands.entry(status.clone()).or_default() += 1,
            What::Thrives { .. } => self.thrived += 1,
            What::Fault { name, .. } => *self.faults.entry(name.clone()).or_default() += 1,
            _ => {}
        }
    }

    /// Adds what there was in another history.
    pub fn add(&mut self, other: &Figures) {
        self.events += other.events;
        self.grants += other.grants;
        self.contended += other.contended;
        self.refused += other.refused;
        self.queued += other.queued;
        self.served += other.served;
        self.turns += other.turns;
        self.missed_turns += other.missed_turns;
        self.idle += other.idle;
        self.dropped += other.dropped;
        self.extended += other.extended;
        self.shortened += other.shortened;
        self.lost += other.lost;
        self.cut_short += other.cut_short;
        self.writes += other.writes;
        self.writes_refused += other.writes_refused;
        self.jobs += other.jobs;
        self.thrived += other.thrived;
        self.excused_overlaps += other.excused_overlaps;
        self.excused_losses += other.excused_losses;
        self.excused_others += other.excused_others;
        for (mine, others) in [
            (&mut self.failed, &other.failed),
            (&mut self.commands, &other.commands),
            (&mut self.faults, &other.faults),
        ] {
            for (name, count) in others {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "grants {}, contended {}, refused {}, queued {}, served {}, turns {}, missed turns {}, idle {}, failed {}, dropped {}, extended {}, shortened {}, lost {}, cut short {}, writes {}, writes refused {}, \
             jobs {}, commands {}, thrived {}, faults {}, excused overlaps {}, excused losses {}, excused others {}",
            self.grants,
            self.contended,
            self.refused,
            self.queued,
            self.served,
            self.turns,
            self.missed_turns,
            self.idle,
            total(&self.failed),
            self.dropped,
            self.extended,
            self.shortened,
            self.lost,
            self.cut_short,
            self.writes,
            self.writes_refused,
            self.jobs,
            total(&self.commands),
            self.thrived,
            total(&self.faults),
            self.excused_overlaps,
            self.excused_losses,
            self.excused_others,
        )
    }
}

/// The sum, and its parts.
fn total(counts: &BTreeMap<String, usize>) -> String {
    let sum: usize = counts.values().sum();
    let parts: Vec<_> = counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if parts.is_empty() {
        sum.to_string()
    } else {
        format!("{sum} ({})", parts.join(", "))
    }
}
