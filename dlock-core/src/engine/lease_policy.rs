//! The parameters of a held lease.

use std::time::Duration;

use crate::contract::characteristics::Characteristics;
use crate::options::LockOptions;

/// The holder's options and the needs of the store, combined.
#[derive(Debug, Clone)]
pub struct LeasePolicy {
    pub ttl: Duration,
    pub renew: bool,
    pub grace: Duration,
    pub min_hold: Option<Duration>,
    pub max_hold: Option<Duration>,
    /// The shortest time to live that the store accepts.
    pub ttl_min: Duration,
    pub confirm_after: Option<Duration>,
    pub call_timeout: Duration,
}

impl LeasePolicy {
    pub fn new(options: &LockOptions, store: &Characteristics) -> Self {
        LeasePolicy {
            ttl: options.ttl(),
            renew: options.renew(),
            grace: options.grace(),
            min_hold: options.min_hold(),
            max_hold: options.max_hold(),
            ttl_min: store.ttl_min,
            confirm_after: store.confirm_after,
            call_timeout: store.call_timeout,
        }
    }

    /// The time to live that a claim asks for.
    pub fn first_ttl(&self) -> Duration {
        self.max_hold.map_or(self.ttl, |most| most.min(self.ttl))
    }
}
