//! Requests as bytes.

use std::fmt::Write as _;
use std::time::Duration;

use dlock_core::{Claim, Lease, OwnerToken, Time};
use dlock_net::deadline_in;
use redis::Cmd;

use super::LOOK_EVERY;
use super::scripts::{ACQUIRE, EXTEND, LOOK, RELEASE, Script};

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
                self.beside(claim.key());
                self.argument(format_args!("{} 0 {}", claim.owner(), claim.holder()));
                self.command.arg(millis_up(ttl)).arg(not_after);
                if let Some(process) = process {
                    self.command.arg(process);
                }
            }
            Call::Extend(lease, ttl) => {
                // Only an end that is near can be sooner than the waiters know.
                let tells = ttl < LOOK_EVERY;
                self.script(&EXTEND, form, if tells { "4" } else { "1" }, lease.key());
                if tells {
                    self.beside(lease.key());
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
                self.beside(key);
                self.argument(format_args!("{owner}"));
                if let Some(process) = process {
                    self.command.arg(process);
                }
            }
            Call::Look { key, process } => {
                self.script(&LOOK, form, "4", key);
                self.beside(key);
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
    fn beside(&mut self, key: &str) {
        for name in ["fence", "queue", "seen"] {
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

/// Whole milliseconds, rounded up: a lease lives at least what was asked.
fn millis_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
