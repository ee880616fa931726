//! Checks a command that has ended against its documentation.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use dlock_core::Time;
use dlock_history::{JobRecord, Recorder};

use crate::ended::{Ended, code};
use crate::job::DONE;
use crate::launch::{Launch, LimitKind, Then};

const UNREACHABLE: i32 = 69;
const LOST: i32 = 70;
const HELD: i32 = 75;
const USAGE: i32 = 64;
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;

/// One run of a command.
pub(crate) struct Run<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) record: &'a Recorder,
    pub(crate) key: &'a str,
    pub(crate) asked: Time,
    pub(crate) ended: Ended,
    /// The history that the job wrote.
    pub(crate) history: &'a str,
    /// The standard error of dlock, and of the shell before the job.
    pub(crate) errors: &'a str,
    /// The signals that a job inherits without dlock.
    pub(crate) signals: &'a str,
}

/// Records how the command ended, that its job must be over, and everything that is wrong.
pub(crate) fn judge(run: &Run<'_>) {
    let (record, key) = (run.record, run.key);
    let by = run.ended.at.saturating_add(JobRecord::SLACK);
    record.doomed(key, by, "its command has ended");
    let status = match &run.ended.status {
        Ok(status) => *status,
        Err(hangs) => {
            record.exited(key, run.asked, "never");
            return record.amiss(key, run.asked, hangs);
        }
    };
    record.exited(key, run.asked, &code(status).to_string());
    if status.success() && run.is_done() {
        record.job_released(key, run.ended.at);
    }
    for text in run.wrong(status) {
        record.amiss(key, run.asked, &text);
    }
}

impl Run<'_> {
    fn is_done(&self) -> bool {
        self.errors.lines().any(|line| line == DONE)
    }

    fn wrong(&self, status: ExitStatus) -> Vec<String> {
        let mut wrong = Vec::new();
        let began = self.history.contains(" granted ");
        if self.errors.lines().any(is_panic) {
            wrong.push("a thread of dlock panicked".to_owned());
        }
        match status.code() {
            Some(code @ (UNREACHABLE | HELD)) if began => wrong.push(format!(
                "status {code} says that the job was not started, but it was"
            )),
            Some(LOST) if !began && !self.errors.contains("dlock: lost ") => {
                wrong.push(format!(
                    "status {LOST} says that the job ran, but it did not"
                ));
            }
            Some(USAGE) => wrong.push(format!("status {USAGE} for a good command line")),
            Some(0) if !self.is_done() => {
                wrong.push("status 0, but the job did not come to its end".to_owned());
            }
            Some(_) => {}
            None => {
                let signal = status.signal().unwrap_or(0);
                if !self.may_die_of(signal) {
                    wrong.push(format!("dlock died of signal {signal}"));
                }
            }
        }
        let found = lines(self.errors);
        if found.len() == 2 && found != lines(self.signals) {
            let expected = lines(self.signals);
            wrong.push(format!(
                "the job found {found:x?}, but without dlock it finds {expected:x?}"
            ));
        }
        wrong
    }

    fn may_die_of(&self, signal: i32) -> bool {
        let little = self
            .launch
            .limit
            .is_some_and(|l| l.kind == LimitKind::Memory);
        match self.launch.then {
            Then::KillCommand => signal == SIGKILL,
            // The signal may come before dlock catches it.
            Then::Terminate => signal == SIGTERM,
            // Without memory any program aborts.
            Then::StoreDies { fills, .. } => fills == Some(LimitKind::Memory) && signal == SIGABRT,
            _ => little && [SIGABRT, SIGSEGV].contains(&signal),
        }
    }
}

/// Returns whether a line reports a panic. Does not count the panic of a new thread for which
/// Rust's library finds no memory before it calls any of our code.
fn is_panic(line: &str) -> bool {
    line.contains("panicked at") && !line.contains("stack_overflow.rs")
}

/// The blocked and ignored signals, without those that the C library uses itself, which depend on
/// how it starts a process.
fn lines(text: &str) -> Vec<(&str, u64)> {
    const NAMED: u64 = (1 << 31) - 1;
    text.lines()
        .filter(|line| line.starts_with("Sig"))
        .filter_map(|line| {
            let (name, bits) = line.split_once(":\t")?;
            Some((name, u64::from_str_radix(bits, 16).ok()? & NAMED))
        })
        .collect()
}
