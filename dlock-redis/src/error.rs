//! What the server's refusals mean.

use dlock_core::{DatastoreError, ErrorKind};
use thiserror::Error;

/// The server answered with an error. It is the source of the [`DatastoreError`] that such an answer becomes.
///
/// | code | kind | may have been executed |
/// | --- | --- | --- |
/// | `OOM` (full), `READONLY` (a replica), `LOADING`, `MASTERDOWN`, `NOREPLICAS`, `MISCONF`, `BUSY`, `CLUSTERDOWN`, `TRYAGAIN`, `QUEUEFULL` (ours) | `Refused` | no |
/// | `NOAUTH`, `WRONGPASS`, `NOPERM`, `DENIED`, too many clients | `Refused` | no |
/// | `MOVED`, `ASK`, `CROSSSLOT` (a cluster), unknown command | `Unsupported` | no |
/// | `WRONGTYPE` (on acquire) | `ForeignKey` | no |
/// | anything else | `Protocol` | yes |
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the Redis server says: {}", [code, message].map(String::as_str).join(" ").trim_end())]
pub struct ServerError {
    code: String,
    message: String,
}

/// Redis repeats the arguments of a command that it does not know, and one of them may be a password or an owner token.
const ARGUMENTS: &str = ", with args beginning with";
/// What is no Redis server may answer anything, at any length.
const LONGEST: usize = 200;

impl ServerError {
    pub(crate) fn new(code: &str, message: &str) -> Self {
        let message = message
            .split_once(ARGUMENTS)
            .map_or(message, |(message, _)| message);
        let shown = |text: &str| {
            let harmless = |c: char| if c.is_control() { '?' } else { c };
            text.chars().take(LONGEST).map(harmless).collect()
        };
        ServerError {
            code: shown(code),
            message: shown(message),
        }
    }

    /// The same without its text, where that might repeat a password.
    pub(crate) fn without_message(mut self) -> Self {
        self.message.clear();
        self
    }

    /// Its first word: `OOM`, `NOAUTH`, `ERR`.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.meaning().0
    }

    /// Whether a new connection may fare better: after a failover it leads to the new primary.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(
            self.code.as_str(),
            "READONLY" | "MASTERDOWN" | "NOAUTH" | "MOVED"
        ) || self.kind() == ErrorKind::Protocol
    }

    /// The kind, and whether the command may have been carried out all the same.
    fn meaning(&self) -> (ErrorKind, bool) {
        let by_text = || match self.message.as_str() {
            text if text.starts_with("max number of clients") => Some(ErrorKind::Refused),
            text if text.starts_with("unknown command") => Some(ErrorKind::Unsupported),
            text if text.contains("The user executing the script can't") => {
                Some(ErrorKind::Refused)
            }
            // Before version 7 an error inside of a script has its code in the text.
            text if text.contains("user_script") => {
                let mut words = text.split(|c: char| !c.is_ascii_uppercase());
                words.find_map(kind_of_code)
            }
            _ => None,
        };
        match kind_of_code(&self.code).or_else(by_text) {
            Some(kind) => (kind, false),
            // Something between us and the server may speak for it, and not know whether the command arrived.
            None => (ErrorKind::Protocol, true),
        }
    }
}

fn kind_of_code(code: &str) -> Option<ErrorKind> {
    match code {
        "OOM" | "READONLY" | "LOADING" | "MASTERDOWN" | "NOREPLICAS" | "MISCONF" | "BUSY"
        | "CLUSTERDOWN" | "TRYAGAIN" | "QUEUEFULL" | "NOAUTH" | "WRONGPASS" | "NOPERM"
        | "DENIED" => Some(ErrorKind::Refused),
        "MOVED" | "ASK" | "CROSSSLOT" => Some(ErrorKind::Unsupported),
        "WRONGTYPE" => Some(ErrorKind::ForeignKey),
        _ => None,
    }
}

impl From<ServerError> for DatastoreError {
    fn from(error: ServerError) -> Self {
        match error.meaning() {
            (kind, false) => DatastoreError::not_executed(kind, error),
            (kind, true) => DatastoreError::maybe_executed(kind, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_kind_and_says_whether_it_ran() {
        use ErrorKind::{ForeignKey, Protocol, Refused, Unsupported};
        for (code, message, kind, maybe) in [
            (
                "READONLY",
                "You can't write against a read only replica.",
                Refused,
                false,
            ),
            (
                "LOADING",
                "Redis is loading the dataset in memory",
                Refused,
                false,
            ),
            ("MASTERDOWN", "Link with MASTER is down", Refused, false),
            (
                "NOREPLICAS",
                "Not enough good replicas to write.",
                Refused,
                false,
            ),
            (
                "MISCONF",
                "Redis is configured to save RDB snapshots",
                Refused,
                false,
            ),
            ("BUSY", "Redis is busy running a script.", Refused, false),
            (
                "OOM",
                "command not allowed when used memory > 'maxmemory'.",
                Refused,
                false,
            ),
            ("CLUSTERDOWN", "The cluster is down", Refused, false),
            (
                "TRYAGAIN",
                "Multiple keys request during rehashing of slot",
                Refused,
                false,
            ),
            ("NOAUTH", "Authentication required.", Refused, false),
            (
                "WRONGPASS",
                "invalid username-password pair",
                Refused,
                false,
            ),
            ("NOPERM", "this user has no permissions", Refused, false),
            (
                "DENIED",
                "Redis is running in protected mode",
                Refused,
                false,
            ),
            ("ERR", "max number of clients reached", Refused, false),
            ("MOVED", "3999 127.0.0.1:6381", Unsupported, false),
            ("ASK", "3999 127.0.0.1:6381", Unsupported, false),
            (
                "CROSSSLOT",
                "Keys in request don't hash to the same slot",
                Unsupported,
                false,
            ),
            (
                "ERR",
                "unknown command 'EVALSHA', with args beginning with: 'x'",
                Unsupported,
                false,
            ),
            ("WRONGTYPE", "Operation against a key", ForeignKey, false),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:8: WRONGTYPE Operation",
                ForeignKey,
                false,
            ),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:8: -OOM command not allowed",
                Refused,
                false,
            ),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:8: nonsense",
                Protocol,
                true,
            ),
            (
                "ERR",
                "The user executing the script can't run this command",
                Refused,
                false,
            ),
            ("ERR", "upstream failure", Protocol, true),
            ("", "", Protocol, true),
        ] {
            let error = DatastoreError::from(ServerError::new(code, message));
            assert_eq!(
                (error.kind(), error.may_have_executed()),
                (kind, maybe),
                "{code} {message}"
            );
        }
    }

    #[test]
    fn arguments_that_the_server_repeats_are_not_shown() {
        let error = ServerError::new(
            "ERR",
            "unknown command `AUTH`, with args beginning with: `s3cret`, ",
        );
        assert_eq!(
            error.to_string(),
            "the Redis server says: ERR unknown command `AUTH`"
        );
        assert!(!format!("{error:?}").contains("s3cret"));
    }
}
