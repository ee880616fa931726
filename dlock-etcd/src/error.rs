//! The errors of servers and answers.

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{NetError, escaped, may_expect_tls};
use serde_json::Value;
use thiserror::Error;

/// The HTTP status of an answer that is no error.
const OK: u16 = 200;
/// What HTTP says of a path that does not exist.
const NOT_FOUND: u16 = 404;
/// What HTTP says of a request that makes no sense.
const BAD_REQUEST: u16 = 400;
/// How much of an answer that was not expected is shown, in characters.
const SHOWN: usize = 200;

/// A problem of this cluster, or of a key on it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Problem {
    #[error(
        "{peer} does not serve etcd's JSON gateway below /v3: it needs etcd 3.4 or newer, without --enable-grpc-gateway=false"
    )]
    NoGateway { peer: String },
    #[error(
        "{peer} is a node of another cluster than the one that was reached first, which knows nothing of its locks: \
         name the nodes of one cluster (if the cluster was replaced, start the program again)"
    )]
    OtherCluster { peer: String },
    #[error(
        "{peer} has no leader: it is cut off from the majority of its cluster, or an election is under way"
    )]
    NoLeader { peer: String },
    #[error("{text} (if this port speaks TLS, write etcds:// in place of etcd://)")]
    PerhapsTls { text: String },
    #[error(
        "{peer} refuses a client's certificate with a common name (CN) while users are switched on: etcd's JSON gateway \
         does not take it for a user; use one with its names in subjectAltName alone, and write etcds://user:password@host"
    )]
    CommonName { peer: String },
    #[error("{peer} answered {answer:?}")]
    Unexpected { peer: String, answer: String },
    #[error("{peer}: {text}")]
    Answered { peer: String, text: String },
    #[error("{peer}: {text}")]
    Full { peer: String, text: String },
    #[error(
        "{peer}: {text}; name a user who may read and write the keys: etcd://user:password@host"
    )]
    NoLogin { peer: String, text: String },
    #[error("the key holds something that dlock did not write")]
    ForeignKey,
    #[error("the reply was lost, and there was nothing to free when the request was repeated")]
    ReplyLost,
    #[error("the connection broke after the claim was sent, so the claim may still be carried out")]
    LostCopy,
    #[error("the leader has changed, and does not know yet how long leases last")]
    LeaderChanges,
    #[error("the lease ended before the key was written")]
    LeaseEnded,
    #[error("the key changed its holder again and again during the call")]
    Contended,
}

/// gRPC's numbers of errors.
mod code {
    pub(super) const INVALID_ARGUMENT: i64 = 3;
    pub(super) const NOT_FOUND: i64 = 5;
    pub(super) const PERMISSION_DENIED: i64 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i64 = 8;
    pub(super) const FAILED_PRECONDITION: i64 = 9;
    pub(super) const OUT_OF_RANGE: i64 = 11;
    pub(super) const UNIMPLEMENTED: i64 = 12;
    pub(super) const UNAVAILABLE: i64 = 14;
    pub(super) const UNAUTHENTICATED: i64 = 16;
}

/// An error that the server answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) error: DatastoreError,
    /// Whether another node, or another login, may answer better.
    pub(crate) ends_connection: bool,
}

/// The error of an answer with this HTTP status, if it is one.
pub(crate) fn answered(peer: &str, status: u16, answer: &Value) -> Option<Answered> {
    // Later versions of the gateway have the message alone.
    let text = answer.get("error").or_else(|| answer.get("message"));
    if status == OK && answer.get("error").is_none() {
        return None;
    }
    let text = text.and_then(Value::as_str).unwrap_or_default();
    let code = answer.get("code").and_then(Value::as_i64);
    // An error of the gateway itself may have no number. It counts as one that says nothing.
    let code = code.unwrap_or_default();
    let names = |part: &str| text.contains(part);
    let problem = Problem::Answered {
        peer: peer.to_owned(),
        text: escaped(text).into_owned(),
    };
    let refused = |ends_connection, problem| Answered {
        error: DatastoreError::not_executed(ErrorKind::Refused, problem),
        ends_connection,
    };
    Some(match code {
        // The token has expired, or users were changed since: a new login helps.
        code::UNAUTHENTICATED => refused(true, problem),
        code::INVALID_ARGUMENT if names("revision of auth store is old") => refused(true, problem),
        code::PERMISSION_DENIED => refused(false, no_login(peer, text)),
        code::INVALID_ARGUMENT if names("user name") || names("authentication failed") => {
            refused(false, no_login(peer, text))
        }
        code::UNAVAILABLE if names("no leader") => refused(true, problem),
        code::RESOURCE_EXHAUSTED if names("space") => refused(false, full(peer, text)),
        // Too many requests.
        code::RESOURCE_EXHAUSTED => refused(false, problem),
        code::NOT_FOUND | code::FAILED_PRECONDITION => Answered {
            error: DatastoreError::not_executed(ErrorKind::Stale, problem),
            ends_connection: false,
        },
        code::INVALID_ARGUMENT | code::OUT_OF_RANGE => Answered {
            error: DatastoreError::not_executed(ErrorKind::Invalid, problem),
            ends_connection: false,
        },
        code::UNIMPLEMENTED => Answered {
            error: DatastoreError::not_executed(ErrorKind::Unsupported, problem),
            ends_connection: false,
        },
        // Timed out, the leader has changed or has stopped: it may have been carried out.
        _ => Answered {
            error: DatastoreError::maybe_executed(ErrorKind::Unreachable, problem),
            ends_connection: true,
        },
    })
}

fn full(peer: &str, text: &str) -> Problem {
    Problem::Full {
        peer: peer.to_owned(),
        text: escaped(text).into_owned(),
    }
}

/// Whether the server refused for lack of space. If it found that out too late, it has carried out
/// what it refuses.
pub(crate) fn is_full(error: &DatastoreError) -> bool {
    let source = std::error::Error::source(error);
    let problem = source.and_then(|source| source.downcast_ref::<Problem>());
    matches!(problem, Some(Problem::Full { .. }))
}

fn no_login(peer: &str, text: &str) -> Problem {
    Problem::NoLogin {
        peer: peer.to_owned(),
        text: escaped(text).into_owned(),
    }
}

/// The error of an answer in plain text, which the gateway gives before it asks etcd.
pub(crate) fn plain_answer(peer: &str, status: u16, body: &[u8]) -> Option<Answered> {
    let peer = peer.to_owned();
    let (kind, problem) = match status {
        NOT_FOUND => (ErrorKind::Unsupported, Problem::NoGateway { peer }),
        BAD_REQUEST if body.starts_with(b"CommonName of client") => {
            (ErrorKind::Invalid, Problem::CommonName { peer })
        }
        _ => return None,
    };
    Some(Answered {
        error: DatastoreError::not_executed(kind, problem),
        ends_connection: false,
    })
}

/// The same error of a first request with a hint, if it is what a node that expects TLS does with a
/// plain one.
pub(crate) fn perhaps_tls(error: DatastoreError) -> DatastoreError {
    let source = std::error::Error::source(&error);
    let source = source.and_then(|source| source.downcast_ref::<NetError>());
    match source {
        Some(source) if may_expect_tls(source.io_kind()) => {
            let text = source.to_string();
            DatastoreError::not_executed(error.kind(), Problem::PerhapsTls { text })
        }
        _ => error,
    }
}

/// The error of an answer that is none of ours.
pub(crate) fn unexpected(peer: &str, answer: &Value) -> DatastoreError {
    let peer = peer.to_owned();
    let answer = answer.to_string().chars().take(SHOWN).collect();
    DatastoreError::maybe_executed(ErrorKind::Protocol, Problem::Unexpected { peer, answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_answer_says_whether_it_was_carried_out() {
        for (code, text, kind, may_have) in [
            (14, "etcdserver: no leader", ErrorKind::Refused, false),
            (
                14,
                "etcdserver: request timed out",
                ErrorKind::Unreachable,
                true,
            ),
            (
                14,
                "etcdserver: leader changed",
                ErrorKind::Unreachable,
                true,
            ),
            (4, "context deadline exceeded", ErrorKind::Unreachable, true),
            (2, "raft proposal dropped", ErrorKind::Unreachable, true),
            (
                8,
                "etcdserver: mvcc: database space exceeded",
                ErrorKind::Refused,
                false,
            ),
            (
                8,
                "etcdserver: too many requests",
                ErrorKind::Refused,
                false,
            ),
            (
                7,
                "etcdserver: permission denied",
                ErrorKind::Refused,
                false,
            ),
            (
                16,
                "etcdserver: invalid auth token",
                ErrorKind::Refused,
                false,
            ),
            (
                3,
                "etcdserver: user name is empty",
                ErrorKind::Refused,
                false,
            ),
            (
                3,
                "etcdserver: revision of auth store is old",
                ErrorKind::Refused,
                false,
            ),
            (
                3,
                "etcdserver: key is not provided",
                ErrorKind::Invalid,
                false,
            ),
            (
                5,
                "etcdserver: requested lease not found",
                ErrorKind::Stale,
                false,
            ),
            (
                9,
                "etcdserver: lease already exists",
                ErrorKind::Stale,
                false,
            ),
            (
                11,
                "etcdserver: too large lease TTL",
                ErrorKind::Invalid,
                false,
            ),
            (12, "unknown service", ErrorKind::Unsupported, false),
        ] {
            let answer = json!({"error": text, "message": text, "code": code});
            let error = answered("here:1", 400, &answer).unwrap().error;
            assert_eq!(
                (error.kind(), error.may_have_executed()),
                (kind, may_have),
                "{text}"
            );
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(answered("here:1", 200, &json!({"header": {}})).is_none());
    }

    #[test]
    fn the_errors_of_later_gateways_are_read_too() {
        let text = "etcdserver: requested lease not found";
        let answer = json!({"code": 5, "message": text, "details": []});
        let error = answered("here:1", 404, &answer).unwrap().error;
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert!(error.to_string().contains(text), "{error}");
        let unknown = answered("here:1", 500, &json!({})).unwrap();
        assert!(unknown.error.may_have_executed() && unknown.ends_connection);
    }

    #[test]
    fn control_characters_in_a_servers_text_are_escaped() {
        let answer = json!({"error": "busy\u{1b}[2J\u{202e}", "code": 8});
        let error = answered("here:1", 429, &answer).unwrap().error;
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(reason, r"here:1: busy\u{1b}[2J\u{202e}");
    }
}
