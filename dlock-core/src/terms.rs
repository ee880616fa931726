//! On what terms a lease is held.

use std::time::Duration;

use crate::{Characteristics, LockOptions};

/// What the holder asked for, and what the store needs.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) ttl: Duration,
    pub(crate) renew: bool,
    pub(crate) grace: Duration,
    pub(crate) min_hold: Option<Duration>,
    pub(crate) max_hold: Option<Duration>,
    /// The shortest time that the store takes.
    pub(crate) ttl_min: Duration,
    pub(crate) confirm_after: Option<Duration>,
    pub(crate) call_timeout: Duration,
}

impl Terms {
    pub(crate) fn new(options: &LockOptions, store: &Characteristics) -> Self {
        Terms {
            ttl: options.ttl,
            renew: options.renew,
            grace: options.grace_or_default(),
            min_hold: options.min_hold,
            max_hold: options.max_hold,
            ttl_min: store.ttl_min,
            confirm_after: store.confirm_after,
            call_timeout: store.call_timeout,
        }
    }

    /// What a claim asks for.
    pub(crate) fn first_ttl(&self) -> Duration {
        self.max_hold.map_or(self.ttl, |most| most.min(self.ttl))
    }
}
