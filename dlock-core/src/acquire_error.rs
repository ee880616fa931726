//! Why a lock was not acquired, or not released.

use thiserror::Error;

use crate::{DatastoreError, Held, LockGuard, OptionsError};

/// Why a lock was not acquired.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Somebody else holds it, and did until the wait was over.
    #[error("{0}")]
    Held(Held),
    /// The store could not answer.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// The lock's id or options cannot work with this store.
    #[error(transparent)]
    Invalid(#[from] OptionsError),
    /// The wait was ended by its [`Cancel`](crate::Cancel).
    #[error("the wait was cancelled")]
    Cancelled,
}

impl AcquireError {
    /// Whether it is the ordinary refusal: somebody else holds the lock.
    pub fn is_held(&self) -> bool {
        matches!(self, AcquireError::Held(_))
    }
}

/// Why a release did not do what it says.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lease had ended before: somebody else may have held the lock while the guard lived.
    #[error(
        "the lease had ended before the lock was released; somebody else may hold the lock since"
    )]
    Lost,
    /// The store was not told. The key stays taken until the lease ends by itself.
    #[error("the lock was not released and stays taken until its lease ends")]
    NotReleased(#[source] DatastoreError),
    /// The store was told and did not answer. The key is free, or stays taken until the lease ends by itself.
    #[error("the lock was released or stays taken until its lease ends: the answer is missing")]
    Unknown(#[source] DatastoreError),
}

/// `held` as `None`, for those to whom it is no error.
///
/// ```
/// use dlock_core::{AcquireError, Lock, MemoryDatastore, Optional};
///
/// fn tick(lock: &Lock) -> Result<(), AcquireError> {
///     let Some(_guard) = lock.try_acquire().optional()? else { return Ok(()) };
///     Ok(())
/// }
/// tick(&Lock::new(MemoryDatastore::new(), "tick")).unwrap();
/// ```
pub trait Optional: sealed::Sealed {
    /// The guard, or `None` if somebody else holds the lock.
    ///
    /// # Errors
    ///
    /// Every other reason why the lock was not acquired.
    fn optional(self) -> Result<Option<LockGuard>, AcquireError>;
}

impl Optional for Result<LockGuard, AcquireError> {
    fn optional(self) -> Result<Option<LockGuard>, AcquireError> {
        match self {
            Ok(guard) => Ok(Some(guard)),
            Err(AcquireError::Held(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for Result<crate::LockGuard, crate::AcquireError> {}
}
