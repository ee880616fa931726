//! Replies as answers.

use std::time::Duration;

use dlock_core::{FencingToken, Held, OwnerToken};
use redis::Value;

use super::request::Call;
use crate::error::ServerError;

/// What a script answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted {
        fence: FencingToken,
        /// `None` for as long as was asked.
        left: Option<Duration>,
    },
    Held(Held),
    /// Held, and the claimant is in the queue.
    Queued(Held, QueuePlace),
    /// What a process finds at a key where some of it wait.
    Looked(Look),
    /// How long the lease lasts; `None` for as long as was asked.
    Extended(Option<Duration>),
    Lost,
    Released(bool),
    /// The call came too late and did nothing.
    Stale,
    /// The server does not know the script; nothing was done.
    NoScript,
}

/// Where a claimant is in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuePlace {
    /// The generation of its process; a process whose waiters were taken off the queue begins a new one.
    pub(crate) generation: i64,
    pub(crate) is_first: bool,
}

/// What a process finds at a key where some of it wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// The waiter of this process that the lock was handed to and that has not claimed it yet.
    pub(crate) handed_to: Option<OwnerToken>,
    pub(crate) left: Left,
    /// Whether one of its waiters is the next.
    pub(crate) has_next: bool,
    pub(crate) generation: i64,
}

/// How long a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Free,
    Endless,
    For(Duration),
}

/// The server's time in µs, if it told.
pub(crate) type ServerTime = Option<i64>;

/// Reads the reply to a call of a script.
///
/// # Errors
///
/// What the server refused with, or a reply that no script of ours gives.
pub(crate) fn answer(reply: &Value, call: &Call<'_>) -> Result<(Answer, ServerTime), Unanswered> {
    match reply {
        Value::Int(number) => short(*number, call).ok_or(Unanswered::Odd),
        Value::ServerError(error) if error.code() == "NOSCRIPT" => Ok((Answer::NoScript, None)),
        Value::ServerError(error) => Err(Unanswered::Refused(server_error(error))),
        Value::Array(parts) => parts_of(parts).ok_or(Unanswered::Odd),
        _ => Err(Unanswered::Odd),
    }
}

/// Less is no time of a server, in µs: it was before the year 2001.
const LEAST_TIME: i64 = 1_000_000_000_000_000;

/// The usual answers: a number says it all.
fn short(number: i64, call: &Call<'_>) -> Option<(Answer, ServerTime)> {
    Some(match (call, number) {
        (Call::Acquire { .. }, LEAST_TIME..) => {
            let fence = FencingToken::new(number.unsigned_abs());
            (Answer::Granted { fence, left: None }, Some(number))
        }
        (Call::Extend(..), 0) => (Answer::Lost, None),
        (Call::Extend(..), LEAST_TIME..) => (Answer::Extended(None), Some(number)),
        (Call::Release { .. }, 0 | 1) => (Answer::Released(number == 1), None),
        _ => return None,
    })
}

/// Why a reply is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    Refused(ServerError),
    /// No reply to what was asked.
    Odd,
}

fn parts_of(parts: &[Value]) -> Option<(Answer, ServerTime)> {
    let (Value::BulkString(name), rest) = parts.split_first()? else {
        return None;
    };
    match (name.as_slice(), rest) {
        (b"granted", [Value::Int(fence), Value::Int(left), Value::Int(now)]) => {
            let fence = FencingToken::new(u64::try_from(*fence).ok()?);
            let left = Some(duration(*left)?);
            Some((Answer::Granted { fence, left }, Some(*now)))
        }
        (
            b"held",
            [
                Value::BulkString(record),
                Value::Int(left),
                Value::Int(now),
                Value::Int(fence),
            ],
        ) => Some((Answer::Held(held(record, *left, *fence)), Some(*now))),
        (
            b"queued",
            [
                Value::BulkString(record),
                Value::Int(left),
                Value::Int(now),
                Value::Int(fence),
                Value::Int(generation),
                Value::Int(first),
            ],
        ) => {
            let place = QueuePlace {
                generation: *generation,
                is_first: *first == 1,
            };
            Some((
                Answer::Queued(held(record, *left, *fence), place),
                Some(*now),
            ))
        }
        (
            b"looked",
            [
                Value::BulkString(token),
                Value::Int(left),
                Value::Int(next),
                Value::Int(generation),
                Value::Int(now),
            ],
        ) => {
            let look = Look {
                handed_to: std::str::from_utf8(token)
                    .ok()
                    .and_then(OwnerToken::from_hex),
                left: match (*left, duration(*left)) {
                    (_, Some(left)) => Left::For(left),
                    (-1, None) => Left::Endless,
                    _ => Left::Free,
                },
                has_next: *next == 1,
                generation: *generation,
            };
            Some((Answer::Looked(look), Some(*now)))
        }
        (b"extended", [Value::Int(left), Value::Int(now)]) => {
            Some((Answer::Extended(duration(*left)), Some(*now)))
        }
        (b"stale", [Value::Int(now)]) => Some((Answer::Stale, Some(*now))),
        _ => None,
    }
}

/// A refusal, from what follows the owner token in a record. One that we did not write has an unknown holder and no fencing token.
fn held(record: &[u8], left: i64, fence: i64) -> Held {
    let held = match duration(left) {
        Some(left) => Held::new().with_expires_in(left),
        None => Held::new(),
    };
    let holder = || {
        // A sequence, or the process that the lock was handed to.
        let (state, holder) = std::str::from_utf8(record).ok()?.split_once(' ')?;
        let is_ours = state.starts_with('@') || state.parse::<u64>().is_ok();
        is_ours.then_some(holder)
    };
    let Some(holder) = holder() else { return held };
    let held = held.with_holder_text(holder);
    match u64::try_from(fence) {
        Ok(fence @ 1..) => held.with_fence(FencingToken::new(fence)),
        _ => held,
    }
}

/// The server's time from the reply to TIME, in µs.
pub(crate) fn time(reply: &Value) -> Result<i64, Unanswered> {
    let number = |value: &Value| match value {
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let time = |parts: &[Value]| match parts {
        [seconds, micros] => number(seconds)?
            .checked_mul(1_000_000)?
            .checked_add(number(micros)?),
        _ => None,
    };
    match reply {
        Value::Array(parts) => time(parts).ok_or(Unanswered::Odd),
        Value::ServerError(error) => Err(Unanswered::Refused(server_error(error))),
        _ => Err(Unanswered::Odd),
    }
}

/// That the server took a command which has nothing to say: AUTH, SELECT.
pub(crate) fn done(reply: &Value) -> Result<(), Unanswered> {
    match reply {
        Value::Okay => Ok(()),
        Value::ServerError(error) => Err(Unanswered::Refused(server_error(error))),
        _ => Err(Unanswered::Odd),
    }
}

pub(super) fn server_error(error: &redis::ServerError) -> ServerError {
    ServerError::new(error.code(), error.details().unwrap_or_default())
}

/// `None` for the negative numbers that PTTL has for "no end".
fn duration(millis: i64) -> Option<Duration> {
    u64::try_from(millis).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests;
