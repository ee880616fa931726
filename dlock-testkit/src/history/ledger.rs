//! The record of one holding.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::{FencingToken, Lock, LockGuard, Time};

use super::recorder::{Recorder, now};
use super::{End, Resource, What};

/// Two looks at an unchanged lease differ by the time between two looks at the clock. What differs by more is written down.
pub(super) const NOISE: Duration = Duration::from_millis(2);

/// What was written down of a holding so far.
pub(super) struct Ledger {
    recorder: Recorder,
    key: Arc<str>,
    holding: u64,
    until: Time,
    lost: bool,
}

impl Ledger {
    pub(super) fn begin(recorder: &Recorder, lock: &Lock, before: Time, guard: &LockGuard) -> Self {
        let after = now();
        let until = after.saturating_add(guard.remaining());
        let (holding, refusals) = recorder.next_holding();
        let options = lock.options();
        let what = What::Granted {
            holding,
            fence: guard.fencing_token().map(FencingToken::get),
            ttl: options.ttl,
            until,
            refusals,
            min_hold: options.min_hold.unwrap_or_default(),
        };
        recorder.record(lock.key(), (before, after), what);
        Ledger {
            recorder: recorder.clone(),
            key: lock.key().into(),
            holding,
            until,
            lost: false,
        }
    }

    pub(super) fn look(&mut self, guard: &LockGuard) -> Duration {
        let before = now();
        let remaining = guard.remaining();
        if self.lost {
            return remaining;
        }
        let (holding, until) = (self.holding, before.saturating_add(remaining));
        if remaining.is_zero() {
            self.lost = true;
            self.record((before, now()), What::Lost { holding });
        } else if until > self.until.saturating_add(NOISE) {
            self.until = until;
            self.record((before, now()), What::Extended { holding, until });
        } else if until.saturating_add(NOISE) < self.until {
            self.until = until;
            self.record((before, now()), What::Shortened { holding, until });
        }
        remaining
    }

    pub(super) fn write(&mut self, guard: &LockGuard, resource: &Resource) -> bool {
        let Some(token) = guard.fencing_token().map(FencingToken::get) else {
            return false;
        };
        self.look(guard);
        let before = now();
        let accepted = resource.write(token).expect("the resource can be written");
        let what = What::Wrote {
            holding: self.holding,
            token,
            accepted,
        };
        self.record((before, now()), what);
        accepted
    }

    pub(super) fn releasing(&self) -> Time {
        let now = now();
        let holding = self.holding;
        self.record((now, now), What::Releasing { holding });
        now
    }

    pub(super) fn released(&self, before: Time, end: End) {
        let holding = self.holding;
        self.record((before, now()), What::Released { holding, end });
    }

    fn record(&self, span: (Time, Time), what: What) {
        self.recorder.record(&self.key, span, what);
    }
}
