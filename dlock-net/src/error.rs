//! Turns errors of the socket into errors that core can act on.

use std::fmt;
use std::io;

use dlock_core::{DatastoreError, ErrorKind};
use thiserror::Error;

#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// A failure on a connection to a server. The address that it names never includes credentials.
#[derive(Debug, Error)]
#[error("{peer}: {doing}: {source}")]
pub struct NetError {
    peer: String,
    doing: &'static str,
    source: io::Error,
}

impl NetError {
    /// The failure `source` of `doing` ("connect", "read the reply") with the server `peer`.
    pub fn new(peer: impl fmt::Display, doing: &'static str, source: io::Error) -> Self {
        NetError {
            peer: peer.to_string(),
            doing,
            source,
        }
    }

    /// The kind of the failure.
    pub fn io_kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    fn kind(&self) -> ErrorKind {
        match self.source.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::Timeout,
            io::ErrorKind::InvalidData => ErrorKind::Protocol,
            io::ErrorKind::InvalidInput => ErrorKind::Invalid,
            _ => ErrorKind::Unreachable,
        }
    }
}

/// Returns whether a first request without TLS may fail like this at a port that speaks TLS alone:
/// the server closes the connection, or answers something else.
pub fn may_expect_tls(failure: io::ErrorKind) -> bool {
    matches!(
        failure,
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::InvalidData
    )
}

/// The error of a request that the server cannot have received completely.
pub fn failed_before_sending(error: NetError) -> DatastoreError {
    failed(error).with_execution(false)
}

/// The error of a request that the server may have received completely.
pub fn failed_after_sending(error: NetError) -> DatastoreError {
    failed(error).with_execution(true)
}

fn failed(error: NetError) -> DatastoreError {
    // A server finds fault with the certificate of its client when this side has begun to read.
    #[cfg(feature = "tls")]
    let error = match error.source.downcast::<TlsError>() {
        Ok(tls) => return DatastoreError::not_executed(tls.kind(), tls),
        Err(source) => NetError { source, ..error },
    };
    DatastoreError::not_executed(error.kind(), error)
}

/// The error of a call whose answer does not come any more, although its request was sent.
pub fn lost_reply() -> DatastoreError {
    DatastoreError::maybe_executed(
        ErrorKind::Unreachable,
        "the connection broke after the request was sent",
    )
}

/// The same error, if something that the same call has sent before may have been executed.
pub fn may_have_executed(error: DatastoreError) -> DatastoreError {
    error.with_execution(true)
}

/// The same error, if the failed request changes nothing: a handshake, a read.
pub fn nothing_was_done(error: DatastoreError) -> DatastoreError {
    error.with_execution(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn an_error_says_each_fact_once() {
        let read = NetError::new("server", "read the reply", io::ErrorKind::TimedOut.into());
        let error = nothing_was_done(failed_after_sending(read));
        assert!(!error.may_have_executed() && error.to_string().contains("nothing was done"));
        let source = error.source().unwrap();
        assert!(!source.to_string().contains("done"), "{source}");
        assert!(may_have_executed(error).may_have_executed());
    }
}
