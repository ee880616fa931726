//! Stores, commands and processes that break a promise on purpose. They show that a run finds such
//! faults.

use std::str::FromStr;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Datastore, DatastoreError, Extension, FencingToken, Grant, HeldBy,
    Layer, Layered, Lease, ReleaseOutcome,
};

/// How long a waiter that passed its turn stays away.
const COMES_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A grant promises more time than the store keeps the key.
    GrantsTooLong,
    /// Now and then a refusal frees the key of the present holder. For stores that can be
    /// inspected.
    FreesForOthers,
    /// Every grant has the same token.
    TokensStandStill,
    /// Now and then a refusal is answered as a grant.
    GrantsWhatIsHeld,
    /// One in eight waiters that was granted the lock gives it back and comes again later. For
    /// stores with wake-ups.
    PassesItsTurn,
    /// A job leaves the process group of its command, and the command ends.
    Escapes,
    /// A command does not end when its job has ended.
    NeverEnds,
    /// A job inherits changed signals.
    ChangesSignals,
    /// A command whose job ran exits with the status of a job that was not started.
    WrongStatus,
    /// A healthy process gets its lock alone, and hardly ever beside processes that crash.
    Starves,
    /// No replica must have acknowledged a grant, though no failover is an excuse. For
    /// `sentinel-replicas`.
    WaitsForNone,
}

/// Gives a store one of these flaws.
pub(crate) struct Saboteur {
    sabotage: Sabotage,
}

impl Sabotage {
    pub(crate) const ALL: [Sabotage; 11] = [
        Sabotage::GrantsTooLong,
        Sabotage::FreesForOthers,
        Sabotage::TokensStandStill,
        Sabotage::GrantsWhatIsHeld,
        Sabotage::PassesItsTurn,
        Sabotage::Escapes,
        Sabotage::NeverEnds,
        Sabotage::ChangesSignals,
        Sabotage::WrongStatus,
        Sabotage::Starves,
        Sabotage::WaitsForNone,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Sabotage::GrantsTooLong => "grants-too-long",
            Sabotage::FreesForOthers => "frees-for-others",
            Sabotage::TokensStandStill => "tokens-stand-still",
            Sabotage::GrantsWhatIsHeld => "grants-what-is-held",
            Sabotage::PassesItsTurn => "passes-its-turn",
            Sabotage::Escapes => "escapes",
            Sabotage::NeverEnds => "never-ends",
            Sabotage::ChangesSignals => "changes-signals",
            Sabotage::WrongStatus => "wrong-status",
            Sabotage::Starves => "starves",
            Sabotage::WaitsForNone => "waits-for-none",
        }
    }

    /// The words between `dlock run` and its job.
    pub(crate) fn before_the_job(self) -> Vec<String> {
        let words: &[&str] = match self {
            Sabotage::Escapes => &["setsid", "--fork"],
            Sabotage::ChangesSignals => &["env", "--block-signal=USR1"],
            Sabotage::WrongStatus => &["sh", "-c", "\"$@\"; exit 75", "sh"],
            _ => &[],
        };
        words.iter().copied().map(String::from).collect()
    }

    /// The URL of the store that is opened instead of the one at `url`.
    pub(crate) fn url(self, url: String) -> String {
        match (self, url.split_once('?')) {
            (Sabotage::WaitsForNone, Some((without_options, _))) => without_options.to_owned(),
            _ => url,
        }
    }

    /// `store` with this flaw.
    pub(crate) fn of(self, store: Box<dyn Datastore>) -> Layered<Box<dyn Datastore>, Saboteur> {
        Layered::new(store, Saboteur { sabotage: self })
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Sabotage::ALL
            .into_iter()
            .find(|sabotage| sabotage.name() == text)
            .ok_or_else(|| format!("`{text}` is not a sabotage"))
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
        let waits = claim.deadline().is_some();
        let often = claim.not_after().as_nanos().is_multiple_of(8);
        self.sabotage == Sabotage::PassesItsTurn && waits && often
    }

    fn refuse(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
        held: HeldBy,
        fence: FencingToken,
    ) -> Result<AcquireOutcome, DatastoreError> {
        match (self.sabotage, store.inspect()) {
            (Sabotage::GrantsWhatIsHeld, _) => {
                let next = FencingToken::new(fence.get() + 1);
                return Ok(AcquireOutcome::granted(ttl, next));
            }
            (Sabotage::FreesForOthers, Some(inspect)) => {
                let _: ReleaseOutcome = inspect.break_lease(claim.key(), fence)?;
            }
            _ => {}
        }
        Ok(AcquireOutcome::Held(held))
    }
}

impl Layer for Saboteur {
    fn acquire(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        // Often enough to be found, but not so often that the history shows nothing else.
        let now_and_then = claim.not_after().as_nanos().is_multiple_of(16);
        Ok(match store.acquire(claim, ttl)? {
            AcquireOutcome::Granted(grant) if self.passes(claim) => {
                let lease = Lease::new(claim.clone(), grant).for_call(1, claim.not_after());
                let _: ReleaseOutcome = store.release(&lease)?;
                AcquireOutcome::Held(HeldBy::new().with_retry_in(COMES_AGAIN))
            }
            AcquireOutcome::Granted(grant) => AcquireOutcome::Granted(self.grant(grant)),
            AcquireOutcome::Held(held) => match held.fence().filter(|_| now_and_then) {
                Some(fence) => self.refuse(store, claim, ttl, held, fence)?,
                None => AcquireOutcome::Held(held),
            },
        })
    }

    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        self.extend_many(store, &[(lease.clone(), ttl)])
            .pop()
            .unwrap_or(Ok(Extension::Lost))
    }

    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        store
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
}
