//! The record of one holding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dlock_core::{FencingToken, LockGuard, LockOptions, Time};

use crate::recorder::{Recorder, now};
use crate::{End, Resource, What};

/// Two checks of an unchanged lease differ by the time between two readings of the clock. What
/// differs by more is written down.
pub(super) const NOISE: Duration = Duration::from_millis(2);

/// A guard of either form.
pub(super) trait Guarded {
    fn remaining(&self) -> Duration;
    fn fencing_token(&self) -> Option<FencingToken>;
    fn on_lost(&self, callback: impl FnOnce() + Send + 'static);
}

impl Guarded for LockGuard {
    fn remaining(&self) -> Duration {
        self.remaining()
    }

    fn fencing_token(&self) -> Option<FencingToken> {
        self.fencing_token()
    }

    fn on_lost(&self, callback: impl FnOnce() + Send + 'static) {
        self.on_lost(callback);
    }
}

#[cfg(feature = "tokio")]
impl Guarded for dlock_core::aio::LockGuard {
    fn remaining(&self) -> Duration {
        self.remaining()
    }

    fn fencing_token(&self) -> Option<FencingToken> {
        self.fencing_token()
    }

    fn on_lost(&self, callback: impl FnOnce() + Send + 'static) {
        self.on_lost(callback);
    }
}

/// What was written down of a holding so far.
pub(super) struct Ledger {
    recorder: Recorder,
    key: Arc<str>,
    holding: u64,
    until: Time,
    /// Whether the loss is on record, by a look or by the guard's callback.
    lost: Arc<AtomicBool>,
}

impl Ledger {
    pub(super) fn begin(
        recorder: &Recorder,
        (key, options): (&str, &LockOptions),
        (before, refusals): (Time, u32),
        guard: &impl Guarded,
    ) -> Self {
        let after = now();
        let until = after.saturating_add(guard.remaining());
        let holding = recorder.next_holding();
        let what = What::Granted {
            holding,
            fence: guard.fencing_token().map(FencingToken::get),
            ttl: options.ttl(),
            until,
            refusals,
            min_hold: options.min_hold().unwrap_or_default(),
        };
        recorder.record(key, (before, after), what);
        let ledger = Ledger {
            recorder: recorder.clone(),
            key: key.into(),
            holding,
            until,
            lost: Arc::default(),
        };
        ledger.record_loss(guard);
        ledger
    }

    /// Records a loss when it is declared: its holder may be blocked, or look much later.
    fn record_loss(&self, guard: &impl Guarded) {
        let (log, key, lost) = (self.recorder.log(), self.key.clone(), self.lost.clone());
        let holding = self.holding;
        guard.on_lost(move || {
            let now = now();
            if !lost.swap(true, Ordering::SeqCst) {
                log.record(&key, (now, now), What::Lost { holding });
            }
        });
    }

    /// Until when the lease lasts, as far as the record goes.
    #[cfg(test)]
    pub(super) fn until(&self) -> Time {
        self.until
    }

    pub(super) fn look(&mut self, guard: &impl Guarded) -> Duration {
        let before = now();
        let remaining = guard.remaining();
        let (holding, until) = (self.holding, before.saturating_add(remaining));
        if remaining.is_zero() {
            if !self.lost.swap(true, Ordering::SeqCst) {
                self.record((before, now()), What::Lost { holding });
            }
        } else if until > self.until.saturating_add(NOISE) {
            self.until = until;
            self.record((before, now()), What::Extended { holding, until });
        } else if until.saturating_add(NOISE) < self.until {
            self.until = until;
            self.record((before, now()), What::Shortened { holding, until });
        }
        remaining
    }

    pub(super) fn write(&mut self, guard: &impl Guarded, resource: &Resource) -> bool {
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
