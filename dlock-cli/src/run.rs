//! `dlock run`: acquires the lock, runs the command, releases the lock, and reports the outcome.

use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, SystemTime};

use dlock_core::{LockGuard, OnceOutcome, Wait, duration};
use rustix::process::Signal;

use crate::args::{DEFAULT_KEEP, LogFormat, Run, RunOptions, Work};
use crate::command::{self, CannotEnd, Ended, Times, Unkillable};
use crate::config::Settings;
use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::lease::Loss;
use crate::lock_events::ReleaseFailure;
use crate::message::{escaped, report, report_as_json, report_if_writable};
use crate::run_report::RunReport;
use crate::session::{Session, Wanted};
use crate::sys;
use crate::watcher::Watcher;

/// Runs the command under the lock. Returns the exit code.
pub(crate) fn run(run: &Run) -> u8 {
    let result = LockedRun::prepare(run).and_then(|locked| {
        let result = locked.execute();
        drop(locked.watcher.take());
        // The process is about to end. That ends the store's threads sooner than an orderly
        // shutdown.
        std::mem::forget(locked);
        result
    });
    result.unwrap_or_else(ExitReason::reported)
}

/// One execution of `dlock run`.
struct LockedRun {
    options: RunOptions,
    work: Work,
    session: Session,
    report: RunReport,
    /// Waited for at the end, so that it can end during the release.
    watcher: Cell<Option<Watcher>>,
}

impl LockedRun {
    fn prepare(run: &Run) -> Result<Self, ExitReason> {
        let work = run.work().ok_or_else(|| {
            let message = format!("there is no command to run under {}", escaped(&run.name));
            ExitReason::new(exit_code::USAGE, message)
        })?;
        // The configuration is reported on in the same form.
        if run.options.report.log == Some(LogFormat::Json) {
            report_as_json();
        }
        let settings = Settings::find(&run.store, Some(&run.name))?;
        let options = run.options.clone().or(settings.options.clone());
        if run.options.once.keep.is_some() && options.once.job.is_none() {
            let message = "--keep has no effect without --once; give --once ID too";
            return Err(ExitReason::new(exit_code::USAGE, message));
        }
        if options.report.log == Some(LogFormat::Json) {
            report_as_json();
        }
        let session = Session::open(&Wanted {
            name: &run.name,
            settings: &settings,
            lock: &options.lock,
            grace: options.kill_after,
            codes: options.codes(),
            not_done: "the command was not started",
        })?;
        let report = RunReport::new(&run.name, &options.report);
        Ok(LockedRun {
            options,
            work,
            session,
            report,
            watcher: Cell::default(),
        })
    }

    fn execute(&self) -> Result<u8, ExitReason> {
        let wait = self.session.wait();
        let ended = match &self.options.once.job {
            Some(job) => self.execute_once(&wait, job)?,
            None => {
                let guard = self
                    .session
                    .acquired(self.session.lock.acquire_with(&wait))?;
                let ended = self.command(&guard);
                // `events` records a failure.
                let _ = guard.release();
                ended
            }
        };
        let result = self.code(ended);
        let code = match &result {
            Ok(code) | Err(ExitReason { code, .. }) => *code,
        };
        self.report.exits(code);
        result
    }

    fn execute_once(&self, wait: &Wait, job: &str) -> Result<Ended, ExitReason> {
        let keep = self.options.once.keep.unwrap_or(DEFAULT_KEEP);
        let job_name = format!("job {} of {}", escaped(job), self.session.name);
        let done =
            self.session
                .acquired(self.session.lock.once_with(wait, job, keep, |guard| {
                    match self.command(guard) {
                        Ended::Exited(0) => Ok(()),
                        ended => Err(ended),
                    }
                }))?;
        match done {
            Ok(OnceOutcome::Ran(())) => Ok(Ended::Exited(0)),
            Ok(OnceOutcome::RanUnmarked(())) => {
                report(format_args!(
                    "{job_name} succeeded, but could not be marked as done: it may run again"
                ));
                Ok(Ended::Exited(0))
            }
            Ok(OnceOutcome::AlreadyDone { since }) => Err(ExitReason::unless_zero(
                self.session.codes.done,
                format!("{job_name} was done {}", ago(since)),
            )),
            Err(ended) => Ok(ended),
        }
    }

    fn command(&self, guard: &LockGuard) -> Ended {
        let mut command = Command::new(&self.work.program);
        command.args(&self.work.arguments);
        command.env("DLOCK_KEY", guard.key());
        match guard.fencing_token() {
            Some(token) => command.env("DLOCK_FENCING_TOKEN", token.to_string()),
            None => command.env_remove("DLOCK_FENCING_TOKEN"),
        };
        match &self.session.url {
            Some(url) if self.options.pass_store => command.env("DLOCK_STORE", url),
            _ => command.env_remove("DLOCK_STORE"),
        };
        let times = Times {
            grace: self.session.lock.options().grace(),
            max_hold: self.options.max_hold,
        };
        self.report
            .begins(self.session.events.waited(), guard.fencing_token());
        self.session.events.record_remaining(guard.remaining());
        // These messages must not wait, so the store is not asked who holds the key now.
        let cannot_end = |what| report_if_writable(self.cannot_end(what));
        let (ended, watcher) =
            command::run(command, guard, times, &self.session.signals, &cannot_end);
        self.watcher.set(watcher);
        let is_success = matches!(ended, Ended::Exited(0));
        let status = self.status(&ended);
        self.report.ended(status, is_success);
        if matches!(ended, Ended::Hangs) {
            self.report.exits(status);
            // Only the end of the process ends the renewals without a release.
            sys::exit_now(status);
        }
        ended
    }

    /// That a command runs on although it must not.
    fn cannot_end(&self, what: CannotEnd) -> String {
        match what {
            CannotEnd::Lost(loss, why) => {
                let fate = match why {
                    Unkillable::OtherUser => {
                        "the command could not be ended: it runs as another user"
                    }
                    Unkillable::Hangs => {
                        "the command could not be ended: it was killed and does not end"
                    }
                };
                let fate = format!("{fate}; it runs on without the lock");
                self.session.lost(&self.session.cause(loss, None), &fate)
            }
            CannotEnd::TookTooLong => {
                let name = &self.session.name;
                let time = duration::format(self.options.max_hold.unwrap_or_default());
                let ttl = duration::format(self.session.lock.options().ttl());
                format!(
                    "the command held {name} for longer than --max-hold {time}, was killed and \
                     does not end: it hangs in the kernel; {name} is not renewed any more, and \
                     it stays taken for at most {ttl}"
                )
            }
        }
    }

    /// What the command's end comes to, as far as it is known before the lock is released.
    fn status(&self, ended: &Ended) -> u8 {
        match ended {
            Ended::Exited(code) => *code,
            Ended::Killed { signal, .. } => exit_code::of_signal(*signal),
            Ended::TookTooLong => exit_code::MAX_HOLD,
            Ended::Lost(_) | Ended::RunsOn | Ended::Hangs => self.session.codes.lost,
            Ended::NotStarted => self.session.code_of_signal(),
            Ended::CannotRun(code, _) => *code,
            Ended::LostBefore(_) => self.session.codes.unreachable,
        }
    }

    /// The exit code, after the lock was released.
    fn code(&self, ended: Ended) -> Result<u8, ExitReason> {
        let name = &self.session.name;
        let lost = self.session.codes.lost;
        let code = match ended {
            Ended::Exited(code) => code,
            Ended::Killed { signal, .. } => exit_code::of_signal(signal),
            Ended::NotStarted => return Ok(self.session.code_of_signal()),
            Ended::CannotRun(code, message) => return Err(ExitReason::new(code, message)),
            Ended::LostBefore(loss) => {
                let cause = self.session.cause_with_holder(loss);
                let message = self.session.lost(&cause, "the command was not started");
                return Err(ExitReason::unless_zero(
                    self.session.codes.unreachable,
                    message,
                ));
            }
            Ended::Lost(loss) => {
                let cause = self.session.cause_with_holder(loss);
                return Err(ExitReason::new(
                    lost,
                    self.session.lost(&cause, "the command was ended"),
                ));
            }
            Ended::RunsOn | Ended::Hangs => return Ok(lost),
            Ended::TookTooLong => {
                let time = self.options.max_hold.unwrap_or_default();
                report(format_args!(
                    "the command held {name} for longer than --max-hold {} and was ended",
                    duration::format(time)
                ));
                exit_code::MAX_HOLD
            }
        };
        match self.session.events.release_failure() {
            Some(ReleaseFailure::Lost(at)) => {
                let loss = if self.session.events.was_running_at(at) {
                    Loss::KeyGone
                } else {
                    Loss::TimeRanOut
                };
                self.report.was_lost(lost);
                let cause = self.session.cause_with_holder(loss);
                let fate = format!(
                    "the command had already ended, with exit code {code}; \
                     another one may have run at the same time"
                );
                return Err(ExitReason::new(lost, self.session.lost(&cause, &fate)));
            }
            Some(ReleaseFailure::NotReleased(error)) => {
                report(self.session.not_released(&error));
            }
            None => {}
        }
        if matches!(ended, Ended::Killed { signal, had_terminal: true } if signal == Signal::INT.as_raw())
        {
            drop(self.watcher.take());
            // Ctrl-C went to the command's process group only. Without dlock, the script around it
            // would have received it too.
            let _ = sys::take_default_action_with_group(Signal::INT);
        }
        Ok(code)
    }
}

/// Formats a time like "12m5s ago". It needs no time zone, and the clocks of the hosts agree well
/// enough.
fn ago(since: SystemTime) -> String {
    let age = since.elapsed().unwrap_or(Duration::ZERO);
    format!(
        "{} ago",
        duration::format(Duration::from_secs(age.as_secs()))
    )
}
