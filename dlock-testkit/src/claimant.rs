//! The claims and leases of one claimant on one key, in the store and in the model.

use std::time::Duration;

use dlock_core::{Claim, Clock, Grant, Lease};

use crate::client::Client;
use crate::laws::held::text;
use crate::step::{Age, Order};

/// Calls to the model have unlimited time: its clock stands still most of the time.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

pub(crate) struct Claimant<'c> {
    pub(crate) client: Client<'c>,
    /// The same claim in the model.
    pub(crate) claim: Claim,
    /// The first and the latest grant of the claim, since the key was last free.
    leases: Option<(Lease, Lease)>,
    /// The numbers of its newest call and of its call when it was first granted the key.
    calls: u64,
    calls_before: u64,
    modelled: Option<Lease>,
}

impl<'c> Claimant<'c> {
    /// A claimant of this key, which the model sees on this clock.
    pub(crate) fn new(client: Client<'c>, key: &str, clock: &Clock) -> Self {
        let claim = Claim::new(key, clock, FOR_EVER);
        let claim = claim.expect("the operating system has random numbers");
        Claimant {
            client: client.with_holder(&text("claimed")),
            claim: claim.with_holder(text("claimed")),
            leases: None,
            calls: 0,
            calls_before: 0,
            modelled: None,
        }
    }

    /// The lease that it passes to the store; `None` if it was never granted the key.
    pub(crate) fn lease(&self, age: Age) -> Option<Lease> {
        let (first, latest) = self.leases.as_ref()?;
        Some(match age {
            Age::First => first.clone(),
            Age::Latest => latest.clone(),
        })
    }

    /// The lease in the model, which does not need the grant.
    pub(crate) fn modelled(&self) -> Lease {
        let unheld = || Lease::new(self.claim.clone(), Grant::new(FOR_EVER));
        self.modelled.clone().unwrap_or_else(unheld)
    }

    pub(crate) fn granted(&mut self, grant: Grant, modelled: Grant, is_repeat: bool) {
        let lease = Lease::new(self.client.claim(), grant);
        self.modelled = Some(Lease::new(self.claim.clone(), modelled));
        match &mut self.leases {
            Some((_, latest)) if is_repeat => *latest = lease,
            leases => {
                *leases = Some((lease.clone(), lease));
                self.calls_before = self.calls;
            }
        }
    }

    pub(crate) fn renewed(&mut self, lease: Lease) {
        if let Some((_, latest)) = &mut self.leases {
            *latest = lease;
        }
    }

    /// The number of an extend. The number of a late one belongs to this grant, since stores need
    /// not keep the numbers of earlier grants.
    pub(crate) fn number(&mut self, order: Order) -> u64 {
        if let Order::Late(by) = order {
            let number = self.calls.saturating_sub(by);
            if number > self.calls_before {
                return number;
            }
        }
        self.calls += 1;
        self.calls
    }
}
