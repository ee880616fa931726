//! Requests as bytes, replies as answers. No socket here.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use dlock_core::{Claim, FencingToken, Held, Lease, Time};
use dlock_net::deadline_in;
use redis::{Cmd, Value};

use crate::error::ServerError;

/// The fence key outlives the lock: a key whose locks come and go keeps its counter at least this long after the last grant.
const FENCE_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// One of the scripts that the server runs.
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

pub(crate) static ACQUIRE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/acquire.lua")));
pub(crate) static EXTEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/extend.lua")));
pub(crate) static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/release.lua")));

impl Script {
    fn new(code: &'static str) -> Self {
        let hash = redis::Script::new(code).get_hash().to_owned();
        Script { code, hash }
    }
}

/// Whether the server knows the script by its hash, or is sent all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Hash,
    Text,
}

/// One call of a script.
#[derive(Clone, Copy)]
pub(crate) enum Call<'a> {
    Acquire(&'a Claim, Duration),
    Extend(&'a Lease, Duration),
    Release(&'a Claim),
}

impl Call<'_> {
    /// When it must have ended, on the system's clock.
    pub(crate) fn end(&self) -> Time {
        deadline_in(match self {
            Call::Acquire(claim, _) | Call::Release(claim) => claim.time_left(),
            Call::Extend(lease, _) => lease.time_left(),
        })
    }
}

/// Packs requests. Its buffers are kept, so that a warm one allocates nothing.
#[derive(Default)]
pub(crate) struct Packer {
    command: Cmd,
    bytes: Vec<u8>,
    text: String,
}

impl Packer {
    /// Appends one call. `not_after` is the server time, in µs, from which on it must do nothing.
    pub(crate) fn push(&mut self, call: Call<'_>, form: Form, not_after: u64) {
        self.command.clear();
        match call {
            Call::Acquire(claim, ttl) => {
                self.script(&ACQUIRE, form, "2", claim.key());
                self.argument(format_args!("{{{}}}:fence", claim.key()));
                self.argument(format_args!("{}", claim.owner()));
                self.command
                    .arg(claim.holder())
                    .arg(millis_up(ttl))
                    .arg(not_after)
                    .arg(millis_up(FENCE_LIFE.max(ttl * 2)));
            }
            Call::Extend(lease, ttl) => {
                self.script(&EXTEND, form, "1", lease.key());
                self.argument(format_args!("{}", lease.owner()));
                self.command
                    .arg(lease.holder())
                    .arg(millis_up(ttl))
                    .arg(not_after)
                    .arg(lease.sequence());
            }
            Call::Release(claim) => {
                self.script(&RELEASE, form, "1", claim.key());
                self.argument(format_args!("{}", claim.owner()));
            }
        }
        self.command.write_packed_command(&mut self.bytes);
    }

    /// What was pushed since the last [`clear`](Self::clear).
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    fn script(&mut self, script: &Script, form: Form, keys: &str, key: &str) {
        match form {
            Form::Hash => self.command.arg("EVALSHA").arg(&script.hash),
            Form::Text => self.command.arg("EVAL").arg(script.code),
        };
        self.command.arg(keys).arg(key);
    }

    fn argument(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.clear();
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(text);
        self.command.arg(&self.text);
    }
}

/// What a script answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted {
        fence: FencingToken,
        left: Duration,
    },
    Held(Held),
    /// How long the lease lasts; `None` if its record has no end.
    Extended(Option<Duration>),
    Lost,
    Released(bool),
    /// The call came too late and did nothing.
    Stale,
    /// The server does not know the script; nothing was done.
    NoScript,
}

/// The server's time in µs, if it told.
pub(crate) type ServerTime = Option<i64>;

/// Reads the reply to a script.
///
/// # Errors
///
/// What the server refused with, or a reply that no script of ours gives.
pub(crate) fn answer(reply: &Value) -> Result<(Answer, ServerTime), Unanswered> {
    match reply {
        Value::Int(freed @ (0 | 1)) => Ok((Answer::Released(*freed == 1), None)),
        Value::ServerError(error) if error.code() == "NOSCRIPT" => Ok((Answer::NoScript, None)),
        Value::ServerError(error) => Err(Unanswered::Refused(server_error(error))),
        Value::Array(parts) => parts_of(parts).ok_or(Unanswered::Odd),
        _ => Err(Unanswered::Odd),
    }
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
            let left = duration(*left)?;
            Some((Answer::Granted { fence, left }, Some(*now)))
        }
        (b"held", [Value::BulkString(record), Value::Int(left), Value::Int(now)]) => {
            Some((Answer::Held(held(record, *left)), Some(*now)))
        }
        (b"extended", [Value::Int(left), Value::Int(now)]) => {
            Some((Answer::Extended(duration(*left)), Some(*now)))
        }
        (b"lost", []) => Some((Answer::Lost, None)),
        (b"stale", [Value::Int(now)]) => Some((Answer::Stale, Some(*now))),
        _ => None,
    }
}

/// A refusal, from what follows the owner token in a record. One that we did not write has an unknown holder.
fn held(record: &[u8], left: i64) -> Held {
    let held = match duration(left) {
        Some(left) => Held::new().with_expires_in(left),
        None => Held::new(),
    };
    let fields = || {
        let (fence, rest) = std::str::from_utf8(record).ok()?.split_once(' ')?;
        let (sequence, holder) = rest.split_once(' ')?;
        sequence.parse::<u64>().ok()?;
        Some((FencingToken::new(fence.parse().ok()?), holder))
    };
    match fields() {
        Some((fence, holder)) => held.with_fence(fence).with_holder_text(holder),
        None => held,
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

fn server_error(error: &redis::ServerError) -> ServerError {
    ServerError::new(error.code(), error.details().unwrap_or_default())
}

/// `None` for the negative numbers that PTTL has for "no end".
fn duration(millis: i64) -> Option<Duration> {
    u64::try_from(millis).ok().map(Duration::from_millis)
}

/// Whole milliseconds, rounded up: a lease lives at least what was asked.
fn millis_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
