//! What operators look at in an async store.

use super::future::Boxed;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::finding::Finding;
use crate::contract::grant::FencingToken;
use crate::contract::inspect::{HeldPage, PageMark, not_checked, not_counted, not_listed};
use crate::contract::outcome::{HeldBy, ReleaseOutcome};

/// Lets operators look into an async store.
///
/// The contract of [`Inspect`](crate::Inspect) holds for the method of the same name here. A method
/// returns a box with an `async` block, because operators need the trait without the type of the
/// store. Where the store's calls may not be polled anywhere, nor may these.
pub trait AsyncInspect: Send + Sync {
    /// The present holder of `key`, see [`Inspect::holder`](crate::Inspect::holder).
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>>;

    /// Takes the lock from the holder that has the fencing token `fence`, and from no other, see
    /// [`Inspect::break_lease`](crate::Inspect::break_lease).
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>>;

    /// How many claimants wait for `key`, see [`Inspect::waiting`](crate::Inspect::waiting).
    ///
    /// # Errors
    ///
    /// As there.
    fn waiting<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<usize, DatastoreError>> {
        let _ = key;
        Box::pin(async { Err(not_counted()) })
    }

    /// The keys that start with `prefix` and are held, a page at a time, see
    /// [`Inspect::held`](crate::Inspect::held).
    ///
    /// # Errors
    ///
    /// As there.
    fn held<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        let _ = (prefix, after);
        Box::pin(async { Err(not_listed()) })
    }

    /// What endangers the locks in the store, see
    /// [`Inspect::findings`](crate::Inspect::findings).
    ///
    /// # Errors
    ///
    /// As there.
    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        Box::pin(async { Err(not_checked()) })
    }
}

/// The error of a bridge whose store was inspectable and is so no more.
pub(super) fn not_inspectable() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unsupported, "the store cannot be looked into")
}
