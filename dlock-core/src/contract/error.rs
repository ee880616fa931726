//! The errors of a store.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// A store could not answer.
///
/// Every error says its kind, and whether the operation may have been carried out although it
/// failed. An adapter must decide that wherever it creates an error: hence two constructors and no
/// default.
///
/// A clone is cheap and has the same source: a store answers each call of a batch that failed as a
/// whole with one.
///
/// ```
/// use dlock_core::{DatastoreError, ErrorKind};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = DatastoreError::not_executed(ErrorKind::Unreachable, refused);
/// assert!(error.is_transient() && !error.may_have_executed());
/// assert_eq!(error.to_string(), "the store cannot be reached; nothing was done: connection refused");
/// ```
#[derive(Clone)]
pub struct DatastoreError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    may_have_executed: bool,
    operation: Option<&'static str>,
    /// Shared by the clones.
    source: Arc<dyn Error + Send + Sync>,
}

/// What went wrong, in the categories that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no working connection to the store.
    Unreachable,
    /// The store did not answer by the end of the call, or the call did not get a connection by
    /// then.
    Timeout,
    /// The store answers but declines for now: it is full, loading, a replica, or the client lacks
    /// rights.
    Refused,
    /// The answer violates the protocol.
    Protocol,
    /// The store lacks something that dlock needs, or cannot be used from here, for example from a
    /// forked child.
    Unsupported,
    /// The server could not prove its identity: its certificate is not trusted.
    Untrusted,
    /// This store does not accept the key, the time or an option.
    Invalid,
    /// The key holds something that no lock client wrote.
    ForeignKey,
    /// The store refused the call because it arrived after its
    /// [`not_after`](crate::Claim::not_after).
    Stale,
}

impl ErrorKind {
    /// Returns whether the same call may succeed later without a change in the program.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout | Self::Refused | Self::Stale => true,
            Self::Protocol
            | Self::Unsupported
            | Self::Untrusted
            | Self::Invalid
            | Self::ForeignKey => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the store cannot be reached",
            Self::Timeout => "the store did not answer in time",
            Self::Refused => "the store declined",
            Self::Protocol => "the store sent an answer that violates its protocol",
            Self::Unsupported => "the store lacks something that dlock needs",
            Self::Untrusted => "the server is not trusted",
            Self::Invalid => "the store does not accept this key, time or option",
            Self::ForeignKey => "the key holds something that no lock client wrote",
            Self::Stale => "the call reached the store too late",
        })
    }
}

impl DatastoreError {
    /// An error after which the operation was certainly not carried out: it can be repeated, and
    /// nothing needs cleaning up.
    pub fn not_executed(kind: ErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(kind, false, source.into())
    }

    /// An error after which the operation may have been carried out, or may yet be: the request was
    /// sent, and the answer is missing.
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
            source: source.into(),
        }))
    }

    /// The same error with the name of the operation that failed, for its text.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// The same error with another answer to [`may_have_executed`](Self::may_have_executed), for a
    /// caller that knows better: a read changes nothing, and an operation of several calls may have
    /// been carried out in part before the call that failed.
    #[must_use]
    pub fn with_execution(mut self, may_have_executed: bool) -> Self {
        self.0.may_have_executed = may_have_executed;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the same call may succeed later, see [`ErrorKind::is_transient`].
    pub fn is_transient(&self) -> bool {
        self.kind().is_transient()
    }

    /// Returns whether the operation may have been carried out although it failed.
    pub fn may_have_executed(&self) -> bool {
        self.0.may_have_executed
    }

    /// The operation that failed: `acquire`, `extend`, `release`, …; `None` before core has added
    /// it.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }
}

/// Prints the error with all its causes, so that the text alone says what went wrong.
/// [`Debug`](fmt::Debug) prints the same, for a `main` that returns the error.
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
        let mut text = format!("{}; {done}", self.0.kind);
        let mut cause: Option<&(dyn Error + 'static)> = Some(self.0.source.as_ref());
        while let Some(error) = cause {
            let inner = error.to_string();
            // Some errors repeat their source in their own text.
            if !text.contains(&inner) {
                text.push_str(": ");
                text.push_str(&inner);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for DatastoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
            "the store did not answer in time; it may have been done: no answer"
        );
        assert_eq!(error.source().unwrap().to_string(), "no answer");
        let error = error.during("extend").with_execution(false);
        assert_eq!(error.operation(), Some("extend"));
        assert_eq!(
            error.to_string(),
            "extend: the store did not answer in time; nothing was done: no answer"
        );
        assert!(!error.may_have_executed());
    }

    #[test]
    fn a_clone_says_the_same_and_shares_the_source() {
        let source = std::io::Error::other("no route");
        let error = DatastoreError::maybe_executed(ErrorKind::Unreachable, source).during("extend");
        let clone = error.clone();
        assert_eq!(clone.to_string(), error.to_string());
        assert_eq!(
            (clone.kind(), clone.operation()),
            (error.kind(), error.operation())
        );
        assert!(clone.may_have_executed());
        let io = |error: &DatastoreError| {
            let source = error.source().unwrap();
            std::ptr::from_ref(source.downcast_ref::<std::io::Error>().unwrap())
        };
        assert_eq!(io(&clone), io(&error));
        let other = clone.with_execution(false);
        assert!(error.may_have_executed() && !other.may_have_executed());
    }

    #[test]
    fn only_an_error_that_may_go_away_by_itself_is_transient() {
        use ErrorKind::*;
        for kind in [Unreachable, Timeout, Refused, Stale] {
            assert!(
                DatastoreError::not_executed(kind, "x").is_transient(),
                "{kind}"
            );
        }
        for kind in [Protocol, Unsupported, Untrusted, Invalid, ForeignKey] {
            assert!(
                !DatastoreError::not_executed(kind, "x").is_transient(),
                "{kind}"
            );
        }
    }
}
