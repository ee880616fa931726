//! A refusal as `None`.

use crate::acquire_error::AcquireError;

/// Turns a refusal into `None`, for callers to whom it is no error.
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
    /// The guard of the blocking or of the async form.
    type Guard;

    /// The guard, or `None` if somebody else holds the lock.
    ///
    /// # Errors
    ///
    /// Every other reason why the lock was not acquired.
    fn optional(self) -> Result<Option<Self::Guard>, AcquireError>;
}

impl<G: sealed::Guard> Optional for Result<G, AcquireError> {
    type Guard = G;

    fn optional(self) -> Result<Option<G>, AcquireError> {
        match self {
            Ok(guard) => Ok(Some(guard)),
            Err(AcquireError::Held(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

mod sealed {
    pub trait Guard {}
    impl Guard for crate::guard::LockGuard {}
    #[cfg(feature = "tokio")]
    impl Guard for crate::aio::LockGuard {}

    pub trait Sealed {}
    impl<G: Guard> Sealed for Result<G, crate::acquire_error::AcquireError> {}
}
