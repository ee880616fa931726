//! Requests as bytes, replies as answers. No socket here.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dlock_core::{Claim, FencingToken, Held, Lease, OwnerToken, Time};
use dlock_net::deadline_in;
use redis::{Cmd, Value};

use crate::error::ServerError;

/// The fence key outlives the lock: a key whose locks come and go keeps its counter at least this long after the last grant.
const FENCE_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// How often a process looks at a key where some of it wait. Who makes a lock end sooner than that tells the next waiter.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a process is told about locks that are handed to its waiters.
const CHANNEL: &str = "dlock:wake:";

/// One of the scripts that the server runs.
pub(crate) struct Script {
    code: String,
    hash: String,
}

pub(crate) static ACQUIRE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/acquire.lua")));
pub(crate) static EXTEND: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/extend.lua")));
pub(crate) static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/release.lua")));
pub(crate) static LOOK: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/look.lua")));

impl Script {
    /// The script with what it shares with others put in its place: Redis knows no include.
    fn new(code: &str) -> Self {
        let code = code
            .replace("-- include fence.lua", include_str!("scripts/fence.lua"))
            .replace("-- include queue.lua", include_str!("scripts/queue.lua"));
        let hash = redis::Script::new(&code).get_hash().to_owned();
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
    Acquire {
        claim: &'a Claim,
        ttl: Duration,
        /// The process in which the claimant waits, if it shall be queued.
        process: Option<&'a str>,
    },
    Extend(&'a Lease, Duration),
    Release {
        key: &'a str,
        owner: OwnerToken,
        /// The process in which the owner waited, if it may be queued.
        process: Option<&'a str>,
    },
    /// Looks after the waiters of a process at a key.
    Look { key: &'a str, process: &'a str },
}

impl Call<'_> {
    /// When it must have ended, on the system's clock.
    pub(crate) fn end(&self) -> Time {
        match self {
            Call::Acquire { claim, .. } => deadline_in(claim.time_left()),
            Call::Extend(lease, _) => deadline_in(lease.time_left()),
            // They are right at any time.
            Call::Release { .. } | Call::Look { .. } => Time::MAX,
        }
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
            Call::Acquire {
                claim,
                ttl,
                process,
            } => {
                self.script(&ACQUIRE, form, "4", claim.key());
                self.beside(claim.key(), &["fence", "queue", "seen"]);
                self.argument(format_args!("{}", claim.owner()));
                self.command
                    .arg(claim.holder())
                    .arg(millis_up(ttl))
                    .arg(not_after)
                    .arg(millis_up(FENCE_LIFE.max(ttl * 2)))
                    .arg(process.unwrap_or_default());
            }
            Call::Extend(lease, ttl) => {
                // Only an end that is near can be sooner than the waiters know.
                let tells = ttl < LOOK_EVERY;
                self.script(&EXTEND, form, if tells { "3" } else { "1" }, lease.key());
                if tells {
                    self.beside(lease.key(), &["queue", "seen"]);
                }
                self.argument(format_args!("{}", lease.owner()));
                self.command
                    .arg(lease.holder())
                    .arg(millis_up(ttl))
                    .arg(not_after)
                    .arg(lease.sequence());
            }
            Call::Release {
                key,
                owner,
                process,
            } => {
                self.script(&RELEASE, form, "4", key);
                self.beside(key, &["fence", "queue", "seen"]);
                self.argument(format_args!("{owner}"));
                self.command.arg(process.unwrap_or_default());
            }
            Call::Look { key, process } => {
                self.script(&LOOK, form, "4", key);
                self.beside(key, &["fence", "queue", "seen"]);
                self.command.arg(process);
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
            Form::Text => self.command.arg("EVAL").arg(&script.code),
        };
        self.command.arg(keys).arg(key);
    }

    /// The keys beside the lock's. The braces put them into its slot of a cluster.
    fn beside(&mut self, key: &str, names: &[&str]) {
        for name in names {
            self.argument(format_args!("{{{key}}}:{name}"));
        }
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
    /// Held, and the claimant is in the queue.
    Queued(Held, QueuePlace),
    /// What a process finds at a key where some of it wait.
    Looked(Look),
    /// How long the lease lasts; `None` if its record has no end.
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
        (
            b"queued",
            [
                Value::BulkString(record),
                Value::Int(left),
                Value::Int(now),
                Value::Int(generation),
                Value::Int(first),
            ],
        ) => {
            let place = QueuePlace {
                generation: *generation,
                is_first: *first == 1,
            };
            Some((Answer::Queued(held(record, *left), place), Some(*now)))
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
                handed_to: std::str::from_utf8(token).ok().and_then(OwnerToken::from_hex),
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
        // A sequence, or the process that the lock was handed to.
        let (state, holder) = rest.split_once(' ')?;
        if !state.starts_with('@') {
            state.parse::<u64>().ok()?;
        }
        Some((FencingToken::new(fence.parse().ok()?), holder))
    };
    match fields() {
        Some((fence, holder)) => held.with_fence(fence).with_holder_text(holder),
        None => held,
    }
}

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
