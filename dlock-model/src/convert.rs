//! Between core's values and the plain ones of the model.

use dlock_core::engine::lease_policy::LeasePolicy;
use dlock_core::{
    AcquireOutcome, DatastoreError, ErrorKind, Extension, FencingToken, Grant, HeldBy, Revision,
};

use super::types::{Answer, Fence, GrantOf, Promise};

/// What records say of their holders.
pub(super) const RUNNING: &str = "dlock1 host 1 1 1 running";
pub(super) const DONE: &str = "dlock1 host 1 1 1 done";

pub(super) fn terms_of(promise: &Promise) -> LeasePolicy {
    LeasePolicy {
        ttl: promise.ttl,
        renew: promise.renew,
        grace: promise.ttl / 6,
        min_hold: promise.min_hold,
        max_hold: promise.max_hold,
        ttl_min: promise.ttl_min,
        confirm_after: promise.confirm_after,
        call_timeout: promise.call_timeout,
    }
}

pub(super) fn real(grant: &GrantOf) -> Grant {
    let real = Grant::new(grant.ttl)
        .with_revision(Revision::new(*grant))
        .with_copy_to_follow(grant.copy_may_follow);
    match grant.fence {
        Some(fence) => real.with_fence(FencingToken::new(fence)),
        None => real,
    }
}

pub(super) fn of(grant: &Grant) -> GrantOf {
    let put = grant.revision.get::<GrantOf>();
    GrantOf {
        fence: grant.fence.map(FencingToken::get) as Option<Fence>,
        ttl: grant.ttl,
        at: put.and_then(|put| put.at),
        ordinal: put.map_or(0, |put| put.ordinal),
        copy_may_follow: grant.copy_may_follow,
    }
}

pub(super) fn attempt(answer: &Answer) -> Result<AcquireOutcome, DatastoreError> {
    match answer {
        Answer::Granted(grant) => Ok(AcquireOutcome::Granted(real(grant))),
        Answer::Held { expires_in } => Ok(AcquireOutcome::Held(
            HeldBy::new().with_expires_in(*expires_in),
        )),
        Answer::HeldByDone { expires_in } => {
            let held = HeldBy::new().with_expires_in(*expires_in);
            Ok(AcquireOutcome::Held(held.with_holder_text(DONE)))
        }
        Answer::Queued {
            expires_in,
            retry_in,
            ..
        } => Ok(AcquireOutcome::Held(
            HeldBy::new()
                .with_expires_in(*expires_in)
                .with_retry_in(*retry_in),
        )),
        other => Err(failure(other)),
    }
}

pub(super) fn extension(answer: &Answer) -> Result<Extension, DatastoreError> {
    match answer {
        Answer::Extended(grant) => Ok(Extension::Extended(real(grant))),
        Answer::Lost => Ok(Extension::Lost),
        other => Err(failure(other)),
    }
}

pub(super) fn failure(answer: &Answer) -> DatastoreError {
    match answer {
        Answer::Failed { kind, maybe: true } => DatastoreError::maybe_executed(*kind, "failed"),
        Answer::Failed { kind, maybe: false } => DatastoreError::not_executed(*kind, "failed"),
        other => DatastoreError::maybe_executed(ErrorKind::Protocol, format!("{other:?}")),
    }
}
