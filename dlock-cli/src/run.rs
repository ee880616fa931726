//! `dlock run`: gets the lock, runs the command, releases the lock, and says how it went.

use std::cell::Cell;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dlock_core::{
    AcquireError, Cancel, ErrorKind, Lock, LockEvent, LockGuard, LockOptions, Once, Store, Wait,
    duration,
};

use rustix::process::Signal;

use crate::args::{Once as Job, Patience, Run};
use crate::command::{self, Ended};
use crate::exit_code;
use crate::say::{chain, plain, say};
use crate::seen::{ReleaseFailure, Seen};
use crate::signals::Signals;
use crate::store;
use crate::sys;
use crate::watcher::Watcher;

/// Runs; the exit code.
pub(crate) fn run(run: &Run) -> u8 {
    let result = Attempt::prepare(run).and_then(|attempt| {
        let result = attempt.make();
        drop(attempt.watcher.take());
        // The process is about to end, which ends the store's threads sooner than telling them to.
        std::mem::forget(attempt);
        result
    });
    match result {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            if let Some(message) = message {
                say(message);
            }
            code
        }
    }
}

/// Why there is an exit code that is not the command's.
struct Failure {
    code: u8,
    message: Option<String>,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: Some(message.into()),
        }
    }

    /// Who asked for exit code 0 does not want to read about it either: cron sends a mail for every line.
    fn unless_zero(code: u8, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: (code != 0).then(|| message.into()),
        }
    }
}

struct Attempt<'a> {
    run: &'a Run,
    name: String,
    signals: Signals,
    /// As messages show it, without secrets.
    place: String,
    /// As the command gets it if it shall.
    url: Option<String>,
    lock: Lock,
    seen: Arc<Seen>,
    /// Waited for at the end, so that it has the time of the release to end.
    watcher: Cell<Option<Watcher>>,
}

impl<'a> Attempt<'a> {
    fn prepare(run: &'a Run) -> Result<Self, Failure> {
        let name = plain(&run.name);
        let signals = Signals::listen().map_err(|error| cannot_catch_signals(&error))?;
        let opened = store::open(run.store.as_deref()).map_err(|error| match error {
            store::OpenError::Usage(message) => Failure::new(exit_code::USAGE, message),
            store::OpenError::Unusable(message) => {
                Failure::unless_zero(run.codes.unreachable, message)
            }
        })?;
        let seen = Arc::new(Seen::new(name.clone(), run.wait));
        let store = Store::builder(opened.datastore)
            .observer({
                let seen = Arc::clone(&seen);
                move |event: &LockEvent<'_>| seen.note(event)
            })
            .build();
        let lock = Lock::with_options(store, &run.name, options(run)).map_err(|error| {
            let error = with_flags(&error.to_string());
            Failure::new(exit_code::USAGE, format!("cannot lock {name}: {error}"))
        })?;
        seen.is_about(lock.key());
        Ok(Attempt {
            run,
            name,
            signals,
            place: opened.shown,
            url: opened.url,
            lock,
            seen,
            watcher: Cell::default(),
        })
    }

    fn make(&self) -> Result<u8, Failure> {
        let wait = self.wait()?;
        let ended = match &self.run.once {
            Some(job) => self.make_once(&wait, job)?,
            None => {
                let guard = self.acquired(self.lock.acquire_with(&wait))?;
                let ended = self.command(&guard);
                // What goes wrong is told to `seen`.
                let _ = guard.release();
                ended
            }
        };
        self.code(ended)
    }

    fn wait(&self) -> Result<Wait, Failure> {
        let wait = match self.run.wait {
            // One try is over before a signal could matter; it is looked for before the command is started.
            Patience::AtMost(Duration::ZERO) => return Ok(Wait::none()),
            Patience::AtMost(time) => Wait::within(time),
            Patience::Forever => Wait::forever(),
        };
        let cancel = Cancel::new();
        self.signals
            .cancel_with(&cancel)
            .map_err(|error| cannot_catch_signals(&error))?;
        Ok(wait.cancelled_by(&cancel))
    }

    fn make_once(&self, wait: &Wait, job: &Job) -> Result<Ended, Failure> {
        let shown = format!("job {} of {}", plain(&job.job), self.name);
        let done = self.acquired(self.lock.once_with(wait, &job.job, job.keep, |guard| {
            match self.command(guard) {
                Ended::Exited(0) => Ok(()),
                ended => Err(ended),
            }
        }))?;
        match done {
            Ok(Once::Ran(())) => Ok(Ended::Exited(0)),
            Ok(Once::RanUnmarked(())) => {
                say(format_args!(
                    "{shown} succeeded but could not be marked as done: it may run again"
                ));
                Ok(Ended::Exited(0))
            }
            Ok(Once::AlreadyDone { since }) => Err(Failure::unless_zero(
                self.run.codes.done,
                format!("{shown} was done {}", ago(since)),
            )),
            Err(ended) => Ok(ended),
        }
    }

    fn command(&self, guard: &LockGuard) -> Ended {
        let mut command = Command::new(&self.run.program);
        command.args(&self.run.arguments);
        command.env("DLOCK_KEY", guard.key());
        match guard.fencing_token() {
            Some(token) => command.env("DLOCK_FENCING_TOKEN", token.to_string()),
            None => command.env_remove("DLOCK_FENCING_TOKEN"),
        };
        match &self.url {
            Some(url) if self.run.pass_store => command.env("DLOCK_STORE", url),
            _ => command.env_remove("DLOCK_STORE"),
        };
        let options = self.lock.options();
        let grace = options.grace.unwrap_or(options.ttl / 6);
        let (ended, watcher) = command::run(command, guard, grace, &self.signals);
        self.watcher.set(watcher);
        ended
    }

    fn acquired<T>(&self, result: Result<T, AcquireError>) -> Result<T, Failure> {
        let name = &self.name;
        result.map_err(|error| match error {
            AcquireError::Held(held) => {
                Failure::unless_zero(self.run.codes.held, format!("{name} is {held}"))
            }
            AcquireError::Cancelled => Failure {
                code: self.signals.first().map_or(exit_code::LOST, |signal| {
                    exit_code::of_signal(signal.as_raw())
                }),
                message: None,
            },
            AcquireError::Datastore(error) if error.kind() == ErrorKind::Invalid => Failure::new(
                exit_code::USAGE,
                format!("cannot lock {name} in {}: {}", self.place, chain(&error)),
            ),
            AcquireError::Datastore(error) => Failure::unless_zero(
                self.run.codes.unreachable,
                format!(
                    "cannot lock {name} in {}: {}; the command was not started",
                    self.place,
                    chain(&error)
                ),
            ),
            error => {
                let error = with_flags(&error.to_string());
                Failure::new(exit_code::USAGE, format!("cannot lock {name}: {error}"))
            }
        })
    }

    /// The exit code, after the lock was released.
    fn code(&self, ended: Ended) -> Result<u8, Failure> {
        let name = &self.name;
        let code = match ended {
            Ended::Exited(code) => code,
            Ended::Killed { signal, .. } => exit_code::of_signal(signal),
            Ended::NotStarted(signal) => return Ok(exit_code::of_signal(signal)),
            Ended::CannotRun(code, message) => return Err(Failure::new(code, message)),
            Ended::Lost => {
                let why = match self.seen.renewal_failure() {
                    Some(error) => format!("its lease could not be renewed ({error})"),
                    None => "its lease ended".to_owned(),
                };
                let place = &self.place;
                return Err(Failure::new(
                    self.run.codes.lost,
                    format!("lost {name} in {place}: {why}; the command was ended"),
                ));
            }
        };
        match self.seen.release_failure() {
            Some(ReleaseFailure::Lost) => {
                return Err(Failure::new(
                    self.run.codes.lost,
                    format!(
                        "lost {name} in {} before the command ended: the store does not know our lease any more; \
                         another may have run at the same time",
                        self.place
                    ),
                ));
            }
            Some(ReleaseFailure::NotReleased(error)) => say(format_args!(
                "could not release {name} in {} ({error}); others have to wait for at most {}",
                self.place,
                duration::format(self.lock.options().ttl)
            )),
            None => {}
        }
        if matches!(ended, Ended::Killed { signal, had_terminal: true } if signal == Signal::INT.as_raw())
        {
            drop(self.watcher.take());
            // Ctrl-C went to the command's group alone. Without dlock the script around it would have got it too.
            let _ = sys::take_default_action_with_group(Signal::INT);
        }
        Ok(code)
    }
}

fn cannot_catch_signals(error: &io::Error) -> Failure {
    Failure::new(exit_code::LOST, format!("cannot catch signals: {error}"))
}

/// The library's words for its options, as the command calls them.
fn with_flags(error: &str) -> String {
    let flags = [
        ("ttl ", "--ttl "),
        ("min_hold ", "--min-hold "),
        ("grace ", "--kill-after "),
        ("keep ", "--keep "),
    ];
    let named = flags.iter().find_map(|(option, flag)| {
        error
            .strip_prefix(option)
            .map(|rest| format!("{flag}{rest}"))
    });
    named.unwrap_or_else(|| error.to_owned())
}

fn options(run: &Run) -> LockOptions {
    let mut options = LockOptions::default();
    if let Some(prefix) = &run.prefix {
        options = options.with_key_prefix(prefix);
    }
    if let Some(label) = &run.label {
        options = options.with_label(label);
    }
    if let Some(ttl) = run.ttl {
        options = options.with_ttl(ttl);
    }
    if let Some(min_hold) = run.min_hold {
        options = options.with_min_hold(min_hold);
    }
    if let Some(grace) = run.kill_after {
        options = options.with_grace(grace);
    }
    options
}

/// "12m5s ago": the hosts' clocks agree well enough for that, and no time zone is needed.
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
        for (error, shown) in [
            (
                "grace 29s is outside 0s to 15s",
                "--kill-after 29s is outside 0s to 15s",
            ),
            (
                "keep 366d is outside 10ms to 365d",
                "--keep 366d is outside 10ms to 365d",
            ),
            (
                "the lock's id is empty; give it a name",
                "the lock's id is empty; give it a name",
            ),
        ] {
            assert_eq!(with_flags(error), shown);
        }
    }
}
