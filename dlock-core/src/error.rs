//! What a store can fail with.

use std::error::Error;
use std::fmt;

/// A store could not answer.
///
/// Every error says what kind it is and whether the operation can have been carried out all the same. An adapter
/// must decide that at each place where it makes one: hence two constructors and no default.
///
/// ```
/// use dlock_core::{DatastoreError, ErrorKind};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = DatastoreError::not_executed(ErrorKind::Unreachable, refused);
/// assert!(error.is_transient() && !error.may_have_executed());
/// assert_eq!(error.to_string(), "the store cannot be reached; nothing was done");
/// ```
pub struct DatastoreError(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    may_have_executed: bool,
    operation: Option<&'static str>,
    source: Box<dyn Error + Send + Sync>,
}

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no working connection to the store.
    Unreachable,
    /// The store did not answer by the end of the call, or the call did not get its turn by then.
    Timeout,
    /// The store is there and declines for now: full, loading, a replica, no rights.
    Refused,
    /// The answer is not what the protocol allows.
    Protocol,
    /// The store lacks something that dlock needs, or cannot be used from where it is called: a forked child, say.
    Unsupported,
    /// A key, a time or an option that this store cannot take.
    Invalid,
    /// The key holds something that no lock client wrote.
    ForeignKey,
    /// The store refused the call since it came after the call's end.
    Stale,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing anything in the program.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout | Self::Refused | Self::Stale => true,
            Self::Protocol | Self::Unsupported | Self::Invalid | Self::ForeignKey => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the store cannot be reached",
            Self::Timeout => "the store did not answer in time",
            Self::Refused => "the store declined",
            Self::Protocol => "the store gave an answer that its protocol does not allow",
            Self::Unsupported => "the store lacks something that dlock needs",
            Self::Invalid => "the store cannot take this key, time or option",
            Self::ForeignKey => "the key holds something that no lock client wrote",
            Self::Stale => "the call reached the store after its end",
        })
    }
}

impl DatastoreError {
    /// The operation certainly was not carried out: it can be repeated, and nothing needs cleaning up.
    pub fn not_executed(kind: ErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(kind, false, source.into())
    }

    /// The operation may have been carried out, or may yet be: the request was sent, the answer is missing.
    pub fn maybe_executed(
        kind: ErrorKind,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::new(kind, true, source.into())
    }

    fn new(kind: ErrorKind, may_have_executed: bool, source: Box<dyn Error + Send + Sync>) -> Self {
        DatastoreError(Box::new(Inner {
            kind,
            may_have_executed,
            operation: None,
            source,
        }))
    }

    /// The same error with the name of the operation that failed, for its text.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// The same error of a caller who knows better whether the operation may have been carried out: a read does nothing, and what was sent
    /// before a call that failed may have done something.
    #[must_use]
    pub fn with_execution(mut self, may_have_executed: bool) -> Self {
        self.0.may_have_executed = may_have_executed;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later, see [`ErrorKind::is_transient`].
    pub fn is_transient(&self) -> bool {
        self.kind().is_transient()
    }

    /// Whether the operation may have been carried out although it failed.
    pub fn may_have_executed(&self) -> bool {
        self.0.may_have_executed
    }

    /// Which operation failed: `acquire`, `extend`, `release`, …; `None` before core added it.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }
}

impl fmt::Display for DatastoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(f, "{operation}: ")?;
        }
        let done = if self.0.may_have_executed {
            "it may have been done"
        } else {
            "nothing was done"
        };
        write!(f, "{}; {done}", self.0.kind)
    }
}

impl fmt::Debug for DatastoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatastoreError")
            .field("kind", &self.0.kind)
            .field("may_have_executed", &self.0.may_have_executed)
            .field("operation", &self.0.operation)
            .field("source", &self.0.source)
            .finish()
    }
}

impl Error for DatastoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.source.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_it_is_where_it_came_from_and_whether_something_was_done() {
        let error = DatastoreError::maybe_executed(ErrorKind::Timeout, "no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_have_executed() && error.operation().is_none());
        assert_eq!(
            error.to_string(),
            "the store did not answer in time; it may have been done"
        );
        assert_eq!(error.source().unwrap().to_string(), "no answer");
        let error = error.during("extend").with_execution(false);
        assert_eq!(error.operation(), Some("extend"));
        assert_eq!(
            error.to_string(),
            "extend: the store did not answer in time; nothing was done"
        );
        assert!(!error.may_have_executed());
    }

    #[test]
    fn only_what_may_end_by_itself_is_tried_again() {
        use ErrorKind::*;
        for kind in [Unreachable, Timeout, Refused, Stale] {
            assert!(
                DatastoreError::not_executed(kind, "x").is_transient(),
                "{kind}"
            );
        }
        for kind in [Protocol, Unsupported, Invalid, ForeignKey] {
            assert!(
                !DatastoreError::not_executed(kind, "x").is_transient(),
                "{kind}"
            );
        }
    }
}
