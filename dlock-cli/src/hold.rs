//! `dlock hold`: holds the lock for a script, which goes on by itself.
//!
//! The script ends the hold by closing the standard input of dlock, or by ending: whatever happens
//! to it, the lock is released. No command is started, so a lease that is lost can only be
//! reported: by the exit code, and if it is asked for by a signal to the script.

mod parent;
mod script;

use std::io::{self, Write as _};
use std::time::Instant;

use dlock_core::{AcquireError, LockGuard};

use crate::args::{Hold, LogFormat};
use crate::config::Settings;
use crate::exit_reason::ExitReason;
use crate::lease::{LeaseWatch, Loss, State};
use crate::lock_events::ReleaseFailure;
use crate::message::{report, report_as_json};
use crate::session::{Session, Wanted};
use crate::signals::{Event, Signals};
use script::{Gone, Script};

/// Holds the lock. Returns the exit code.
pub(crate) fn hold(hold: &Hold) -> u8 {
    let result = prepare(hold).and_then(|(session, script)| {
        let result = held(hold, &session, &script);
        // The process is about to end, which ends the store's threads.
        std::mem::forget(session);
        result
    });
    result.unwrap_or_else(ExitReason::reported)
}

fn prepare(hold: &Hold) -> Result<(Session, Script), ExitReason> {
    // Before anything that takes time: it may end meanwhile.
    let script = Script::find();
    // The configuration is reported on in the same form.
    if hold.log == Some(LogFormat::Json) {
        report_as_json();
    }
    let settings = Settings::find(&hold.store, Some(&hold.name))?;
    let lock = hold.lock.clone().or(settings.options.lock.clone());
    if hold.log.or(settings.options.report.log) == Some(LogFormat::Json) {
        report_as_json();
    }
    let session = Session::open(&Wanted {
        name: &hold.name,
        settings: &settings,
        lock: &lock,
        grace: None,
        codes: hold.codes(),
        not_done: "nothing is held",
    })?;
    Ok((session, script))
}

fn held(hold: &Hold, session: &Session, script: &Script) -> Result<u8, ExitReason> {
    let (guard, gone) = acquire(session, script)?;
    let end = match session.signals.wait_is_over() {
        false => End::Signal,
        true => match gone.or_else(|| script.gone()) {
            Some(gone) => End::NotWanted(gone),
            None => {
                guard.on_lost(Signals::lost);
                print_token(&guard);
                watch(hold, session, script, &guard)
            }
        },
    };
    if let End::Lost(loss) = end {
        // It may be only about to be lost, and nobody needs it any more.
        if !guard.remaining().is_zero() {
            let _ = guard.release();
        }
        let cause = session.cause_with_holder(loss);
        let message = session.lost(&cause, "whatever relies on it must stop");
        return Err(ExitReason::new(session.codes.lost, message));
    }
    // The events record a failure.
    let _ = guard.release();
    match session.events.release_failure() {
        Some(ReleaseFailure::Lost(at)) => {
            let loss = match session.events.was_running_at(at) {
                true => Loss::KeyGone,
                false => Loss::TimeRanOut,
            };
            let cause = session.cause_with_holder(loss);
            let message = session.lost(&cause, "this was noticed at the release");
            return Err(ExitReason::new(session.codes.lost, message));
        }
        Some(ReleaseFailure::NotReleased(error)) => report(session.not_released(&error)),
        None => {}
    }
    match end {
        End::Signal => Ok(session.code_of_signal()),
        End::NotWanted(gone) => Err(not_wanted(session, gone)),
        End::ScriptIsGone | End::Lost(_) => Ok(0),
    }
}

/// Acquires the lock. Also returns what of the script has ended meanwhile.
fn acquire(session: &Session, script: &Script) -> Result<(LockGuard, Option<Gone>), ExitReason> {
    let try_it = || session.lock.acquire_with(&session.wait());
    let (acquired, gone) = match session.waits() {
        // A single call ends soon by itself.
        false => (try_it(), None),
        true => script
            .cancelling(session.cancel(), try_it)
            .map_err(|error| {
                let message = format!("cannot start a thread: {error}; nothing is held");
                ExitReason::unless_zero(session.codes.unreachable, message)
            })?,
    };
    if let (Err(AcquireError::Cancelled), Some(gone), None) =
        (&acquired, gone, session.signals.first())
    {
        return Err(not_wanted(session, gone));
    }
    Ok((session.acquired(acquired)?, gone))
}

/// The script has ended before the lock was acquired.
fn not_wanted(session: &Session, gone: Gone) -> ExitReason {
    let what = match gone {
        Gone::Input => "the standard input had ended",
        Gone::Parent => "the parent had ended",
    };
    let message = format!(
        "{what} before {} was acquired: no token was printed, and it is not held",
        session.name
    );
    ExitReason::new(session.codes.held, message)
}

/// Why the hold ends.
enum End {
    /// The standard input or the parent has ended.
    ScriptIsGone,
    /// The same before the lock was acquired.
    NotWanted(Gone),
    /// A signal asked for it.
    Signal,
    Lost(Loss),
}

/// Waits for the end of the hold.
fn watch(hold: &Hold, session: &Session, script: &Script, guard: &LockGuard) -> End {
    let mut lease = LeaseWatch::new(guard, session.lock.options().grace());
    let mut loss = None;
    loop {
        match lease.check() {
            State::Lost => {
                if loss.is_none() && hold.signal_parent {
                    script.parent().end();
                }
                return End::Lost(loss.unwrap_or(lease.loss()));
            }
            // The parent has the rest of the lease to stop.
            State::AtRisk if loss.is_none() && hold.signal_parent => {
                loss = Some(lease.loss());
                script.parent().end();
            }
            State::AtRisk | State::Lasts => {}
        }
        script.wait(session.signals.pipe(), lease.next_check());
        if let Some(end) = ended(session, script) {
            return match loss {
                // It was notified that the lease is as good as lost, and acted on it.
                Some(loss) => End::Lost(loss),
                None => end,
            };
        }
    }
}

/// Whether the hold is to end.
fn ended(session: &Session, script: &Script) -> Option<End> {
    while let Some(event) = session.signals.next(Some(Instant::now())) {
        match event {
            // The lease says it.
            Event::Lost => {}
            Event::Signal(_) => return Some(End::Signal),
        }
    }
    script.gone().map(|_: Gone| End::ScriptIsGone)
}

fn print_token(guard: &LockGuard) {
    let token = guard.fencing_token().map(|token| token.to_string());
    let line = format!("{}\n", token.unwrap_or_default());
    let mut out = io::stdout();
    // A script that does not read it has no use for it.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
