//! The outcomes of an acquire and a release as one word each, for metrics and traces.

use crate::acquire_error::{AcquireError, ReleaseError};

/// `acquired`, `held`, `cancelled`, `invalid` or `failed`.
pub(crate) fn of_acquire(error: Option<&AcquireError>) -> &'static str {
    match error {
        None => "acquired",
        Some(AcquireError::Held(_)) => "held",
        Some(AcquireError::Cancelled) => "cancelled",
        Some(AcquireError::Invalid(_)) => "invalid",
        Some(AcquireError::Datastore(_)) => "failed",
    }
}

/// What [`of_release`] says of an error.
#[cfg(feature = "metrics")]
pub(crate) const RELEASE_FAILURES: [&str; 3] = ["lost", "not_released", "unknown"];

/// `released`, `lost`, `not_released` or `unknown`.
pub(crate) fn of_release(error: Option<&ReleaseError>) -> &'static str {
    match error {
        None => "released",
        Some(ReleaseError::Lost) => "lost",
        Some(ReleaseError::NotReleased(_)) => "not_released",
        Some(ReleaseError::Unknown(_)) => "unknown",
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use super::*;
    use crate::{DatastoreError, ErrorKind};

    #[test]
    fn each_failure_of_a_release_is_in_the_list() {
        let cause = || DatastoreError::not_executed(ErrorKind::Unreachable, "cut");
        let failures = [
            ReleaseError::Lost,
            ReleaseError::NotReleased(cause()),
            ReleaseError::Unknown(cause()),
        ];
        let words = failures.each_ref().map(|error| of_release(Some(error)));
        assert_eq!(words, RELEASE_FAILURES);
    }
}
