//! Which call a claim or a lease makes, and what its answer means.

use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, DatastoreError, ErrorKind, Extension, Grant, Lease, ReleaseOutcome,
};
use dlock_net::lost_reply;

use super::RedisDatastore;
use crate::error::unexpected;
use crate::operations::{Answer, Call, HEARTBEAT_EVERY, Keys, Record};

/// Who is queued is woken, unless the server has lost it alone: a replica that took over may lack
/// the last to come.
const UNTIL_WOKEN: Duration = Duration::from_secs(60);

impl RedisDatastore {
    pub(crate) fn acquire_call<'a>(&'a self, claim: &'a Claim, ttl: Duration) -> Call<'a> {
        let (process, queues) = self.waiters.process_of(claim);
        Call::Acquire {
            claim,
            ttl,
            process,
            queues,
            again: self.unanswered.has(claim.owner()),
            keys: Keys::Few,
        }
    }

    /// The outcome of a claim.
    pub(crate) fn acquired(
        &self,
        claim: &Claim,
        ttl: Duration,
        answer: Result<(Answer, bool), DatastoreError>,
    ) -> Result<AcquireOutcome, DatastoreError> {
        let attempt = answer.and_then(|answer| self.outcome(claim, ttl, answer));
        match &attempt {
            Err(error) if error.may_have_executed() => self.unanswered(claim),
            Ok(AcquireOutcome::Granted(_)) => self.unanswered.remove(claim.owner()),
            // An earlier copy may have been carried out, or may be carried out after this answer.
            Err(_) | Ok(AcquireOutcome::Held(_)) => {}
        }
        attempt
    }

    /// A claim may have been carried out, and nobody has heard of it.
    pub(crate) fn unanswered(&self, claim: &Claim) {
        self.unanswered.add(claim.owner());
    }

    fn outcome(
        &self,
        claim: &Claim,
        ttl: Duration,
        answer: (Answer, bool),
    ) -> Result<AcquireOutcome, DatastoreError> {
        match answer {
            (Answer::Granted { fence, left }, in_doubt) => {
                self.waiters.granted(claim);
                let grant = Grant::new(left.unwrap_or(ttl)).with_fence(fence);
                Ok(AcquireOutcome::Granted(grant.with_copy_to_follow(in_doubt)))
            }
            // The first copy of the claim may still be on its way, and win after this holder.
            (Answer::Held(_), true) => Err(lost_reply()),
            (Answer::Held(held), false) => Ok(AcquireOutcome::Held(held)),
            (Answer::Queued(held, place), in_doubt) => {
                let left = held.expires_in();
                self.waiters.queued(claim, place, left);
                if in_doubt {
                    return Err(lost_reply());
                }
                // The first asks again when it knows of no lease any more: a mark may say "done" by
                // then, which wakes nobody.
                let retry_in = match left {
                    Some(left) if place.is_first => left.max(HEARTBEAT_EVERY),
                    _ => UNTIL_WOKEN,
                };
                Ok(AcquireOutcome::Held(
                    held.with_retry_in(retry_in.min(UNTIL_WOKEN)),
                ))
            }
            (answer, _) => Err(unexpected(&answer)),
        }
    }

    pub(crate) fn release_call<'a>(&'a self, lease: &'a Lease) -> Call<'a> {
        // A release is a call of the lease too, and the last one.
        let sequence = lease.sequence().saturating_sub(1);
        self.release_of(lease.claim(), sequence, self.waiters.may_be_queued(lease))
    }

    /// The outcome of a release.
    pub(crate) fn released(
        &self,
        lease: &Lease,
        answer: Result<(Answer, bool), DatastoreError>,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        if !matches!(&answer, Err(error) if !error.may_have_executed()) {
            self.may_be_released(lease);
        }
        match answer {
            // The first copy may have freed it.
            Ok((Answer::Released(false), true)) => Err(lost_reply()),
            Ok((Answer::Released(ours), _)) => Ok(ReleaseOutcome::from(ours)),
            Ok((answer, _)) => Err(unexpected(&answer)),
            Err(error) if error.kind() == ErrorKind::ForeignKey => Ok(ReleaseOutcome::NotHeld),
            Err(error) => Err(error),
        }
    }

    /// A release was sent. Not to be called before: asked about it meanwhile, this process would
    /// give the lock back itself, and the release, which comes later, would find nothing and report
    /// a lost lease.
    pub(crate) fn may_be_released(&self, lease: &Lease) {
        self.waiters.ends(lease.claim());
    }

    pub(crate) fn abandon_call<'a>(&'a self, claim: &'a Claim) -> Call<'a> {
        self.unanswered.remove(claim.owner());
        self.release_of(claim, 0, self.waiters.gives_up(claim))
    }

    pub(crate) fn abandoned(
        &self,
        claim: &Claim,
        answer: Result<(Answer, bool), DatastoreError>,
    ) -> Result<(), DatastoreError> {
        match answer {
            Err(error) if error.kind() != ErrorKind::ForeignKey => {
                self.still_queued(claim);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// The server could not be informed that a claim was given up.
    pub(crate) fn still_queued(&self, claim: &Claim) {
        self.waiters.still_queued(claim);
    }

    /// Frees what a claim holds, `sequence` being that of its last extend. `queued_in` is the
    /// process in which it may be queued.
    fn release_of<'a>(
        &'a self,
        claim: &'a Claim,
        sequence: u64,
        queued_in: Option<&'a str>,
    ) -> Call<'a> {
        let (key, owner) = (claim.key(), claim.owner());
        if let Some(process) = queued_in {
            return Call::Leave {
                key,
                owner,
                process,
            };
        }
        let (process, keys) = self.waiters.record_of(claim);
        let record = Record {
            key,
            owner,
            sequence,
            process,
            holder: claim.holder(),
        };
        Call::Release { record, keys }
    }
}

/// How many wait for a key.
pub(crate) fn counted(answer: (Answer, bool)) -> Result<usize, DatastoreError> {
    match answer {
        (Answer::Waiting(count), _) => Ok(count),
        (answer, _) => Err(unexpected(&answer)),
    }
}

/// The outcome of the call that breaks a lease.
pub(crate) fn broken(answer: (Answer, bool)) -> Result<ReleaseOutcome, DatastoreError> {
    match answer {
        // The first copy may have freed it.
        (Answer::Released(false), true) => Err(lost_reply()),
        (Answer::Released(broken), _) => Ok(ReleaseOutcome::from(broken)),
        (answer, _) => Err(unexpected(&answer)),
    }
}

pub(crate) fn extension(
    lease: &Lease,
    ttl: Duration,
    answer: Result<Answer, DatastoreError>,
) -> Result<Extension, DatastoreError> {
    match answer {
        Ok(Answer::Extended(left)) => Ok(lease.extended(left.unwrap_or(ttl))),
        Ok(Answer::Lost) => Ok(Extension::Lost),
        // The server has the new end. The holder does not rely on it, since a new primary may not.
        Ok(Answer::Unacknowledged(error, _)) => {
            Err(DatastoreError::maybe_executed(ErrorKind::Refused, error))
        }
        Ok(answer) => Err(unexpected(&answer)),
        // Somebody put something else in its place.
        Err(error) if error.kind() == ErrorKind::ForeignKey => Ok(Extension::Lost),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use dlock_core::{Clock, FencingToken, HeldBy};

    const TTL: Duration = Duration::from_secs(30);

    fn is_sent_as_repeated(store: &RedisDatastore, claim: &Claim) -> bool {
        matches!(
            store.acquire_call(claim, TTL),
            Call::Acquire { again: true, .. }
        )
    }

    /// Found by the model: the copy without an answer was carried out after the refusal and granted
    /// the lock, an old fence came back, and the next claim got the token of an earlier holder.
    #[test]
    fn a_claim_whose_answer_was_lost_draws_a_new_token_also_after_a_refusal() {
        let store = RedisDatastore::open("redis://127.0.0.1:1/").unwrap();
        let claim = Claim::new("dlock:import", &Clock::BOOTTIME, TTL).unwrap();
        assert!(!is_sent_as_repeated(&store, &claim));
        let lost = DatastoreError::maybe_executed(ErrorKind::Timeout, "no answer");
        store.acquired(&claim, TTL, Err(lost)).unwrap_err();
        assert!(is_sent_as_repeated(&store, &claim));

        let refused = (Answer::Held(HeldBy::new()), false);
        assert!(matches!(
            store.acquired(&claim, TTL, Ok(refused)),
            Ok(AcquireOutcome::Held(_))
        ));
        assert!(
            is_sent_as_repeated(&store, &claim),
            "the copy may be carried out yet"
        );

        let fence = FencingToken::new(7);
        let granted = (Answer::Granted { fence, left: None }, false);
        assert!(matches!(
            store.acquired(&claim, TTL, Ok(granted)),
            Ok(AcquireOutcome::Granted(_))
        ));
        assert!(!is_sent_as_repeated(&store, &claim));
    }
}
