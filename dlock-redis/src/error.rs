//! What the server's refusals mean.

#[cfg(feature = "tokio")]
use std::error::Error as _;
use std::fmt;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::escaped;
use thiserror::Error;

/// The server answered with an error. It is the source of the [`DatastoreError`] that such an
/// answer becomes.
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

/// Redis repeats the arguments of a command that it does not know, and one of them may be a
/// password or an owner token.
const ARGUMENTS: &str = ", with args beginning with";
/// Redis' longest text, on its protected mode, has a thousand characters and says at its end what
/// to do. What is no Redis server may answer anything, at any length.
const LONGEST: usize = 1500;
/// A part of a password of this length is taken for the password.
const GIVEAWAY: usize = 4;

/// What Redis says of logins. None of these texts has a part of the login in it, but a password may
/// be a part of them.
const KNOWN_OF_LOGINS: [&str; 5] = [
    "AUTH <password> called without any password configured for the default user.",
    "Client sent AUTH, but no password is set",
    "invalid username-password pair or user is disabled.",
    "invalid password",
    "unknown command",
];

/// Whether a text has in it a part of `secret` that gives it away.
fn repeats(text: &str, secret: &str) -> bool {
    let secret = secret.as_bytes();
    let part = secret.len().min(GIVEAWAY);
    part > 0
        && secret
            .windows(part)
            .any(|part| text.as_bytes().windows(part.len()).any(|at| at == part))
}

impl ServerError {
    pub(crate) fn new(code: &str, message: &str) -> Self {
        let message = message
            .split_once(ARGUMENTS)
            .map_or(message, |(message, _)| message);
        let shown = |text: &str| {
            let cut: String = text.chars().take(LONGEST).collect();
            let more = if cut.len() < text.len() { "…" } else { "" };
            format!("{}{more}", escaped(&cut))
        };
        ServerError {
            code: shown(code),
            message: shown(message),
        }
    }

    /// The same without its text if that repeats a part of `secret`, as what is no Redis server
    /// may.
    pub(crate) fn without(mut self, secret: &str) -> Self {
        let is_known = KNOWN_OF_LOGINS
            .iter()
            .any(|known| self.message.starts_with(known));
        if !is_known && repeats(&format!("{} {}", self.code, self.message), secret) {
            self.code = "ERR".to_owned();
            self.message.clear();
        }
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

    /// What follows the first word.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether the server does not know the command.
    pub(crate) fn is_of_unknown_command(&self) -> bool {
        self.message.starts_with("unknown command")
    }

    /// Whether a new connection may fare better: after a failover it leads to the new primary. To a
    /// node of a cluster it leads to the same node.
    pub(crate) fn ends_connection(&self, in_cluster: bool) -> bool {
        match self.code.as_str() {
            "READONLY" | "MASTERDOWN" | "LOADING" | "NOREPLICAS" | "NOAUTH" => true,
            "MOVED" => !in_cluster,
            _ => self.kind() == ErrorKind::Protocol,
        }
    }

    /// Whether the server that answered `error` is the wrong one, and has done nothing.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_of_wrong_server(error: &DatastoreError) -> bool {
        let source = error.source().and_then(|source| source.downcast_ref());
        let ends = |error: &Self| error.ends_connection(true);
        error.kind() == ErrorKind::Refused && source.is_some_and(ends)
    }

    /// The kind, and whether the command may have been carried out all the same.
    fn meaning(&self) -> (ErrorKind, bool) {
        let by_text = || match self.message.as_str() {
            text if text.starts_with("max number of clients") => Some(ErrorKind::Refused),
            // A password for a server without one.
            text if KNOWN_OF_LOGINS[..2]
                .iter()
                .any(|known| text.starts_with(known)) =>
            {
                Some(ErrorKind::Refused)
            }
            _ if self.is_of_unknown_command() => Some(ErrorKind::Unsupported),
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
            // Something between us and the server may speak for it, and not know whether the
            // command arrived.
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

/// The error of a call that was answered as no call of its kind is.
pub(crate) fn unexpected(answer: &impl fmt::Debug) -> DatastoreError {
    let message = format!("an answer to another question: {answer:?}");
    DatastoreError::maybe_executed(ErrorKind::Protocol, message)
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
            (
                "ERR",
                "AUTH <password> called without any password configured for the default user. Are you sure",
                Refused,
                false,
            ),
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
    fn a_text_is_shown_to_the_part_that_says_what_to_do() {
        let text = format!(
            "{} do this",
            "Redis is running in protected mode. ".repeat(30)
        );
        let shown = ServerError::new("DENIED", &text).to_string();
        assert!(shown.ends_with("do this"), "{shown}");
        let endless = ServerError::new("ERR", &"x".repeat(1 << 20)).to_string();
        assert!(endless.len() < 2000 && endless.ends_with('…'));
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_is_shown() {
        let shown = ServerError::new("E\u{1b}", "a\u{202e}b\r\n\u{2066}c").to_string();
        assert_eq!(
            shown,
            r"the Redis server says: E\u{1b} a\u{202e}b\r\n\u{2066}c"
        );
    }

    #[test]
    fn a_login_that_is_repeated_is_not_shown_and_other_texts_are() {
        let shown = |code, message| {
            let error = ServerError::new(code, message).without("s3cret-password");
            format!("{error} {error:?}")
        };
        for message in ["bad login s3cret-password", "bad \"3cret-p...\"", "word"] {
            let shown = shown("ERR", message);
            assert!(
                !shown.contains("cret") && !shown.contains("word"),
                "{shown}"
            );
        }
        assert!(!shown("s3cret-password", "x").contains("s3cret"));
        let known = "AUTH <password> called without any password configured for the default user. \
                     Are you sure your configuration is correct?";
        assert!(shown("ERR", known).contains("Are you sure"));
        assert!(shown("ERR", "something else").contains("something else"));
        let short = ServerError::new("ERR", "a text").without("t");
        assert_eq!(short.to_string(), "the Redis server says: ERR");
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
