//! What a job writes down that a command runs under a lock.

use std::fs::File;
use std::io;
use std::time::Duration;

use dlock_core::Time;

use crate::log::Log;
use crate::recorder::now;
use crate::{End, What, resource};

/// The job of a command such as `dlock run`. It does not know its lease: it has the right to run
/// for as long as it runs, which is what its record claims.
///
/// The command ends the job shortly before the end of the lease, and a busy machine may take a
/// moment for that. So the record claims the lock until [`JobRecord::SLACK`] before each step, and
/// a job that still runs when another has had the lock for longer than that is a violation of
/// [exclusion](crate::Property::Exclusion).
pub struct JobRecord {
    log: Log,
    key: String,
    token: u64,
    until: Time,
}

/// A job is one holding of its actor.
const HOLDING: u64 = 0;

impl JobRecord {
    /// How late a busy machine may end a job.
    pub const SLACK: Duration = Duration::from_secs(2);

    /// Begins the record, in the history file of one actor, which is open for appending. The
    /// command was started at `asked` and holds `key` under `token`, for `ttl` at a time.
    ///
    /// # Panics
    ///
    /// If the file cannot be written, as every method that records.
    pub fn begin(
        history: File,
        store: &str,
        key: &str,
        (token, ttl): (u64, Duration),
        asked: Time,
    ) -> Self {
        let log = Log::over(history, "-", store);
        let until = now();
        let what = What::Granted {
            holding: HOLDING,
            fence: Some(token),
            ttl: ttl.saturating_add(Self::SLACK),
            until,
            refusals: 0,
            min_hold: Duration::ZERO,
        };
        log.record(key, (asked, until), what);
        JobRecord {
            log,
            key: key.to_owned(),
            token,
            until,
        }
    }

    /// Records that the job runs.
    pub fn runs(&mut self) {
        let now = now();
        self.until = self.until.max(now.saturating_sub(Self::SLACK));
        let (holding, until) = (HOLDING, self.until);
        let what = What::Extended { holding, until };
        self.log.record(&self.key, (now, now), what);
    }

    /// Appends to a guarded resource, whose file is open for reading and appending, under the
    /// fencing token. Returns whether the resource took it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&mut self, resource: &mut File) -> io::Result<bool> {
        self.runs();
        let (before, token) = (now(), self.token);
        let accepted = resource::append(resource, token)?;
        let what = What::Wrote {
            holding: HOLDING,
            token,
            accepted,
        };
        self.log.record(&self.key, (before, now()), what);
        Ok(accepted)
    }
}

impl crate::Recorder {
    /// Records that the command of this actor's job released `key`, some time after `since`.
    pub fn job_released(&self, key: &str, since: Time) {
        let what = What::Released {
            holding: HOLDING,
            end: End::Freed,
        };
        self.record(key, (since, now()), what);
    }
}
