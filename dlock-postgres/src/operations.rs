//! What a claim, an extend and a release are: a call of one of the schema's functions, and what its
//! row means. No socket.

use std::borrow::Cow;
use std::time::Duration;

use dlock_core::{Claim, DatastoreError, ErrorKind, FencingToken, HeldBy, Lease, OwnerToken};

use crate::error::unexpected;
use crate::findings::Facts;
use crate::statements::Statement;
use crate::wire::{MOST_ROWS, Parameter, Row};

/// A call of a function of the schema.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    /// A claim; a refusal queues it as a waiter of the process, if there is one.
    Acquire(&'a Claim, Duration, Option<&'a str>),
    Extend(&'a Lease, Duration),
    Release(&'a Claim),
    Abandon(&'a Claim),
    /// A waiter gave up; the most that this waits for the key's row.
    Leave(OwnerToken, Duration),
    /// A process still has waiters; whether its messages come over this connection.
    Heartbeat(&'a str, bool),
    Waiting(&'a str),
    /// What endangers locks.
    Facts,
    Break(&'a str, FencingToken),
    Holder(&'a str),
    /// The keys that begin so, behind this one.
    Held(&'a str, &'a str),
}

/// What the server answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Granted {
        fence: FencingToken,
        left: Duration,
    },
    Held(HeldBy),
    /// The same, and the claim is in the queue; whether it is the next.
    Queued(HeldBy, bool),
    Extended(Duration),
    Lost,
    /// The call came after its end, and did nothing.
    TooLate,
    /// Whether a release or a break found what it should free.
    Freed(bool),
    Holder(Option<HeldBy>),
    Keys(Vec<(String, HeldBy)>),
    Heartbeat(Heartbeat),
    Waiting(usize),
    Facts(Facts),
}

/// What a process learns about its waiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// The server's process that answered.
    pub(crate) backend: i32,
    /// Otherwise its waiters may have been taken off their queues.
    pub(crate) is_known: bool,
    /// When the next lock is free, if nobody extends it.
    pub(crate) next: Option<Duration>,
    /// The owners to which locks were handed.
    pub(crate) handed: Vec<OwnerToken>,
}

/// How often a process makes a heartbeat while it has waiters. The schema knows it too: there a
/// process is dead after three times as long, and a waiter has a little longer to claim.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// For how long the server believes that a process is alive.
pub(crate) const ALIVE: Duration = Duration::from_secs(3);
/// The same at the least: what the last heartbeat has written is left as it is for a while.
pub(crate) const ALIVE_AT_LEAST: Duration = Duration::from_millis(2200);

impl<'a> Call<'a> {
    /// Whether others wait for what it does.
    pub(crate) fn is_urgent(&self) -> bool {
        match self {
            Call::Acquire(..)
            | Call::Holder(_)
            | Call::Held(..)
            | Call::Waiting(_)
            | Call::Facts => false,
            Call::Extend(..)
            | Call::Release(_)
            | Call::Abandon(_)
            | Call::Leave(..)
            | Call::Heartbeat(..)
            | Call::Break(..) => true,
        }
    }

    pub(crate) fn statement(&self) -> Statement {
        match self {
            Call::Acquire(..) => Statement {
                name: "dlock2_acquire",
                sql: "SELECT * FROM dlock.acquire($1, $2, $3, $4, $5, $6, $7)",
            },
            Call::Extend(..) => Statement {
                name: "dlock2_extend",
                sql: "SELECT * FROM dlock.extend($1, $2, $3, $4, $5, $6, $7)",
            },
            Call::Release(_) => Statement {
                name: "dlock2_release",
                sql: "SELECT dlock.release($1, $2, $3)",
            },
            Call::Abandon(_) => Statement {
                name: "dlock2_abandon",
                sql: "SELECT dlock.abandon($1, $2, $3)",
            },
            Call::Leave(..) => Statement {
                name: "dlock2_leave",
                sql: "SELECT dlock.leave($1, $2)",
            },
            Call::Heartbeat(..) => Statement {
                name: "dlock2_heartbeat",
                sql: "SELECT * FROM dlock.heartbeat($1, $2)",
            },
            Call::Waiting(_) => Statement {
                name: "dlock2_waiting",
                sql: "SELECT dlock.waiting($1)",
            },
            Call::Facts => Statement {
                name: "dlock2_facts",
                sql: Facts::SQL,
            },
            Call::Break(..) => Statement {
                name: "dlock2_break",
                sql: "SELECT dlock.break($1, $2, $3)",
            },
            Call::Holder(_) => Statement {
                name: "dlock2_holder",
                sql: "SELECT * FROM dlock.holder($1)",
            },
            Call::Held(..) => Statement {
                name: "dlock2_held",
                sql: "SELECT * FROM dlock.held($1, $2, $3)",
            },
        }
    }

    /// The parameters, for a call that the server refuses from `not_after` on, in µs of its clock,
    /// and that waits `wait` at most for a locked row.
    pub(crate) fn parameters(&self, not_after: u64, wait: Duration) -> Vec<Parameter<'a>> {
        let number = |number: u128| Some(Cow::Owned(number.to_string()));
        let text = |text: &'a str| Some(Cow::Borrowed(text));
        let owner = |owner: OwnerToken| Some(Cow::Owned(owner.to_string()));
        let not_after = || number(not_after.into());
        // As much as the server takes; a longer call ends by its own deadline.
        let millis = |time: Duration| number(time.as_millis().min(i32::MAX.unsigned_abs().into()));
        let micros = |time: Duration| number(time.as_nanos().div_ceil(1000));
        match self {
            Call::Acquire(claim, ttl, process) => vec![
                text(claim.key()),
                owner(claim.owner()),
                micros(*ttl),
                text(claim.holder()),
                not_after(),
                millis(wait),
                process.map(Cow::Borrowed),
            ],
            Call::Extend(lease, ttl) => vec![
                text(lease.key()),
                owner(lease.owner()),
                micros(*ttl),
                text(lease.holder()),
                number(lease.sequence().into()),
                not_after(),
                millis(wait),
            ],
            Call::Release(claim) | Call::Abandon(claim) => {
                vec![text(claim.key()), owner(claim.owner()), millis(wait)]
            }
            Call::Facts => Vec::new(),
            Call::Leave(waiter, most) => vec![owner(*waiter), millis(wait.min(*most))],
            Call::Heartbeat(process, listens) => {
                vec![text(process), text(if *listens { "t" } else { "f" })]
            }
            // No token is as high as the highest number.
            Call::Break(key, fence) => {
                let fence = fence.get().min(i64::MAX.unsigned_abs());
                vec![text(key), number(fence.into()), millis(wait)]
            }
            Call::Holder(key) | Call::Waiting(key) => vec![text(key)],
            Call::Held(prefix, after) => {
                vec![text(prefix), text(after), number(MOST_ROWS as u128)]
            }
        }
    }

    /// The answer, and the server's time in µs if the answer states it.
    pub(crate) fn read(&self, rows: &[Row]) -> Result<(Answer, Option<i64>), DatastoreError> {
        let read = match self {
            Call::Acquire(..) => one(rows).and_then(acquired),
            Call::Extend(..) => one(rows).and_then(extended),
            Call::Release(_) | Call::Abandon(_) | Call::Leave(..) | Call::Break(..) => {
                one(rows).and_then(freed)
            }
            Call::Heartbeat(..) => one(rows).and_then(heartbeat),
            Call::Waiting(_) => one(rows).and_then(waiting),
            Call::Facts => one(rows)
                .and_then(Facts::read)
                .map(|facts| (Answer::Facts(facts), None)),
            Call::Holder(_) => holder(rows),
            Call::Held(..) => keys(rows),
        };
        read.ok_or_else(unexpected)
    }
}

fn acquired(row: &Row) -> Option<(Answer, Option<i64>)> {
    let [outcome, now, fence, left, holder] = row.as_slice() else {
        return None;
    };
    let answer = match text(outcome)? {
        "0" => Answer::Held(held_by(fence, left, holder)?),
        "1" => Answer::Granted {
            fence: token(fence)?,
            left: micros(left)?,
        },
        "2" => Answer::TooLate,
        "3" => Answer::Queued(held_by(fence, left, holder)?, false),
        "4" => Answer::Queued(held_by(fence, left, holder)?, true),
        _ => return None,
    };
    Some((answer, Some(number(now)?)))
}

fn extended(row: &Row) -> Option<(Answer, Option<i64>)> {
    let [outcome, now, left] = row.as_slice() else {
        return None;
    };
    let answer = match text(outcome)? {
        "0" => Answer::Lost,
        "1" => Answer::Extended(micros(left)?),
        "2" => Answer::TooLate,
        _ => return None,
    };
    Some((answer, Some(number(now)?)))
}

fn freed(row: &Row) -> Option<(Answer, Option<i64>)> {
    match row.as_slice() {
        [done] => Some((Answer::Freed(truth(done)?), None)),
        _ => None,
    }
}

fn heartbeat(row: &Row) -> Option<(Answer, Option<i64>)> {
    let [backend, is_known, next, handed] = row.as_slice() else {
        return None;
    };
    let next = match next {
        None => None,
        next => Some(micros(next)?),
    };
    let handed = handed.as_deref().unwrap_or_default().split_whitespace();
    let heartbeat = Heartbeat {
        backend: text(backend)?.parse().ok()?,
        is_known: truth(is_known)?,
        next,
        handed: handed.map(OwnerToken::from_hex).collect::<Option<_>>()?,
    };
    Some((Answer::Heartbeat(heartbeat), None))
}

fn waiting(row: &Row) -> Option<(Answer, Option<i64>)> {
    match row.as_slice() {
        [count] => Some((Answer::Waiting(text(count)?.parse().ok()?), None)),
        _ => None,
    }
}

fn holder(rows: &[Row]) -> Option<(Answer, Option<i64>)> {
    let held = match rows {
        [] => None,
        [row] => match row.as_slice() {
            [fence, left, holder] => Some(held_by(fence, left, holder)?),
            _ => return None,
        },
        _ => return None,
    };
    Some((Answer::Holder(held), None))
}

fn keys(rows: &[Row]) -> Option<(Answer, Option<i64>)> {
    let keys = rows.iter().map(|row| match row.as_slice() {
        [key, fence, left, holder] => Some((text(key)?.to_owned(), held_by(fence, left, holder)?)),
        _ => None,
    });
    Some((Answer::Keys(keys.collect::<Option<_>>()?), None))
}

/// What a server says of itself when a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    version: i64,
    /// The time on its clock in µs.
    pub(crate) now: i64,
    is_read_only: bool,
    /// The number of its process.
    pub(crate) backend: i32,
    /// Whether each statement of a transaction sees what was committed before it.
    pub(crate) is_read_committed: bool,
}

impl Hello {
    pub(crate) const SQL: &str = "SELECT *, pg_backend_pid(), \
        current_setting('transaction_isolation') FROM dlock.hello()";
    /// That of the schema which this crate knows.
    const VERSION: i64 = 2;

    pub(crate) fn read(rows: &[Row]) -> Result<Self, DatastoreError> {
        let read = || match one(rows)?.as_slice() {
            [version, now, is_read_only, backend, isolation] => Some(Hello {
                version: number(version)?,
                now: number(now)?,
                is_read_only: truth(is_read_only)?,
                backend: text(backend)?.parse().ok()?,
                is_read_committed: text(isolation)? == "read committed",
            }),
            _ => None,
        };
        read().ok_or_else(unexpected)
    }

    /// Refuses a server that cannot keep locks.
    pub(crate) fn check(self, peer: &str) -> Result<(), DatastoreError> {
        if self.version != Self::VERSION {
            let text = format!(
                "the schema `dlock` at {peer} has version {}, and this program knows version {}; {}",
                self.version,
                Self::VERSION,
                match self.version < Self::VERSION {
                    true => "run its migration, by `ConnectionManager::migrate` or with psql",
                    false => "the program is too old for it",
                },
            );
            return Err(DatastoreError::not_executed(ErrorKind::Unsupported, text));
        }
        if self.is_read_only {
            let text = format!("{peer} is a standby or takes no writes; locks need the primary");
            return Err(DatastoreError::not_executed(ErrorKind::Refused, text));
        }
        Ok(())
    }
}

fn one(rows: &[Row]) -> Option<&Row> {
    match rows {
        [row] => Some(row),
        _ => None,
    }
}

fn held_by(
    fence: &Option<String>,
    left: &Option<String>,
    holder: &Option<String>,
) -> Option<HeldBy> {
    let held = HeldBy::new().with_expires_in(micros(left)?);
    Some(
        held.with_fence(token(fence)?)
            .with_holder_text(text(holder)?),
    )
}

fn text(column: &Option<String>) -> Option<&str> {
    column.as_deref()
}

fn number(column: &Option<String>) -> Option<i64> {
    text(column)?.parse().ok()
}

fn token(column: &Option<String>) -> Option<FencingToken> {
    Some(FencingToken::new(text(column)?.parse().ok()?))
}

fn micros(column: &Option<String>) -> Option<Duration> {
    Some(Duration::from_micros(text(column)?.parse().ok()?))
}

fn truth(column: &Option<String>) -> Option<bool> {
    match text(column)? {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
