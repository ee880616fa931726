//! What a URL, a server or an answer can be wrong in.

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::EndpointError;
use memcache::exp;
use thiserror::Error;

/// A URL that names no memcached server. It does not repeat the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL of a memcached server starts with memcache:// or memcache+unix://")]
    Scheme,
    /// The host or the port is none.
    #[error("memcache URL: {0}")]
    Endpoint(#[from] EndpointError),
    /// More than one server.
    #[error(
        "a lock is kept by one memcached server; with several, every client would have to place every key the same way"
    )]
    SeveralServers,
    /// A user or a password.
    #[error("memcached is used without user and password; remove what stands before the @")]
    Credentials,
    /// A path, a query or a fragment.
    #[error("a memcache URL ends after the port, like memcache://127.0.0.1:11211")]
    Trailing,
    /// A relative path to a Unix socket, or one on a system without them.
    #[error("the path of a Unix socket is absolute: memcache+unix:///run/memcached.sock")]
    Path,
}

/// Something that this server, or this key or time on it, makes impossible.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum Problem {
    #[error("{peer} is memcached {version}; locks need 1.6 or newer")]
    TooOld { peer: String, version: String },
    #[error("{peer} does not speak memcached's meta protocol, which came with version 1.6")]
    NoMeta { peer: String },
    #[error("{peer} runs with -C (no CAS numbers): nobody could release a lock safely")]
    NoCas { peer: String },
    #[error(
        "{peer} runs with -M (no evictions): when it is full, a claim that it refuses deletes the lock of whoever holds it"
    )]
    NoEvictions { peer: String },
    #[error("{peer} has just started; it grants locks once it has been up for two seconds")]
    JustStarted { peer: String },
    #[error("{peer} answered {answer:?}")]
    Odd { peer: String, answer: String },
    #[error("{peer}: CAS numbers have left what fencing tokens can hold")]
    FenceOverflow { peer: String },
    #[error("a key has 1 to 250 bytes of printable ASCII without space")]
    Key,
    #[error("a time to live is 1 s to 29 days 23 h 59 min 58 s on memcached")]
    Ttl,
    #[error("the reply was lost, and there was nothing to free when it was asked again")]
    ReplyLost,
    #[error("the connection broke after the claim was sent, which may yet be carried out")]
    LostCopy,
    #[error("the key kept changing hands")]
    Contended,
    #[error("there was no time left to verify how long the server keeps the key")]
    Unverified,
}

/// The error of a command that the server answered with an error, or with something else than an answer.
pub(crate) fn answered(peer: &str, error: exp::Error) -> DatastoreError {
    let text = |message: String| format!("{peer}: {message}");
    match error {
        // On a failed store the server may have deleted what stood there.
        exp::Error::Server(message) => {
            DatastoreError::maybe_executed(ErrorKind::Refused, text(message))
        }
        exp::Error::Rejected(message) => {
            DatastoreError::not_executed(ErrorKind::Unsupported, text(message))
        }
        other => DatastoreError::maybe_executed(ErrorKind::Protocol, text(other.to_string())),
    }
}
