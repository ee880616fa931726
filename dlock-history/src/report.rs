//! What a history is held against, and what was found.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::Time;

use crate::{Event, Figures};

/// What a history must hold beyond the properties: that it is long enough to mean something.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The least number of grants for each store.
    pub grants: usize,
    /// The least number of acquires for each store that met another holder.
    pub contended: usize,
    /// The least number of waiters, for each store with a queue, that were served after they had
    /// queued.
    pub served: usize,
    /// The least number of async acquires, releases and jobs in each store that were dropped.
    pub dropped: usize,
    /// The least number of faults in each store.
    pub faults: usize,
    /// At least this many commands in each store.
    pub commands: usize,
    /// Whether the history of each store must end in a calm, during which every key is acquired.
    pub calm: bool,
    /// The highest fencing token so far by store and key, if the history continues another one.
    pub fences: BTreeMap<(Arc<str>, Arc<str>), u64>,
    /// So long after a fault a queue may be out of order: leases and places of processes that were
    /// killed or cut off must have ended.
    pub settles: Duration,
    /// In quiet times no key may be free for longer while somebody waits for it: what a hand-over
    /// that nobody takes costs, and all the time that a busy machine may take.
    pub served_within: Duration,
}

/// Nothing is asked of how much there is.
impl Default for Rules {
    fn default() -> Self {
        Rules {
            grants: 0,
            contended: 0,
            served: 0,
            dropped: 0,
            faults: 0,
            commands: 0,
            calm: false,
            fences: BTreeMap::new(),
            settles: Duration::from_secs(5),
            served_within: Duration::from_secs(4),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What there was.
    pub figures: Figures,
    /// What must not be.
    pub violations: Vec<Violation>,
    /// The highest fencing token by store and key, for [`Rules::fences`] of the history that
    /// continues this one.
    pub fences: BTreeMap<(Arc<str>, Arc<str>), u64>,
}

/// Something that must not be.
#[derive(Debug, Clone)]
pub struct Violation {
    /// What is violated.
    pub property: Property,
    /// Of which store.
    pub store: Arc<str>,
    /// Of which key; `-` if it concerns the store.
    pub key: Arc<str>,
    /// How.
    pub text: String,
    /// The events that show it, by time, and the faults of the seconds before.
    pub events: Vec<Event>,
}

/// What a history is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Property {
    /// At most one holder believes in its lease.
    Exclusion,
    /// No lease ends before its holder's reckoning through what others do.
    Own,
    /// No lease lasts for longer than its time to live and the store's granularity.
    Length,
    /// Tokens strictly increase in the real-time order of grants.
    Fencing,
    /// The guarded resource takes no lower token after a higher one, and refuses no holder whose
    /// lease is valid.
    Resource,
    /// After an early release the key stays taken for its minimum hold.
    MinHold,
    /// A job that is done does not run again while it counts as done.
    Once,
    /// Where waiters queue, nobody who begins to wait is served before one who waits already.
    Order,
    /// Where waiters queue, no key stays free while somebody waits for it.
    Waiting,
    /// What was dropped holds nothing when its clean-up is over.
    Clean,
    /// When the faults are over, every key is acquired again.
    Progress,
    /// No job runs after its lease, or after the command that ran it.
    Outlived,
    /// A command ends when its job has, with a status that is true, and leaves the job its signals.
    Command,
    /// A healthy process is granted its key while other processes crash, and after they died.
    Thrives,
    /// Enough happened.
    NotVacuous,
}

impl Violation {
    pub(super) fn new(property: Property, text: String, events: &[&Event]) -> Self {
        let dash = || Arc::from("-");
        Violation {
            property,
            store: events
                .first()
                .map_or_else(dash, |event| event.store.clone()),
            key: events.first().map_or_else(dash, |event| event.key.clone()),
            text,
            events: events.iter().copied().cloned().collect(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation {
            property,
            store,
            key,
            text,
            events,
        } = self;
        writeln!(f, "{property:?} violated: {store} {key}: {text}")?;
        let start = events.first().map_or(Time::ZERO, |event| event.before);
        for event in events {
            let (from, took) = (start.until(event.before), event.before.until(event.after));
            let (from, took) = (from.as_secs_f64(), took.as_secs_f64());
            writeln!(
                f,
                "  {from:+10.4} s, took {took:8.4} s  {:<12} {}",
                event.actor, event.what
            )?;
        }
        let start = start.as_nanos();
        writeln!(f, "  (+0 is {start} in the history)")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        write!(f, "{}, violations {}", self.figures, self.violations.len())
    }
}
