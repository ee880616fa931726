//! The messages of dlock itself: lines on standard error that begin with `dlock: `.

use std::error::Error;
use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

/// Whether messages are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// From now on each message is a JSON object.
pub(crate) fn report_as_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Prints one line. A closed or full standard error is not a failure.
pub(crate) fn report(message: impl Display) {
    report_with(message, json!({}));
}

/// The same with facts, each under its own name, for messages that are JSON.
pub(crate) fn report_with(message: impl Display, facts: Value) {
    let message = escaped(&message.to_string());
    let line = match JSON.load(Ordering::Relaxed) {
        false => format!("dlock: {message}\n"),
        true => format!("{}\n", as_json(&message, facts)),
    };
    // One write, so that lines of several processes do not mix in a shared log.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn as_json(message: &str, facts: Value) -> Value {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let mut object = json!({ "source": "dlock", "unix_ms": now, "message": message });
    if let (Value::Object(object), Value::Object(facts)) = (&mut object, facts) {
        object.extend(facts);
    }
    object
}

/// Prints one line if standard error accepts it now, for a caller that must not wait for the reader
/// of a full pipe.
pub(crate) fn report_if_writable(message: impl Display) {
    let stderr = rustix::stdio::stderr();
    let mut stderr = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
    if poll(&mut stderr, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        report(message);
    }
}

/// A text from outside, without what could move a terminal's cursor, fake a line, or display a text
/// in another order than it is stored. Escaping twice gives the same result as escaping once.
pub(crate) fn escaped(text: &str) -> String {
    dlock_url::escaped(text).into_owned()
}

/// An error with its chain of causes, on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
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
    escaped(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\u{1b}[2Jb\nß'"), "a\\u{1b}[2Jb\\nß'");
    }

    #[test]
    fn invisible_characters_and_text_direction_are_escaped() {
        assert_eq!(escaped("a\u{202e}b"), "a\\u{202e}b");
        for code in [
            0x7f, 0x85, 0x9b, 0xad, 0x61c, 0x180e, 0x200b, 0x200d, 0x200e, 0x200f, 0x2028, 0x2029,
            0x202a, 0x202d, 0x2060, 0x2066, 0x2069, 0xfeff, 0xe0041,
        ] {
            let c = char::from_u32(code).unwrap();
            let once = escaped(&c.to_string());
            assert!(once.is_ascii(), "{code:x}");
            assert_eq!(escaped(&once), once);
        }
        let texts = "naïve Zoë ß 日本 nai\u{308}ve 🙂 ק";
        assert_eq!(escaped(texts), texts);
    }

    #[test]
    fn an_error_is_printed_with_its_cause_once() {
        let cause = std::io::Error::other("no route");
        let error =
            dlock_core::DatastoreError::not_executed(dlock_core::ErrorKind::Unreachable, cause);
        assert_eq!(
            with_causes(&error),
            "the store cannot be reached; nothing was done: no route"
        );
    }
}
