//! Requests as bytes.

use std::fmt::Write as _;
use std::time::Duration;

use dlock_core::{Claim, Lease, OwnerToken, Time};
use dlock_net::deadline_in;

use super::LOOK_EVERY;
use super::scripts::{ACQUIRE, EXTEND, LOOK, RELEASE, Script};
use crate::resp::Command;

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
    Look {
        key: &'a str,
        process: &'a str,
    },
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
    command: Command,
    bytes: Vec<u8>,
    owner: String,
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
                self.beside(claim.key());
                self.write(claim.owner());
                self.command.word(&[&self.owner, " 0 ", claim.holder()]);
                self.command.number(millis_up(ttl));
                self.command.number(not_after);
                if let Some(process) = process {
                    self.command.word(&[process]);
                }
            }
            Call::Extend(lease, ttl) => {
                // Only an end that is near can be sooner than the waiters know.
                let tells = ttl < LOOK_EVERY;
                self.script(&EXTEND, form, if tells { "4" } else { "1" }, lease.key());
                if tells {
                    self.beside(lease.key());
                }
                self.write(lease.owner());
                self.command.word(&[&self.owner]);
                self.command.word(&[lease.holder()]);
                self.command.number(millis_up(ttl));
                self.command.number(not_after);
                self.command.number(lease.sequence());
            }
            Call::Release {
                key,
                owner,
                process,
            } => {
                self.script(&RELEASE, form, "4", key);
                self.beside(key);
                self.write(owner);
                self.command.word(&[&self.owner]);
                if let Some(process) = process {
                    self.command.word(&[process]);
                }
            }
            Call::Look { key, process } => {
                self.script(&LOOK, form, "4", key);
                self.beside(key);
                self.command.word(&[process]);
            }
        }
        self.command.append_to(&mut self.bytes);
    }

    /// What was pushed since the last [`clear`](Self::clear).
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    fn script(&mut self, script: &Script, form: Form, keys: &str, key: &str) {
        let (name, script) = match form {
            Form::Hash => ("EVALSHA", &script.hash),
            Form::Text => ("EVAL", &script.code),
        };
        for word in [name, script, keys, key] {
            self.command.word(&[word]);
        }
    }

    /// The keys beside the lock's. The braces put them into its slot of a cluster.
    fn beside(&mut self, key: &str) {
        for name in ["fence", "queue", "seen"] {
            self.command.word(&["{", key, "}:", name]);
        }
    }

    fn write(&mut self, owner: OwnerToken) {
        self.owner.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.owner, "{owner}");
    }
}

/// Whole milliseconds, rounded up: a lease lives at least what was asked.
fn millis_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
