//! What the server's errors mean, and what can be wrong with a URL.

mod url;

use std::error::Error as _;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::escaped;
use thiserror::Error;

pub use url::UrlError;

/// PostgreSQL's texts are short. What is no PostgreSQL may answer anything, at any length.
const LONGEST: usize = 1000;
/// What the functions of the schema raise for a call after its end.
const TOO_LATE: &str = "DL002";

/// The server answered with an error. It is the source of the [`DatastoreError`] that such an
/// answer becomes.
///
/// | SQLSTATE | kind | may have been executed |
/// | --- | --- | --- |
/// | 55P03 (another transaction has locked the row), 57014 (`statement_timeout`, canceled) | `Timeout` | no |
/// | 25006 (a standby, read-only), 40… (serialization, deadlock), 53… (connections, memory, disk), 57P03 (starting) | `Refused` | no |
/// | 28… (login), 42501 (a right is missing) | `Refused` | no |
/// | 3F000, 42883, 42P01 (no schema `dlock`, or an older one), 3D000 (no such database) | `Unsupported` | no |
/// | DL002 (the claim came too late) | `Stale` | no |
/// | 08…, 57P01, 57P02, 25P04 (the connection or the server ends), 40003 | `Unreachable` | yes |
/// | 01… (the wait for a synchronous standby was canceled) | `Unreachable` | yes |
/// | anything else | `Protocol` | yes, if the error ends the connection |
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the PostgreSQL server says: {message} (SQLSTATE {code}){}",
    hint(code)
)]
pub struct ServerError {
    severity: String,
    code: String,
    message: String,
}

impl ServerError {
    pub(crate) fn new(severity: &str, code: &str, message: &str) -> Self {
        let cut: String = message.chars().take(LONGEST).collect();
        let code = escaped(&code.chars().take(5).collect::<String>()).to_string();
        ServerError {
            severity: severity.to_owned(),
            code,
            message: escaped(&cut).to_string(),
        }
    }

    /// Its SQLSTATE: `25006`, say.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.meaning().0
    }

    /// Returns whether nothing more comes on this connection, or another one may fare better: after
    /// a failover that leads to the new primary, and a commit that no standby has confirmed is
    /// confirmed together with the next one.
    pub(crate) fn ends_connection(&self) -> bool {
        self.severity != "ERROR" || self.code == "25006"
    }

    /// Returns whether the server has no prepared statement of this name, or has it for other
    /// columns than those of now. It did nothing.
    pub(crate) fn is_of_prepared_statement(&self) -> bool {
        matches!(self.code.as_str(), "26000" | "0A000")
    }

    /// The kind, and whether the statement may have been carried out all the same. Each statement
    /// is a transaction of its own, which an error rolls back; but a commit may wait for a standby
    /// when the connection ends.
    fn meaning(&self) -> (ErrorKind, bool) {
        let class = self.code.get(..2).unwrap_or_default();
        match (self.code.as_str(), class) {
            // Whether the transaction was committed is unknown: the one error of its class that
            // does not say no.
            ("40003", _) => (ErrorKind::Unreachable, true),
            ("55P03" | "57014", _) => (ErrorKind::Timeout, false),
            ("25006" | "42501" | "57P03", _) | (_, "28" | "40" | "53") => {
                (ErrorKind::Refused, false)
            }
            ("3F000" | "42883" | "42P01" | "3D000", _) => (ErrorKind::Unsupported, false),
            (TOO_LATE, _) => (ErrorKind::Stale, false),
            ("57P01" | "57P02" | "57P05" | "25P04", _) | (_, "01" | "08" | "58") => {
                (ErrorKind::Unreachable, true)
            }
            _ => (ErrorKind::Protocol, self.severity != "ERROR"),
        }
    }
}

/// What to do.
fn hint(code: &str) -> &'static str {
    match code {
        "3F000" | "42883" | "42P01" => {
            ": the schema `dlock` is missing or old; run its migration once, by \
             `dlock_postgres::ConnectionManager::migrate` or with psql"
        }
        "42501" => {
            ": GRANT USAGE ON SCHEMA dlock and EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock to the user"
        }
        _ => "",
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

/// Returns whether this is what a server has answered, over a connection that can be used further.
pub(crate) fn is_answer(error: &DatastoreError) -> bool {
    let answer = error.source().and_then(|source| source.downcast_ref());
    answer.is_some_and(|answer: &ServerError| !answer.ends_connection())
}

/// Returns whether this is the server's answer that another transaction has locked the row.
pub(crate) fn is_of_locked_row(error: &DatastoreError) -> bool {
    is_answer(error) && error.kind() == ErrorKind::Timeout
}

/// The error of a call that came too late.
pub(crate) fn stale() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Stale, "the server got the call after its end")
}

/// The error of a call that was answered as no call of its kind is.
pub(crate) fn unexpected() -> DatastoreError {
    DatastoreError::maybe_executed(
        ErrorKind::Protocol,
        "the row has other columns than expected",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(severity: &str, code: &str) -> DatastoreError {
        ServerError::new(severity, code, "text").into()
    }

    #[test]
    fn an_error_rolls_back_unless_the_connection_ends() {
        for (severity, code, kind, maybe) in [
            ("ERROR", "55P03", ErrorKind::Timeout, false),
            ("ERROR", "57014", ErrorKind::Timeout, false),
            ("ERROR", "25006", ErrorKind::Refused, false),
            ("ERROR", "40P01", ErrorKind::Refused, false),
            ("FATAL", "53300", ErrorKind::Refused, false),
            ("FATAL", "28P01", ErrorKind::Refused, false),
            ("ERROR", "42883", ErrorKind::Unsupported, false),
            ("ERROR", "DL002", ErrorKind::Stale, false),
            ("ERROR", "22012", ErrorKind::Protocol, false),
            ("ERROR", "40003", ErrorKind::Unreachable, true),
            ("WARNING", "01000", ErrorKind::Unreachable, true),
            ("FATAL", "25P04", ErrorKind::Unreachable, true),
            ("FATAL", "57P01", ErrorKind::Unreachable, true),
            ("FATAL", "08P01", ErrorKind::Unreachable, true),
            ("ERROR", "08P01", ErrorKind::Unreachable, true),
            ("FATAL", "XX000", ErrorKind::Protocol, true),
            ("", "", ErrorKind::Protocol, true),
        ] {
            let error = error(severity, code);
            assert_eq!(
                (error.kind(), error.may_have_executed()),
                (kind, maybe),
                "{code}"
            );
        }
    }

    #[test]
    fn each_code_that_means_something_has_its_kind() {
        use ErrorKind::{Refused, Timeout, Unreachable, Unsupported};
        for (codes, kind, maybe) in [
            (&["55P03", "57014"][..], Timeout, false),
            (
                &["25006", "42501", "57P03", "28000", "40001", "53100"],
                Refused,
                false,
            ),
            (&["3F000", "42883", "42P01", "3D000"], Unsupported, false),
            (
                &["57P01", "57P02", "57P05", "25P04", "08006", "58030"],
                Unreachable,
                true,
            ),
        ] {
            for code in codes {
                let error = error("ERROR", code);
                let found = (error.kind(), error.may_have_executed());
                assert_eq!(found, (kind, maybe), "{code}");
            }
        }
        let error = ServerError::new("ERROR", "25006", "text");
        assert_eq!((error.code(), error.kind()), ("25006", Refused));
    }

    #[test]
    fn only_an_error_of_a_connection_that_goes_on_is_an_answer() {
        assert!(is_answer(&error("ERROR", "55P03")));
        assert!(!is_answer(&error("FATAL", "57P01")));
        assert!(!is_answer(&error("ERROR", "25006")), "a standby");
        assert!(!is_answer(&stale()) && !is_answer(&unexpected()));
    }

    #[test]
    fn a_call_that_came_too_late_did_nothing_and_one_with_an_unexpected_answer_may_have() {
        let late = stale();
        assert_eq!(
            (late.kind(), late.may_have_executed()),
            (ErrorKind::Stale, false)
        );
        let answer = unexpected();
        assert_eq!(
            (answer.kind(), answer.may_have_executed()),
            (ErrorKind::Protocol, true)
        );
    }

    #[test]
    fn control_characters_in_a_servers_text_are_escaped_and_a_long_one_is_cut() {
        let text = format!("busy\u{1b}[2J{}", "x".repeat(5000));
        let error = ServerError::new("ERROR", "XX\u{7}00000", &text);
        let shown = error.to_string();
        assert!(
            shown.contains(r"busy\u{1b}[2J") && shown.len() < 1200,
            "{shown}"
        );
        assert!(!shown.contains('\u{7}'));
    }

    #[test]
    fn an_error_without_the_schema_says_what_to_run() {
        assert!(error("ERROR", "3F000").to_string().contains("migrate"));
        assert!(error("ERROR", "42501").to_string().contains("GRANT USAGE"));
        let text = error("ERROR", "22012").to_string();
        assert!(text.contains("text (SQLSTATE 22012)"), "{text}");
    }
}
