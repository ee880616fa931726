//! What a grant carries from call to call, and what follows from it.

use dlock_core::{DatastoreError, ErrorKind, FencingToken, Grant, Revision, Time};

use super::commands::{Commands, Item};
use super::incarnation::Incarnation;
use super::record::Record;
use super::ttl::Kept;
use crate::error::Problem;

/// How often a key may change between two commands before a call gives up.
pub(crate) const RACES: usize = 4;

/// What a grant of this store carries: the record's number, and what to hold the server to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct At {
    pub incarnation: Incarnation,
    pub cas: u64,
    /// The highest call number that the record saw.
    pub sequence: u64,
    pub kept: Kept,
}

impl At {
    pub(crate) fn grant(self, fence: Option<FencingToken>) -> Grant {
        let grant = Grant::new(self.kept.ttl).with_revision(Revision::new(self));
        match fence {
            Some(fence) => grant.with_fence(fence),
            None => grant,
        }
    }
}

/// The fencing token of a record: written in it, or, if it was never written again, the one that
/// follows from its number.
pub(crate) fn fence_of<C: Commands>(
    server: &C,
    item: &Item,
    record: &Record<'_>,
) -> Result<FencingToken, DatastoreError> {
    match record.fence {
        Some(fence) => Ok(fence),
        None => server.incarnation().fence(server.peer(), item.cas),
    }
}

/// Until when the server keeps the key, as far as the grant knows.
pub(crate) fn kept_until(grant: &Grant) -> Option<Time> {
    let kept = grant.revision.get::<At>()?.kept;
    Some(kept.sent.saturating_add(kept.ttl))
}

/// The error of a key that changed whenever it was written.
pub(crate) fn contended() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Refused, Problem::Contended)
}
