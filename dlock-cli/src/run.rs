//! `dlock run`: acquires the lock, runs the command, releases the lock, and reports the outcome.

use std::cell::Cell;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dlock_core::{
    AcquireError, Cancel, Datastore, ErrorKind, HeldBy, Lock, LockEvent, LockGuard, LockOptions,
    LockOptionsBuilder, OnceOutcome, OptionName, OptionsError, Store, Wait, duration,
};

use rustix::process::Signal;

use crate::args::{Codes, DEFAULT_KEEP, Patience, Run, Work};
use crate::command::{self, Ended, Unkillable};
use crate::exit_code;
use crate::lease::Loss;
use crate::lock_events::{RecordedEvents, ReleaseFailure};
use crate::message::{escaped, report, report_if_writable, with_causes};
use crate::signals::Signals;
use crate::store;
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
    match result {
        Ok(code) => code,
        Err(ExitReason { code, message }) => {
            if let Some(message) = message {
                report(message);
            }
            code
        }
    }
}

/// An exit code that is not the command's, and why.
struct ExitReason {
    code: u8,
    message: Option<String>,
}

impl ExitReason {
    fn new(code: u8, message: impl Into<String>) -> Self {
        ExitReason {
            code,
            message: Some(message.into()),
        }
    }

    /// A caller that replaced the exit code by 0 does not want a message either: cron sends a mail
    /// for every line.
    fn unless_zero(code: u8, message: impl Into<String>) -> Self {
        ExitReason {
            code,
            message: (code != 0).then(|| message.into()),
        }
    }
}

/// One execution of `dlock run`.
struct LockedRun<'a> {
    run: &'a Run,
    work: Work,
    codes: Codes,
    name: String,
    signals: Signals,
    /// Ends the wait for the lock when a signal comes.
    cancel: Cancel,
    datastore: Arc<dyn Datastore>,
    /// The store's URL without secrets, for messages.
    shown_url: String,
    /// The store's full URL, for a command that gets it (`--pass-store`).
    url: Option<String>,
    lock: Lock,
    events: Arc<RecordedEvents>,
    /// Waited for at the end, so that it can end during the release.
    watcher: Cell<Option<Watcher>>,
}

impl<'a> LockedRun<'a> {
    fn prepare(run: &'a Run) -> Result<Self, ExitReason> {
        let name = escaped(&run.name);
        let codes = run.options.codes();
        let work = run.work().ok_or_else(|| {
            let message = format!("there is no command to run under {name}");
            ExitReason::new(exit_code::USAGE, message)
        })?;
        let signals = Signals::catch().map_err(|error| {
            let message = format!("cannot catch signals: {error}; the command was not started");
            ExitReason::new(exit_code::SYSTEM, message)
        })?;
        let cancel = Cancel::new();
        // Before the store is opened: from here on a signal ends the process even if a call hangs.
        signals.end_wait_with(&cancel).map_err(|error| {
            let message = format!("cannot start a thread: {error}; the command was not started");
            ExitReason::unless_zero(codes.unreachable, message)
        })?;
        let opened = store::open(run.store.store.as_deref()).map_err(|error| match error {
            store::OpenError::Usage(message) => ExitReason::new(exit_code::USAGE, message),
            store::OpenError::Unusable(message) => {
                ExitReason::unless_zero(codes.unreachable, message)
            }
        })?;
        let events = Arc::new(RecordedEvents::new(
            name.clone(),
            run.options.lock.patience(),
        ));
        let datastore: Arc<dyn Datastore> = Arc::from(opened.datastore);
        let store = Store::builder(Arc::clone(&datastore))
            .observer({
                let events = Arc::clone(&events);
                move |event: &LockEvent<'_>| events.record(event)
            })
            .build();
        let lock = Lock::with_options(store, &run.name, options(run)).map_err(|error| {
            let error = with_flags(&error);
            ExitReason::new(exit_code::USAGE, format!("cannot lock {name}: {error}"))
        })?;
        events.set_key(lock.key());
        Ok(LockedRun {
            run,
            work,
            codes,
            name,
            signals,
            cancel,
            datastore,
            shown_url: opened.redacted_url,
            url: opened.url,
            lock,
            events,
            watcher: Cell::default(),
        })
    }

    fn execute(&self) -> Result<u8, ExitReason> {
        let wait = self.wait();
        let ended = match &self.run.options.once.job {
            Some(job) => self.execute_once(&wait, job)?,
            None => {
                let guard = self.acquired(self.lock.acquire_with(&wait))?;
                let ended = self.command(&guard);
                // `events` records a failure.
                let _ = guard.release();
                ended
            }
        };
        self.code(ended)
    }

    fn wait(&self) -> Wait {
        let wait = match self.run.options.lock.patience() {
            Patience::AtMost(time) => Wait::within(time),
            Patience::Forever => Wait::forever(),
        };
        wait.cancelled_by(&self.cancel)
    }

    fn execute_once(&self, wait: &Wait, job: &str) -> Result<Ended, ExitReason> {
        let keep = self.run.options.once.keep.unwrap_or(DEFAULT_KEEP);
        let job_name = format!("job {} of {}", escaped(job), self.name);
        let done =
            self.acquired(self.lock.once_with(
                wait,
                job,
                keep,
                |guard| match self.command(guard) {
                    Ended::Exited(0) => Ok(()),
                    ended => Err(ended),
                },
            ))?;
        match done {
            Ok(OnceOutcome::Ran(())) => Ok(Ended::Exited(0)),
            Ok(OnceOutcome::RanUnmarked(())) => {
                report(format_args!(
                    "{job_name} succeeded, but could not be marked as done: it may run again"
                ));
                Ok(Ended::Exited(0))
            }
            Ok(OnceOutcome::AlreadyDone { since }) => Err(ExitReason::unless_zero(
                self.codes.done,
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
        match &self.url {
            Some(url) if self.run.options.pass_store => command.env("DLOCK_STORE", url),
            _ => command.env_remove("DLOCK_STORE"),
        };
        let grace = self.lock.options().grace();
        self.events.record_remaining(guard.remaining());
        let cannot_end = |loss, why| {
            let fate = match why {
                Unkillable::OtherUser => "the command could not be ended: it runs as another user",
                Unkillable::Hangs => {
                    "the command could not be ended: it was killed and does not end"
                }
            };
            // Reading who holds the key now would take one more call to the store. This message
            // must not wait.
            let cause = self.cause(loss, None);
            report_if_writable(self.lost(&cause, &format!("{fate}; it runs on without the lock")));
        };
        let (ended, watcher) = command::run(command, guard, grace, &self.signals, &cannot_end);
        self.watcher.set(watcher);
        ended
    }

    fn acquired<T>(&self, result: Result<T, AcquireError>) -> Result<T, ExitReason> {
        let name = &self.name;
        let ended_by_signal = || ExitReason {
            code: self.code_of_signal(),
            message: None,
        };
        result.map_err(|error| match error {
            // A signal ends the wait, and may be the reason why a call failed.
            _ if self.signals.first().is_some() => ended_by_signal(),
            AcquireError::Held(held) => {
                ExitReason::unless_zero(self.codes.held, self.refused(&held))
            }
            AcquireError::Cancelled => ended_by_signal(),
            AcquireError::Datastore(error) if error.kind() == ErrorKind::Invalid => {
                ExitReason::new(
                    exit_code::USAGE,
                    format!(
                        "cannot lock {name} in {}: {}",
                        self.shown_url,
                        with_causes(&error)
                    ),
                )
            }
            AcquireError::Datastore(error) => ExitReason::unless_zero(
                self.codes.unreachable,
                format!(
                    "cannot lock {name} in {}: {}; the command was not started",
                    self.shown_url,
                    with_causes(&error)
                ),
            ),
            AcquireError::Invalid(error) => {
                let error = with_flags(&error);
                ExitReason::new(exit_code::USAGE, format!("cannot lock {name}: {error}"))
            }
            error => ExitReason::new(exit_code::USAGE, format!("cannot lock {name}: {error}")),
        })
    }

    /// Says who holds the lock, and where. If the lock has no expiry, also says how to free it.
    fn refused(&self, held: &HeldBy) -> String {
        let (name, url, key) = (&self.name, &self.shown_url, escaped(self.lock.key()));
        if held.expires_in().is_some() {
            return format!("{name} is {held} (key {key} in {url})");
        }
        format!(
            "{name} is {held}, and does not expire: only its holder frees it; \
             if the holder is gone, delete the key {key} in {url}"
        )
    }

    /// The exit code for the signal that ended the wait.
    fn code_of_signal(&self) -> u8 {
        self.signals
            .first()
            .map_or(exit_code::SYSTEM, exit_code::of_signal)
    }

    /// Says why the lease was lost. `now` is the present holder of the key, if the store was asked.
    fn cause(&self, loss: Loss, now: Option<Option<HeldBy>>) -> String {
        let key = escaped(self.lock.key());
        match (loss, now) {
            (Loss::TimeRanOut, _) => match self.events.renewal_failure() {
                Some(error) => format!("its lease could not be renewed ({error})"),
                None => "its lease ended before it was renewed".to_owned(),
            },
            (Loss::KeyGone, Some(Some(held))) => {
                format!("its key {key} was taken away before the lease ended, and is now {held}")
            }
            (Loss::KeyGone, Some(None)) => {
                format!("its key {key} was deleted before the lease ended, and nobody holds it now")
            }
            (Loss::KeyGone, None) => {
                format!("its key {key} was deleted or taken away before the lease ended")
            }
        }
    }

    /// [`cause`](Self::cause) with the present holder, if the store can be inspected and answers.
    fn cause_with_holder(&self, loss: Loss) -> String {
        let ask = || self.datastore.inspect()?.holder(self.lock.key()).ok();
        self.cause(loss, (loss == Loss::KeyGone).then(ask).flatten())
    }

    fn lost(&self, cause: &str, fate: &str) -> String {
        format!("lost {} in {}: {cause}; {fate}", self.name, self.shown_url)
    }

    /// The exit code, after the lock was released.
    fn code(&self, ended: Ended) -> Result<u8, ExitReason> {
        let name = &self.name;
        let lost = self.codes.lost;
        let code = match ended {
            Ended::Exited(code) => code,
            Ended::Killed { signal, .. } => exit_code::of_signal(signal),
            Ended::NotStarted => return Ok(self.code_of_signal()),
            Ended::CannotRun(code, message) => return Err(ExitReason::new(code, message)),
            Ended::LostBefore(loss) => {
                let cause = self.cause_with_holder(loss);
                let message = self.lost(&cause, "the command was not started");
                return Err(ExitReason::unless_zero(self.codes.unreachable, message));
            }
            Ended::Lost(loss) => {
                let cause = self.cause_with_holder(loss);
                return Err(ExitReason::new(
                    lost,
                    self.lost(&cause, "the command was ended"),
                ));
            }
            Ended::RunsOn => return Ok(lost),
        };
        match self.events.release_failure() {
            Some(ReleaseFailure::Lost(at)) => {
                let loss = if self.events.was_running_at(at) {
                    Loss::KeyGone
                } else {
                    Loss::TimeRanOut
                };
                let cause = self.cause_with_holder(loss);
                let fate = format!(
                    "the command had already ended, with exit code {code}; \
                     another one may have run at the same time"
                );
                return Err(ExitReason::new(lost, self.lost(&cause, &fate)));
            }
            Some(ReleaseFailure::NotReleased(error)) => report(format_args!(
                "could not release {name} in {} ({error}); others have to wait for at most {}",
                self.shown_url,
                duration::format(self.lock.options().ttl())
            )),
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

/// What is wrong with an option, by the name of its flag.
fn with_flags(error: &OptionsError) -> String {
    match error {
        OptionsError::OutOfRange {
            option,
            value,
            least,
            most,
        } => {
            let [value, least, most] = [value, least, most].map(|time| duration::format(*time));
            format!("{} {value} is outside {least} to {most}", flag(*option))
        }
        error => error.to_string(),
    }
}

fn flag(option: OptionName) -> &'static str {
    match option {
        OptionName::Ttl => "--ttl",
        OptionName::MinHold => "--min-hold",
        OptionName::Grace => "--kill-after",
        OptionName::Keep => "--keep",
        other => other.as_str(),
    }
}

fn options(run: &Run) -> LockOptionsBuilder {
    let mut options = LockOptions::builder();
    let lock = &run.options.lock;
    if let Some(prefix) = &run.store.prefix {
        options = options.key_prefix(prefix);
    }
    if let Some(label) = &lock.label {
        options = options.label(label);
    }
    if let Some(ttl) = lock.ttl {
        options = options.ttl(ttl);
    }
    if let Some(min_hold) = lock.min_hold {
        options = options.min_hold(min_hold);
    }
    if let Some(grace) = run.options.kill_after {
        options = options.grace(grace);
    }
    options
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_flags_that_were_given() {
        let day = Duration::from_secs(86_400);
        for (option, message) in [
            (OptionName::Ttl, "--ttl 366d is outside 10ms to 365d"),
            (
                OptionName::MinHold,
                "--min-hold 366d is outside 10ms to 365d",
            ),
            (
                OptionName::Grace,
                "--kill-after 366d is outside 10ms to 365d",
            ),
            (OptionName::Keep, "--keep 366d is outside 10ms to 365d"),
            // There is no flag for it.
            (OptionName::MaxHold, "max_hold 366d is outside 10ms to 365d"),
        ] {
            let error = OptionsError::OutOfRange {
                option,
                value: day * 366,
                least: Duration::from_millis(10),
                most: day * 365,
            };
            assert_eq!(with_flags(&error), message);
        }
        let option = OptionName::Id;
        assert_eq!(
            with_flags(&OptionsError::Empty { option }),
            "the lock's id is empty; give it a name"
        );
    }
}
