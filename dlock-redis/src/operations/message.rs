//! The messages that a process receives about its waiters.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::OwnerToken;
use redis::Value;

use super::reply::{Unanswered, server_error};

/// The channel on which a process is notified of locks that are handed to its waiters.
const CHANNEL: &str = "dlock:wake:";

/// The channel of a process.
pub(crate) fn channel(process: &str) -> String {
    format!("{CHANNEL}{process}")
}

/// A message to a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The subscription is there.
    Subscribed,
    /// A waiter was handed the lock, and should claim it.
    Claim(OwnerToken, Arc<str>),
    /// The record at this key names this process and this owner. If it has released the lock
    /// already, an old copy of the data has brought the record back.
    Asked(OwnerToken, Arc<str>),
    /// The lock ends sooner than the next waiter knows.
    Ends(Duration, Arc<str>),
    /// A heartbeat of this process arrived, or a newer version of dlock sent a message that this
    /// one does not know. Either way messages arrive.
    Ping,
}

/// Reads a message, or the answer to SUBSCRIBE.
///
/// # Errors
///
/// What the server refused with, or something that nobody sends there.
pub(crate) fn message(reply: &Value) -> Result<Message, Unanswered> {
    let parts = match reply {
        Value::Array(parts) => parts.as_slice(),
        Value::ServerError(error) => return Err(Unanswered::Refused(server_error(error))),
        _ => return Err(Unanswered::Malformed),
    };
    match parts {
        [Value::BulkString(kind), Value::BulkString(_), Value::Int(1)] if kind == b"subscribe" => {
            Ok(Message::Subscribed)
        }
        [
            Value::BulkString(kind),
            Value::BulkString(_),
            Value::BulkString(text),
        ] if kind == b"message" => parse(text).ok_or(Unanswered::Malformed),
        _ => Err(Unanswered::Malformed),
    }
}

fn parse(text: &[u8]) -> Option<Message> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.splitn(3, ' ');
    Some(match (words.next()?, words.next(), words.next()) {
        ("claim", Some(token), Some(key)) => {
            Message::Claim(OwnerToken::from_hex(token)?, key.into())
        }
        ("asked", Some(token), Some(key)) => {
            Message::Asked(OwnerToken::from_hex(token)?, key.into())
        }
        ("ends", Some(left), Some(key)) => {
            Message::Ends(Duration::from_millis(left.parse().ok()?), key.into())
        }
        _ => Message::Ping,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn received(text: &str) -> Result<Message, Unanswered> {
        message(&Value::Array(vec![
            bulk("message"),
            bulk("channel"),
            bulk(text),
        ]))
    }

    #[test]
    fn messages_are_read_and_what_a_newer_version_tells_is_heard_only() {
        let owner = OwnerToken::random().unwrap();
        assert_eq!(
            received(&format!("claim {owner} dlock:x")),
            Ok(Message::Claim(owner, "dlock:x".into()))
        );
        assert_eq!(
            received(&format!("asked {owner} dlock:x")),
            Ok(Message::Asked(owner, "dlock:x".into()))
        );
        let ends = Message::Ends(Duration::from_millis(250), "dlock:x".into());
        assert_eq!(received("ends 250 dlock:x"), Ok(ends));
        for text in ["ping", "moved dlock:x elsewhere", "claim", "ends", ""] {
            assert_eq!(received(text), Ok(Message::Ping), "{text:?}");
        }
    }

    #[test]
    fn what_nobody_sends_is_odd() {
        for text in [
            "claim 12 dlock:x",
            "asked 12 dlock:x",
            "ends soon dlock:x",
            "ends -1 dlock:x",
        ] {
            assert_eq!(received(text), Err(Unanswered::Malformed), "{text:?}");
        }
        for reply in [
            Value::Okay,
            Value::Int(1),
            Value::Array(vec![bulk("message")]),
        ] {
            assert_eq!(message(&reply), Err(Unanswered::Malformed), "{reply:?}");
        }
        let subscribed = vec![bulk("subscribe"), bulk("channel"), Value::Int(1)];
        assert_eq!(message(&Value::Array(subscribed)), Ok(Message::Subscribed));
    }
}
