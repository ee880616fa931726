//! From events to leases as their holders believed in them.

use std::collections::HashMap;
use std::time::Duration;

use dlock_core::Time;

use crate::{End, Event, Harm, What};

/// A lease, from the receipt of its grant to the end of its holder's belief in it.
pub(super) struct Lease<'a> {
    pub(super) granted: &'a Event,
    pub(super) fence: Option<u64>,
    pub(super) ttl: Duration,
    pub(super) min_hold: Duration,
    /// The receipt of the grant.
    pub(super) start: Time,
    /// The end of the lease, as of the last check of the guard.
    pub(super) until: Time,
    /// The events that gave the lease an end, and the end that each gave it.
    pub(super) ends: Vec<(&'a Event, Time)>,
    /// When the holder ceased to believe: at that end, when it found the lease lost, or when it
    /// began to release.
    pub(super) end: Time,
    /// Where the guard was found lost: at a look, or by its release.
    pub(super) lost: Option<&'a Event>,
    /// The begin of the release.
    pub(super) releasing: Option<&'a Event>,
    /// The end of a release that went well.
    pub(super) freed: Option<&'a Event>,
    /// The writes under it.
    pub(super) writes: Vec<&'a Event>,
}

impl<'a> Lease<'a> {
    /// The earliest time at which the key may be granted again, after an early release under a
    /// minimum hold.
    pub(super) fn kept_until(&self) -> Option<Time> {
        self.is_kept()
            .then(|| self.granted.before.saturating_add(self.min_hold))
    }

    /// The latest time to which a minimum hold keeps the key: a claim that waited was granted long
    /// after it began.
    pub(super) fn kept_at_most_until(&self) -> Option<Time> {
        self.is_kept()
            .then(|| self.granted.after.saturating_add(self.min_hold))
    }

    fn is_kept(&self) -> bool {
        !self.min_hold.is_zero() && self.freed.is_some()
    }

    /// Whether the holder began to release after the end of its lease.
    pub(super) fn was_released_late(&self) -> bool {
        self.releasing.is_some_and(|event| {
            event.before >= self.until || self.lost.is_some_and(|lost| lost.before <= event.before)
        })
    }

    /// Until when its holder may have relied on what the store had granted when the fault was over:
    /// to the end of the grant, of an extend that was sent by then, or of its minimum hold. An
    /// extend to a later end than one time to live and the granularity after the fault was sent
    /// after it, and so the store still had the lease.
    fn could_last(&self, fault: &Event, granularity: Duration) -> Time {
        let latest = fault
            .after
            .saturating_add(self.ttl)
            .saturating_add(granularity);
        let ends = self.ends.iter().filter(|(event, until)| {
            matches!(event.what, What::Granted { .. }) || *until <= latest
        });
        let ends = ends.map(|(_, until)| *until).chain(self.kept_until());
        ends.max().unwrap_or(self.start)
    }

    fn take(&mut self, event: &'a Event) {
        if let What::Extended { until, .. } | What::Shortened { until, .. } = event.what {
            self.ends.push((event, until));
        }
        match event.what {
            What::Extended { until, .. } => self.until = until,
            // The holder relied on the lease up to the check.
            What::Shortened { until, .. } => self.until = until.max(event.before),
            What::Lost { .. } => self.lost = self.lost.or(Some(event)),
            What::Releasing { .. } => self.releasing = Some(event),
            What::Released { end: End::Lost, .. } => self.lost = self.lost.or(Some(event)),
            What::Released {
                end: End::Freed, ..
            } => self.freed = Some(event),
            What::Wrote { .. } => self.writes.push(event),
            _ => {}
        }
        self.end = [self.lost, self.releasing]
            .into_iter()
            .flatten()
            .fold(self.until, |end, event| end.min(event.before));
    }
}

/// The leases of one key, by the receipt of their grants.
pub(super) fn leases<'a>(events: &[&'a Event]) -> Vec<Lease<'a>> {
    let mut leases: Vec<Lease<'a>> = Vec::new();
    let mut known = HashMap::new();
    for event in events {
        match event.what {
            What::Granted {
                holding,
                fence,
                ttl,
                until,
                min_hold,
                ..
            } => {
                known.insert((&event.actor, holding), leases.len());
                leases.push(Lease {
                    granted: event,
                    fence,
                    ttl,
                    min_hold,
                    start: event.after,
                    until,
                    ends: vec![(event, until)],
                    end: until,
                    lost: None,
                    releasing: None,
                    freed: None,
                    writes: Vec::new(),
                });
            }
            What::Extended { holding, .. }
            | What::Shortened { holding, .. }
            | What::Lost { holding }
            | What::Releasing { holding }
            | What::Released { holding, .. }
            | What::Wrote { holding, .. } => {
                if let Some(lease) = known.get(&(&event.actor, holding)) {
                    leases[*lease].take(event);
                }
            }
            _ => {}
        }
    }
    leases.sort_by_key(|lease| lease.start);
    leases
}

/// The faults that a store is excused for.
pub(super) struct Harms<'a> {
    events: Vec<&'a Event>,
    granularity: Duration,
}

impl<'a> Harms<'a> {
    pub(super) fn of(events: &[&'a Event], granularity: Duration) -> Self {
        let harmful = |event: &&&Event| matches!(&event.what, What::Fault { harm, .. } if *harm != Harm::None);
        Harms {
            events: events.iter().filter(harmful).copied().collect(),
            granularity,
        }
    }

    /// What excuses that something which should not be was from `from` to `to`, and that `lease`
    /// was broken by it: a fault that came after the lease was asked for and before the wrong
    /// began. It excuses for as long as the lease could last by what was granted before the fault
    /// was over, no longer.
    pub(super) fn excuse(&self, lease: &Lease<'_>, from: Time, to: Time) -> Option<&'a Event> {
        self.events.iter().copied().find(|fault| {
            let is_between = lease.granted.before <= fault.after && fault.before <= from;
            is_between && to <= lease.could_last(fault, self.granularity)
        })
    }

    /// What happened to the data or the clock between these times.
    pub(super) fn between(&self, from: Time, to: Time) -> Option<&'a Event> {
        self.events
            .iter()
            .copied()
            .find(|fault| fault.after >= from && fault.before <= to)
    }
}
