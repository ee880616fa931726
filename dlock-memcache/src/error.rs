//! The errors of servers and answers.

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::escaped;
use memcache::exp;
use thiserror::Error;

/// A problem of this server, or of a key or time on it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum Problem {
    #[error("{peer} is memcached {version}; locks need 1.6 or newer")]
    TooOld { peer: String, version: String },
    #[error("{peer} does not speak memcached's meta protocol, which came with version 1.6")]
    NoMeta { peer: String },
    #[error(
        "{peer} runs with -C (no CAS numbers), so a lock could not be released safely; start it without -C"
    )]
    NoCas { peer: String },
    #[error(
        "{peer} runs with -M (no evictions): when it is full, a claim that it refuses deletes the holder's lock; start it without -M"
    )]
    NoEvictions { peer: String },
    #[error(
        "{peer} leads to several memcached servers in turn, which know nothing of each other's locks: give the address of one server, not of a balancer or a name with several addresses"
    )]
    SeveralServers { peer: String },
    #[error(
        "{peer} started before 2020 by its own clock, so fencing tokens could not rise: set its clock and restart it"
    )]
    ClockBehind { peer: String },
    #[error("{peer} has just started; it grants locks once it has been up for two seconds")]
    JustStarted { peer: String },
    #[error("{peer} answered {answer:?}")]
    Unexpected { peer: String, answer: String },
    #[error("{peer}: its CAS numbers are too large for fencing tokens; restart it")]
    FenceOverflow { peer: String },
    #[error("a key has 1 to 250 bytes of printable ASCII without space")]
    Key,
    #[error("a time to live is 1 s to 29 days 23 h 59 min 58 s on memcached")]
    Ttl,
    #[error("the reply was lost, and there was nothing to free when the request was repeated")]
    ReplyLost,
    #[error("the connection broke after the claim was sent, so the claim may still be carried out")]
    LostCopy,
    #[error("the key changed its holder again and again during the call")]
    Contended,
    #[error("there was no time left to verify how long the server keeps the key")]
    Unverified,
}

/// The error of a command that the server answered with an error or with something unexpected.
pub(crate) fn answered(peer: &str, error: exp::Error) -> DatastoreError {
    let text = |message: String| format!("{peer}: {}", escaped(&message));
    match error {
        // After a failed store the server may have deleted the old value.
        exp::Error::Server(message) => {
            DatastoreError::maybe_executed(ErrorKind::Refused, text(message))
        }
        exp::Error::Rejected(message) => {
            DatastoreError::not_executed(ErrorKind::Unsupported, text(message))
        }
        other => DatastoreError::maybe_executed(ErrorKind::Protocol, text(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_a_servers_text_are_escaped() {
        let error = exp::Error::Server("busy\u{1b}[2J\u{202e}".to_owned());
        let error = answered("here:1", error);
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(reason, r"here:1: busy\u{1b}[2J\u{202e}");
    }
}
