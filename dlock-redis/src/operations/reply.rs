//! Replies as answers.

use std::time::Duration;

use dlock_core::{DatastoreError, FencingToken, HeldBy, OwnerToken};
use dlock_net::may_have_executed;
use redis::Value;

use super::Deletes;
use super::call::Kind;
use crate::error::ServerError;
use crate::replicas::{Replicas, TooFewReplicas};

/// What a script answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted {
        fence: FencingToken,
        /// `None` for as long as was asked.
        left: Option<Duration>,
    },
    Held(HeldBy),
    /// Held, and the claimant is in the queue.
    Queued(HeldBy, QueuePlace),
    /// What a process finds at a key where some of it wait. In a box: it is larger than the others.
    Heartbeat(Box<HeartbeatReply>),
    /// How long the lease lasts; `None` for as long as was asked.
    Extended(Option<Duration>),
    Lost,
    /// Granted or extended, and too few replicas have acknowledged it. A grant has a token.
    Unacknowledged(TooFewReplicas, Option<FencingToken>),
    /// How many replicas have acknowledged what was sent before.
    Acknowledged(u32),
    Released(bool),
    /// The same, and how it could have been done without a script.
    ReleasedAnd(bool, Deletes),
    /// The server does not delete without a script; nothing was done.
    NotDeleted,
    /// Nobody holds the key.
    Free,
    /// How many wait.
    Waiting(usize),
    /// Keys, and where to go on; `None` at the end.
    Listed(Vec<String>, Option<u64>),
    /// The call came too late and did nothing.
    Stale,
    /// Somebody waits, or may wait: the call did nothing, since it did not name all keys. A release
    /// without a script is answered so also where its owner holds nothing, or something else.
    Marked,
    /// The server does not know the script; nothing was done.
    NoScript,
    /// The next call may use a slot that is being moved here.
    Asking,
}

impl Answer {
    /// What becomes of the answer, with how many replicas have acknowledged what was written.
    ///
    /// # Errors
    ///
    /// That of the question how many have, if anything was written. A node that carries nothing out
    /// refuses the question too, which changes nothing.
    pub(crate) fn acknowledged(
        self,
        by: Result<u32, DatastoreError>,
        replicas: Replicas,
    ) -> Result<Self, DatastoreError> {
        let by = match by {
            Ok(by) => by,
            Err(error) if matches!(self, Answer::Granted { .. } | Answer::Extended(_)) => {
                return Err(may_have_executed(error));
            }
            Err(_) => return Ok(self),
        };
        Ok(match self {
            Answer::Granted { fence, .. } if by < replicas.count => {
                Answer::Unacknowledged(replicas.error(by), Some(fence))
            }
            Answer::Extended(None) if by < replicas.count => {
                Answer::Unacknowledged(replicas.error(by), None)
            }
            // It was overtaken and wrote nothing, so nobody was waited for.
            Answer::Extended(Some(_)) => Answer::Unacknowledged(replicas.error(0), None),
            answer => answer,
        })
    }
}

/// Where a claimant is in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuePlace {
    /// The generation of its process; a process whose waiters were taken off the queue begins a new
    /// one.
    pub(crate) generation: i64,
    pub(crate) is_first: bool,
}

/// What a process finds at a key where some of it wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeartbeatReply {
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

/// The server's time in µs, if it said.
pub(crate) type ServerTime = Option<i64>;

/// Reads the reply to a call of this kind.
///
/// # Errors
///
/// What the server refused with, or a reply that no script of ours gives.
pub(crate) fn answer_to(reply: &Value, kind: Kind) -> Result<(Answer, ServerTime), Unanswered> {
    match reply {
        Value::Okay if kind == Kind::Asking => Ok((Answer::Asking, None)),
        Value::Int(number) => short(*number, kind).ok_or(Unanswered::Malformed),
        Value::ServerError(error) if error.code() == "NOSCRIPT" => Ok((Answer::NoScript, None)),
        Value::ServerError(error) => match server_error(error) {
            error if kind == Kind::Delete && is_about_delete(&error) => {
                Ok((Answer::NotDeleted, None))
            }
            error => Err(Unanswered::Refused(error)),
        },
        Value::Array(parts) => parts_of(parts).ok_or(Unanswered::Malformed),
        _ => Err(Unanswered::Malformed),
    }
}

/// Less is no time of a server, in µs. A clock that nobody has set begins with the year 1970.
const LEAST_TIME: i64 = 1_000_000;

/// The usual answers: a number says it all.
fn short(number: i64, kind: Kind) -> Option<(Answer, ServerTime)> {
    Some(match (kind, number) {
        (Kind::Acquire, LEAST_TIME..) => {
            let fence = FencingToken::new(number.unsigned_abs());
            (Answer::Granted { fence, left: None }, Some(number))
        }
        (Kind::Extend, 0) => (Answer::Lost, None),
        (Kind::Extend, LEAST_TIME..) => (Answer::Extended(None), Some(number)),
        (Kind::Free, 0 | 1) | (Kind::Delete, 1) => (Answer::Released(number == 1), None),
        (Kind::Delete, 0) => (Answer::Marked, None),
        (Kind::Holder, 0) => (Answer::Free, None),
        (Kind::Waiting, 0..) => (Answer::Waiting(usize::try_from(number).ok()?), None),
        (Kind::Wait(_), 0..) => {
            let count = u32::try_from(number).unwrap_or(u32::MAX);
            (Answer::Acknowledged(count), None)
        }
        _ => return None,
    })
}

/// An unknown command, a right that is missing, or another type: nothing was deleted, and the
/// script knows what to do. Any other error is the server's own, and says itself what may have been
/// done.
fn is_about_delete(error: &ServerError) -> bool {
    error.is_of_unknown_command() || matches!(error.code(), "NOPERM" | "WRONGTYPE")
}

/// Why a reply is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    Refused(ServerError),
    /// No reply to what was asked.
    Malformed,
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
            b"heartbeat",
            [
                Value::BulkString(token),
                Value::Int(left),
                Value::Int(next),
                Value::Int(generation),
                Value::Int(now),
            ],
        ) => {
            let reply = HeartbeatReply {
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
            Some((Answer::Heartbeat(Box::new(reply)), Some(*now)))
        }
        (b"extended", [Value::Int(left), Value::Int(now)]) => {
            Some((Answer::Extended(duration(*left)), Some(*now)))
        }
        (b"stale", [Value::Int(now)]) => Some((Answer::Stale, Some(*now))),
        (b"released", [Value::Int(ours @ (0 | 1)), Value::BulkString(name)]) => {
            let deletes = Deletes::by(name)?;
            Some((Answer::ReleasedAnd(*ours == 1, deletes), None))
        }
        (b"listed", [Value::BulkString(cursor), Value::Array(keys)]) => {
            let cursor = std::str::from_utf8(cursor).ok()?.parse().ok()?;
            let next = Some(cursor).filter(|cursor| *cursor != 0);
            Some((Answer::Listed(names(keys)?, next), None))
        }
        (b"marked", []) => Some((Answer::Marked, None)),
        _ => None,
    }
}

/// Keys that are text. dlock writes no others.
fn names(keys: &[Value]) -> Option<Vec<String>> {
    let text = |key: &Value| match key {
        Value::BulkString(key) => Some(String::from_utf8(key.clone()).ok()),
        _ => None,
    };
    let keys: Option<Vec<Option<String>>> = keys.iter().map(text).collect();
    Some(keys?.into_iter().flatten().collect())
}

/// A refusal, from what follows the owner token in a record. One that we did not write has an
/// unknown holder and no fencing token.
fn held(record: &[u8], left: i64, fence: i64) -> HeldBy {
    let held = match duration(left) {
        Some(left) => HeldBy::new().with_expires_in(left),
        None => HeldBy::new(),
    };
    let holder = || {
        let (state, holder) = std::str::from_utf8(record).ok()?.split_once(' ')?;
        // The sequence, which is missing until a lock that was handed over is claimed, and the
        // process.
        let sequence = state
            .split_once('@')
            .map_or(state, |(sequence, _)| sequence);
        let is_handed = state.starts_with('@');
        (is_handed || sequence.parse::<u64>().is_ok()).then_some(holder)
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
        Value::Array(parts) => time(parts).ok_or(Unanswered::Malformed),
        Value::ServerError(error) => Err(Unanswered::Refused(server_error(error))),
        _ => Err(Unanswered::Malformed),
    }
}

/// That the server took a command which has nothing to say: AUTH, SELECT.
pub(crate) fn done(reply: &Value) -> Result<(), Unanswered> {
    match reply {
        Value::Okay => Ok(()),
        Value::ServerError(error) => Err(Unanswered::Refused(server_error(error))),
        _ => Err(Unanswered::Malformed),
    }
}

pub(crate) fn server_error(error: &redis::ServerError) -> ServerError {
    ServerError::new(error.code(), error.details().unwrap_or_default())
}

/// `None` for the negative numbers that PTTL has for "no end".
fn duration(millis: i64) -> Option<Duration> {
    u64::try_from(millis).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests;
