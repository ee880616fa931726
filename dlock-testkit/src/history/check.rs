//! Holds a history against the properties, and says what it found.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::Time;

use super::lease::{Harms, leases};
use super::waiting::{Quiet, waiting};
use super::{Event, Figures, History, What, properties};

/// What a history must hold beyond the properties: that it is long enough to mean something.
#[derive(Debug, Clone)]
pub struct Rules {
    /// At least so many grants of each store.
    pub grants: usize,
    /// At least so many acquires of each store that met another holder.
    pub contended: usize,
    /// At least so many waiters of each store that queues them were served after they had queued.
    pub served: usize,
    /// At least so many faults in each store.
    pub faults: usize,
    /// Whether the history of each store must end in a calm, during which every key is acquired.
    pub calm: bool,
    /// The highest fencing token so far by store and key, if the history continues another one.
    pub fences: BTreeMap<(Arc<str>, Arc<str>), u64>,
    /// So long after a fault a queue may be out of order: leases and places of processes that were killed or cut off must have ended.
    pub settles: Duration,
    /// In quiet times no key may be free for longer while somebody waits for it: what a hand-over that nobody takes costs, and all the time
    /// that a busy machine may take.
    pub served_within: Duration,
}

/// Nothing is asked of how much there is.
impl Default for Rules {
    fn default() -> Self {
        Rules {
            grants: 0,
            contended: 0,
            served: 0,
            faults: 0,
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
    /// The highest fencing token by store and key, for [`Rules::fences`] of the history that continues this one.
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
    /// Tokens strictly increase in the real-time order of grants.
    Fencing,
    /// The guarded resource takes no lower token after a higher one, and refuses no holder whose lease is valid.
    Resource,
    /// After an early release the key stays taken for its minimum hold.
    MinHold,
    /// A job that is done does not run again while it counts as done.
    Once,
    /// Where waiters queue, nobody who begins to wait is served before one who waits already.
    Order,
    /// Where waiters queue, no key stays free while somebody waits for it.
    Waiting,
    /// When the faults are over, every key is acquired again.
    Progress,
    /// Enough happened.
    NotVacuous,
}

/// Before a violation, faults of so much time are shown with it.
const BACKGROUND: Duration = Duration::from_secs(8);

pub(super) fn check(history: &History, rules: &Rules) -> Report {
    let mut report = Report {
        fences: rules.fences.clone(),
        ..Report::default()
    };
    let mut stores: BTreeMap<&Arc<str>, Vec<&Event>> = BTreeMap::new();
    for event in history.events() {
        stores.entry(&event.store).or_default().push(event);
        report.figures.count(event);
    }
    for (store, events) in stores {
        let found = report.violations.len();
        check_store(store, &events, rules, &mut report);
        for violation in &mut report.violations[found..] {
            show_faults(violation, &events);
        }
    }
    report
}

fn check_store(store: &Arc<str>, events: &[&Event], rules: &Rules, report: &mut Report) {
    let opened = events.iter().find_map(|event| match event.what {
        What::Opened {
            granularity,
            fenced,
            confirms,
            wakes,
        } => Some((granularity, fenced, confirms, wakes)),
        _ => None,
    });
    let (granularity, fenced, confirms, wakes) = opened.unwrap_or_default();
    let harms = Harms::of(events, granularity);
    let quiet = Quiet::of(events, rules.settles);
    let mut keys: BTreeMap<&Arc<str>, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| &*event.key != "-") {
        keys.entry(&event.key).or_default().push(event);
    }
    for (key, events) in &keys {
        let leases = leases(events);
        properties::exclusion(&leases, &harms, report);
        properties::own(&leases, events, confirms, &harms, report);
        properties::resource(&leases, &harms, report);
        properties::min_hold(&leases, &harms, report);
        properties::once(events, &harms, report);
        waiting(&leases, events, &quiet, granularity, rules, report);
        if fenced {
            let place = (Arc::clone(store), Arc::clone(key));
            let highest = properties::fencing(&leases, rules.fences.get(&place), report);
            report.fences.extend(highest.map(|fence| (place, fence)));
        }
    }
    properties::progress(events, &keys, report);
    properties::not_vacuous(store, events, wakes, rules, report);
}

/// Adds the faults that came shortly before.
fn show_faults(violation: &mut Violation, events: &[&Event]) {
    let Some(first) = violation.events.iter().map(|event| event.before).min() else {
        return;
    };
    let last = violation.events.iter().map(|event| event.after).max();
    let from = first.saturating_sub(BACKGROUND);
    let near = events.iter().filter(|event| {
        matches!(event.what, What::Fault { .. })
            && event.after >= from
            && last.is_some_and(|last| event.before <= last)
    });
    violation.events.extend(near.map(|event| (*event).clone()));
    violation.events.sort_by_key(|event| event.before);
    violation.events.dedup();
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
