//! Why a lock was not acquired, or not released.

use std::fmt;

use thiserror::Error;

use crate::contract::error::DatastoreError;
use crate::contract::outcome::HeldBy;
use crate::options::OptionsError;

/// Why a lock was not acquired.
#[derive(Clone, Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Somebody else holds it, and the wait is over.
    #[error("{0}")]
    Held(HeldBy),
    /// The store could not answer.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// The job of [`Lock::once`](crate::Lock::once) has no name, or this store cannot remember it
    /// for that long.
    #[error(transparent)]
    Invalid(#[from] OptionsError),
    /// [`Cancel`](crate::Cancel) ended the wait.
    #[error("the wait was cancelled")]
    Cancelled,
}

impl AcquireError {
    /// Returns whether this is the ordinary refusal: somebody else holds the lock.
    pub fn is_held(&self) -> bool {
        matches!(self, AcquireError::Held(_))
    }
}

/// Why a release failed.
#[derive(Clone, Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lease ended before the release: somebody else may have held the lock while the guard
    /// lived.
    #[error(
        "the lease ended before the lock was released; somebody else may have held the lock since"
    )]
    Lost,
    /// The request did not reach the store. The key stays taken until the lease ends by itself.
    #[error("the lock was not released and stays taken until its lease ends: {0}")]
    NotReleased(#[source] DatastoreError),
    /// The request was sent, but its answer is missing. The key is free, or stays taken until the
    /// lease ends by itself.
    #[error(
        "the answer to the release is missing; the lock is free, or stays taken until its lease ends: {0}"
    )]
    Unknown(#[source] DatastoreError),
}

/// Prints the text of [`Display`](fmt::Display), for a `main` that returns the error.
impl fmt::Debug for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Prints the text of [`Display`](fmt::Display), for a `main` that returns the error.
impl fmt::Debug for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::error::Error;

    fn of_main(error: impl Into<Box<dyn Error>>) -> String {
        format!("Error: {:?}", error.into())
    }

    #[test]
    fn errors_can_be_kept_and_passed_on() {
        fn copied<E: Error + Clone + Send + Sync + 'static>(error: E) {
            let text = error.to_string();
            assert_eq!(error.clone().to_string(), text);
        }
        let error = DatastoreError::not_executed(ErrorKind::Timeout, "no answer");
        copied(AcquireError::Datastore(error.clone()));
        copied(ReleaseError::NotReleased(error.clone()));
        copied(error);
    }

    #[test]
    fn a_main_that_returns_an_error_prints_a_sentence_with_host_and_cause() {
        let text = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";
        let held = AcquireError::Held(HeldBy::new().with_holder_text(text));
        assert_eq!(
            of_main(held),
            "Error: held by web-3 pid 4121 since 2025-11-24 16:04:31 UTC"
        );
        let refused = std::io::Error::other("10.0.0.7:6379: connection refused");
        let error = || {
            DatastoreError::not_executed(
                ErrorKind::Unreachable,
                "10.0.0.7:6379: connection refused",
            )
        };
        assert_eq!(
            of_main(AcquireError::from(
                DatastoreError::not_executed(ErrorKind::Unreachable, refused).during("acquire")
            )),
            "Error: acquire: the store cannot be reached; nothing was done: 10.0.0.7:6379: connection refused"
        );
        assert_eq!(
            ReleaseError::NotReleased(error()).to_string(),
            "the lock was not released and stays taken until its lease ends: the store cannot be reached; nothing was \
             done: 10.0.0.7:6379: connection refused"
        );
    }
}
