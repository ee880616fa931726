//! What a process is told about its waiters.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::OwnerToken;
use redis::Value;

use super::reply::{Unanswered, server_error};

/// Where a process is told about locks that are handed to its waiters.
const CHANNEL: &str = "dlock:wake:";

/// The channel of a process.
pub(crate) fn channel(process: &str) -> String {
    format!("{CHANNEL}{process}")
}

/// What a process is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The subscription is there.
    Subscribed,
    /// A waiter was handed the lock, and should claim it.
    Claim(OwnerToken),
    /// The lock ends sooner than the next waiter knows.
    Ends(Duration, Arc<str>),
    /// This process looked at a key. Shows that messages come through.
    Heard,
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
        _ => return Err(Unanswered::Odd),
    };
    match parts {
        [Value::BulkString(kind), Value::BulkString(_), Value::Int(1)] if kind == b"subscribe" => {
            Ok(Message::Subscribed)
        }
        [
            Value::BulkString(kind),
            Value::BulkString(_),
            Value::BulkString(text),
        ] if kind == b"message" => told(text).ok_or(Unanswered::Odd),
        _ => Err(Unanswered::Odd),
    }
}

fn told(text: &[u8]) -> Option<Message> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.splitn(3, ' ');
    Some(match (words.next()?, words.next(), words.next()) {
        ("heard", None, None) => Message::Heard,
        ("claim", Some(token), Some(_)) => Message::Claim(OwnerToken::from_hex(token)?),
        ("ends", Some(left), Some(key)) => {
            Message::Ends(Duration::from_millis(left.parse().ok()?), key.into())
        }
        _ => return None,
    })
}
