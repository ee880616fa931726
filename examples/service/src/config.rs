//! The configuration of an instance, which its environment has.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use dlock_core::{LockOptions, LockOptionsBuilder, duration};

use crate::Outcome;

/// The configuration of an instance.
pub(crate) struct Config {
    /// The address for requests.
    pub(crate) listen: String,
    /// The URL of the Redis that keeps the lock.
    pub(crate) store: String,
    /// The file that the job writes to.
    pub(crate) ledger: PathBuf,
    /// From the start of one run of the job to the next.
    pub(crate) period: Duration,
    /// How long the job does not run after a crash of its leader.
    ttl: Duration,
    /// What a refusal names, with the host and the pid.
    instance: String,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    ///
    /// If `LEDGER` is missing, or a duration is none.
    pub(crate) fn from_environment() -> Outcome<Self> {
        let or = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        Ok(Config {
            listen: or("LISTEN", "127.0.0.1:8080"),
            store: or("STORE", "redis://127.0.0.1/"),
            ledger: env::var_os("LEDGER")
                .ok_or("set LEDGER to the path of a file")?
                .into(),
            period: duration::parse(&or("PERIOD", "1m"))?,
            ttl: duration::parse(&or("TTL", "30s"))?,
            instance: or("INSTANCE", "an instance"),
        })
    }

    pub(crate) fn lock_options(&self) -> LockOptionsBuilder {
        LockOptions::builder().ttl(self.ttl).label(&self.instance)
    }
}
