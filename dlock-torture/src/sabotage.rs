//! Stores that break a promise on purpose: a run that does not find them would find nothing.

use std::str::FromStr;
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Datastore, DatastoreError, Extension, FencingToken, Grant,
    Held, Inspect, Lease, Released, Signal, Watch,
};

/// When one comes again who passed its turn.
const COMES_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The answer promises more time than the store keeps.
    GrantsTooLong,
    /// Now and then a refusal frees the key that the other holds. For stores that can be looked into.
    FreesForOthers,
    /// Every grant has the same token.
    TokensStandStill,
    /// Now and then a refusal is answered as a grant.
    GrantsWhatIsHeld,
    /// One waiter of eight that was granted the lock gives it back and comes again later. For stores that wake.
    PassesItsTurn,
}

/// A store with one of these flaws.
pub(crate) struct Saboteur {
    store: Box<dyn Datastore>,
    sabotage: Sabotage,
}

impl Sabotage {
    pub(crate) const ALL: [Sabotage; 5] = [
        Sabotage::GrantsTooLong,
        Sabotage::FreesForOthers,
        Sabotage::TokensStandStill,
        Sabotage::GrantsWhatIsHeld,
        Sabotage::PassesItsTurn,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Sabotage::GrantsTooLong => "grants-too-long",
            Sabotage::FreesForOthers => "frees-for-others",
            Sabotage::TokensStandStill => "tokens-stand-still",
            Sabotage::GrantsWhatIsHeld => "grants-what-is-held",
            Sabotage::PassesItsTurn => "passes-its-turn",
        }
    }

    pub(crate) fn of(self, store: Box<dyn Datastore>) -> Saboteur {
        Saboteur {
            store,
            sabotage: self,
        }
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Sabotage::ALL
            .into_iter()
            .find(|sabotage| sabotage.name() == text)
            .ok_or_else(|| format!("`{text}` is no sabotage"))
    }
}

impl Saboteur {
    fn grant(&self, mut grant: Grant) -> Grant {
        match self.sabotage {
            Sabotage::GrantsTooLong => grant.ttl *= 2,
            Sabotage::TokensStandStill => grant.fence = Some(FencingToken::new(7)),
            _ => {}
        }
        grant
    }

    fn passes(&self, claim: &Claim) -> bool {
        let waits = claim.waits_until().is_some();
        let often = claim.not_after().as_nanos().is_multiple_of(8);
        self.sabotage == Sabotage::PassesItsTurn && waits && often
    }

    fn refuse(
        &self,
        claim: &Claim,
        ttl: Duration,
        held: Held,
        fence: FencingToken,
    ) -> Result<Attempt, DatastoreError> {
        match (self.sabotage, self.store.inspect()) {
            (Sabotage::GrantsWhatIsHeld, _) => {
                let next = FencingToken::new(fence.get() + 1);
                return Ok(Attempt::granted(ttl, next));
            }
            (Sabotage::FreesForOthers, Some(inspect)) => {
                let _: Released = inspect.break_lease(claim.key(), fence)?;
            }
            _ => {}
        }
        Ok(Attempt::Held(held))
    }
}

impl Datastore for Saboteur {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        // Often enough to be met, and not so often that the history is about nothing else.
        let now_and_then = claim.not_after().as_nanos().is_multiple_of(16);
        Ok(match self.store.acquire(claim, ttl)? {
            Attempt::Granted(grant) if self.passes(claim) => {
                let lease = Lease::new(claim.clone(), grant).for_call(1, claim.not_after());
                let _: Released = self.store.release(&lease)?;
                Attempt::Held(Held::new().with_retry_in(COMES_AGAIN))
            }
            Attempt::Granted(grant) => Attempt::Granted(self.grant(grant)),
            Attempt::Held(held) => match held.fence().filter(|_| now_and_then) {
                Some(fence) => self.refuse(claim, ttl, held, fence)?,
                None => Attempt::Held(held),
            },
        })
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.extend_many(&[(lease.clone(), ttl)])
            .pop()
            .unwrap_or(Ok(Extension::Lost))
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.store.release(lease)
    }

    fn characteristics(&self) -> Characteristics {
        self.store.characteristics()
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.store.abandon(claim)
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.store.watch(claim, signal)
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        self.store
            .extend_many(leases)
            .into_iter()
            .map(|answer| {
                Ok(match answer? {
                    Extension::Extended(grant) => Extension::Extended(self.grant(grant)),
                    Extension::Lost => Extension::Lost,
                })
            })
            .collect()
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.store.confirm(lease)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.store.inspect()
    }
}
