//! Holds a history against the properties, and says what it found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::lease::{Harms, leases};
use crate::report::{Report, Rules, Violation};
use crate::waiting::{Quiet, waiting};
use crate::{Event, History, What, outside, properties};

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
        let is_fault = |event: &&Event| matches!(event.what, What::Fault { .. });
        let faults: Vec<_> = events.into_iter().filter(is_fault).collect();
        for violation in &mut report.violations[found..] {
            show_faults(violation, &faults);
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
        properties::length(&leases, granularity, report);
        properties::own(&leases, events, confirms, &harms, report);
        properties::resource(&leases, &harms, report);
        properties::min_hold(&leases, &harms, report);
        properties::once(events, &harms, report);
        properties::clean(events, &harms, report);
        outside::outlived(events, report);
        outside::commands(events, report);
        outside::thrives(events, report);
        outside::pace(events, report);
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
fn show_faults(violation: &mut Violation, faults: &[&Event]) {
    let Some(first) = violation.events.iter().map(|event| event.before).min() else {
        return;
    };
    let last = violation.events.iter().map(|event| event.after).max();
    let from = first.saturating_sub(BACKGROUND);
    let near = faults
        .iter()
        .filter(|fault| fault.after >= from && last.is_some_and(|last| fault.before <= last));
    violation.events.extend(near.map(|fault| (*fault).clone()));
    violation.events.sort_by_key(|event| event.before);
    violation.events.dedup();
}
