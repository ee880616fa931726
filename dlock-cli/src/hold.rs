//! `dlock hold`: holds the lock for a script, which goes on by itself.
//!
//! The script ends the hold by closing the standard input of dlock, or by ending: whatever happens
//! to it, the lock is released. No command is started, so a lease that is lost can only be
//! reported: by the exit code, and if it is asked for by a signal to the script.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use dlock_core::LockGuard;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getppid, kill_process};

use crate::args::{Hold, LogFormat};
use crate::config::Settings;
use crate::exit_reason::ExitReason;
use crate::lease::{LeaseWatch, Loss, State};
use crate::lock_events::ReleaseFailure;
use crate::message::{report, report_as_json};
use crate::session::{Session, Wanted};
use crate::signals::{Event, Signals};

/// How often the parent is looked for, where the system does not report its end.
const LOOK_FOR_PARENT: Duration = Duration::from_millis(500);

/// Holds the lock. Returns the exit code.
pub(crate) fn hold(hold: &Hold) -> u8 {
    let result = prepare(hold).and_then(|(session, parent)| {
        let result = held(hold, &session, &parent);
        // The process is about to end, which ends the store's threads.
        std::mem::forget(session);
        result
    });
    result.unwrap_or_else(ExitReason::reported)
}

fn prepare(hold: &Hold) -> Result<(Session, Parent), ExitReason> {
    // Before anything that takes time: it may end meanwhile.
    let parent = Parent::find();
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
    Ok((session, parent))
}

fn held(hold: &Hold, session: &Session, parent: &Parent) -> Result<u8, ExitReason> {
    let guard = session.acquired(session.lock.acquire_with(&session.wait()))?;
    let end = match session.signals.wait_is_over() {
        false => End::Signal,
        true => {
            guard.on_lost(Signals::lost);
            print_token(&guard);
            watch(hold, session, parent, &guard)
        }
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
    Ok(match end {
        End::Signal => session.code_of_signal(),
        End::Input | End::Parent | End::Lost(_) => 0,
    })
}

/// Why the hold ends.
enum End {
    /// The standard input has ended.
    Input,
    /// The parent has ended.
    Parent,
    /// A signal asked for it.
    Signal,
    Lost(Loss),
}

/// Waits for the end of the hold.
fn watch(hold: &Hold, session: &Session, parent: &Parent, guard: &LockGuard) -> End {
    let mut lease = LeaseWatch::new(guard, session.lock.options().grace());
    let mut loss = None;
    loop {
        match lease.check() {
            State::Lost => {
                if loss.is_none() && hold.signal_parent {
                    parent.end();
                }
                return End::Lost(loss.unwrap_or(lease.loss()));
            }
            // The parent has the rest of the lease to stop.
            State::AtRisk if loss.is_none() && hold.signal_parent => {
                loss = Some(lease.loss());
                parent.end();
            }
            State::AtRisk | State::Lasts => {}
        }
        let next_check = parent.next_look(lease.next_check());
        let ready = wait(session, parent, next_check);
        if let Some(end) = ready.and_then(|()| ended(session, parent)) {
            return match loss {
                // It was told that the lease is as good as lost, and acted on it.
                Some(loss) => End::Lost(loss),
                None => end,
            };
        }
    }
}

/// Waits until something may have happened; `None` if nothing has by `until`.
fn wait(session: &Session, parent: &Parent, until: Instant) -> Option<()> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
        tv_nsec: left.subsec_nanos().into(),
    };
    let readable = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
    let mut all = vec![
        readable(session.signals.pipe()),
        readable(rustix::stdio::stdin()),
    ];
    all.extend(parent.descriptor().map(readable));
    let _ = poll(&mut all, Some(&timeout));
    // Without a descriptor the parent is looked for each time.
    let is_ready = all
        .iter()
        .any(|descriptor| !descriptor.revents().is_empty());
    (is_ready || parent.descriptor().is_none()).then_some(())
}

/// Returns whether the hold is to end, by what is ready now.
fn ended(session: &Session, parent: &Parent) -> Option<End> {
    while let Some(event) = session.signals.next(Some(Instant::now())) {
        match event {
            // The lease says it.
            Event::Lost => {}
            Event::Signal(_) => return Some(End::Signal),
        }
    }
    if parent.is_gone() {
        return Some(End::Parent);
    }
    let mut input = [PollFd::from_borrowed_fd(
        rustix::stdio::stdin(),
        PollFlags::IN,
    )];
    match poll(&mut input, Some(&Timespec::default())) {
        Ok(1..) => {}
        _ => return None,
    }
    // What is written there has no meaning.
    match rustix::io::read(rustix::stdio::stdin(), &mut [0; 1024]) {
        Ok(0) => Some(End::Input),
        Ok(_) => None,
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => None,
        Err(_) => Some(End::Input),
    }
}

fn print_token(guard: &LockGuard) {
    let token = guard.fencing_token().map(|token| token.to_string());
    let line = format!("{}\n", token.unwrap_or_default());
    let mut out = io::stdout();
    // A script that does not read it has no use for it.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// The process that started dlock.
struct Parent {
    pid: Option<Pid>,
    /// Reports its end, where the system can.
    descriptor: Option<OwnedFd>,
}

impl Parent {
    fn find() -> Self {
        let pid = getppid();
        Parent {
            pid,
            descriptor: pid.and_then(opened),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    fn is_gone(&self) -> bool {
        getppid() != self.pid
    }

    /// Asks it to end, unless it is gone already and its number may be another process's.
    fn end(&self) {
        if let Some(pid) = self.pid.filter(|_| !self.is_gone()) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// The time of the next check.
    fn next_look(&self, other: Instant) -> Instant {
        match self.descriptor {
            Some(_) => other,
            None => other.min(Instant::now() + LOOK_FOR_PARENT),
        }
    }
}

#[cfg(target_os = "linux")]
fn opened(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn opened(_: Pid) -> Option<OwnedFd> {
    None
}
