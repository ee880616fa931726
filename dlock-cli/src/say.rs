//! What dlock itself says: lines on standard error that begin with `dlock: `.

use std::error::Error;
use std::fmt::Display;
use std::io::Write as _;

/// Prints one line. A standard error that is closed or full is no reason to fail.
pub(crate) fn say(message: impl Display) {
    let line = format!("dlock: {message}\n");
    // One write, so that the lines of many processes in one log do not mix.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// A text from outside, without what could move a terminal's cursor or fake a line.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let keep = escape.is_none().then_some(c);
            escape.into_iter().flatten().chain(keep)
        })
        .collect()
}

/// An error with everything that led to it, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        // Some errors repeat their source in their own text.
        if !text.contains(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        source = error.source();
    }
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_move_a_cursor_is_escaped() {
        assert_eq!(plain("a\u{1b}[2Jb\nß'"), "a\\u{1b}[2Jb\\nß'");
    }

    #[test]
    fn an_error_is_told_with_its_cause_once() {
        let cause = std::io::Error::other("no route");
        let error =
            dlock_core::DatastoreError::not_executed(dlock_core::ErrorKind::Unreachable, cause);
        assert_eq!(
            chain(&error),
            "the store cannot be reached; nothing was done: no route"
        );
    }
}
