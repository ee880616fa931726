//! A second process: the test binary, started again for one ignored test, does what it is told line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use dlock_core::Time;

use crate::Subject;
use crate::case::{Case, broken, now};

const PREFIX: &str = "DLOCK_TESTKIT_PREFIX";
const PLACE: &str = "DLOCK_TESTKIT_PLACE";
/// Marks the lines that are answers, among those that the test harness prints.
const ANSWER: &str = "@dlock ";
/// For a process that starts, or waits for others, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(300);

/// Another process that has the store open. It is killed when this is dropped.
pub(crate) struct Other<'c> {
    case: &'c Case<'c>,
    child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl<'c> Other<'c> {
    /// Starts it.
    pub(crate) fn start(case: &'c Case<'c>) -> Self {
        // Opened here first, so that a store which must be created is.
        let _first = case.subject.first();
        let Some(test) = case.subject.test() else {
            broken!(
                case,
                "not shown: the subject does not name the test that other processes run (`conformance!` does)"
            )
        };
        let program = std::env::current_exe();
        let Ok(program) = program else {
            broken!(
                case,
                "not shown: this binary cannot find itself to start another process"
            )
        };
        let mut command = Command::new(program);
        command
            .args([
                test,
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(PREFIX, case.subject.prefix())
            .env_remove(PLACE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(place) = case.subject.place() {
            command.env(PLACE, place);
        }
        let started = command.spawn();
        let Ok(mut child) = started else {
            broken!(
                case,
                "not shown: another process could not be started: {started:?}"
            )
        };
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            broken!(case, "not shown: another process has no pipes")
        };
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once(ANSWER) {
                    let _ = sender.send(answer.to_owned());
                }
            }
        });
        let mut other = Other {
            case,
            child,
            orders,
            answers,
        };
        let ready = other.answer();
        if ready != "ready" {
            broken!(
                case,
                "not shown: another process could not open the store: {ready}"
            );
        }
        other
    }

    /// Tells it what to do; what it answered.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    /// Tells it what to do, without waiting for the answer.
    pub(crate) fn tell(&mut self, order: &str) {
        if writeln!(self.orders, "{order}")
            .and_then(|()| self.orders.flush())
            .is_err()
        {
            broken!(
                self.case,
                "not shown: another process ended before it was told `{order}`"
            );
        }
    }

    /// Its next answer.
    pub(crate) fn answer(&mut self) -> String {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => broken!(
                self.case,
                "not shown: another process did not answer within {PATIENCE:?}"
            ),
            // Its standard output is closed, so it is gone or about to be.
            Err(RecvTimeoutError::Disconnected) => broken!(
                self.case,
                "not shown: another process ended before it answered ({}); if it panicked, in `reopen` say, standard error tells \
                 where",
                self.child
                    .wait()
                    .map_or_else(|error| error.to_string(), |status| status.to_string())
            ),
        }
    }

    /// Lets it begin to wait for a lock, in a thread of its own.
    pub(crate) fn waits(&mut self, id: &str, within: Duration) {
        let answer = self.ask(&format!("wait {id} {}", within.as_millis()));
        if answer != "waits" {
            broken!(
                self.case,
                "another process was to wait and answered `{answer}`"
            );
        }
    }

    /// Waits until all its waiters are done: when each was served.
    pub(crate) fn served(&mut self) -> Vec<Time> {
        let answer = self.ask("served");
        let times = answer.strip_prefix("served").map(|times| {
            let times = times.split_whitespace().map(str::parse);
            times.map(|time| time.map(Time::from_nanos)).collect()
        });
        match times {
            Some(Ok(times)) => times,
            _ => broken!(
                self.case,
                "a waiter of another process did not get its turn: {answer}"
            ),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal. It does nothing any more after a `STOP`.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
        let pid = Pid::from_child(&self.child);
        let sent = kill_process(pid, signal).and_then(|()| match signal {
            // Its threads go on until one of them has taken the signal, which may take a while on a machine under load.
            Signal::STOP => waitpid(Some(pid), WaitOptions::UNTRACED).map(drop),
            _ => Ok(()),
        });
        if let Err(error) = sent {
            broken!(
                self.case,
                "not shown: another process got no {signal:?}: {error}"
            );
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ends(&mut self) {
        let give_up = now().saturating_add(PATIENCE);
        while !matches!(self.child.try_wait(), Ok(Some(_))) {
            if now() > give_up {
                broken!(self.case, "not shown: another process did not end");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it without a chance to clean up.
    pub(crate) fn kill(mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            broken!(
                self.case,
                "not shown: another process could not be killed: {error}"
            );
        }
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the ignored `other_process` test of [`conformance!`](crate::conformance) runs: opens the store that the starting process tells of, and
/// does what that one says, until its standard input ends. Without a process that started it it does nothing.
///
/// `subject` is how a case gets its subject; its place and prefix are replaced by the starting process's.
///
/// # Panics
///
/// If the store cannot be opened, or a call on it fails.
pub fn other_process(subject: impl Fn() -> Subject) {
    let Ok(prefix) = std::env::var(PREFIX) else {
        return;
    };
    let subject = subject().seen_by_other(std::env::var(PLACE).ok(), prefix);
    crate::orders::obey(&subject, &mut say);
}

/// Answers the process that started this one.
#[allow(clippy::print_stdout)] // Standard output is the way to it.
fn say(answer: &str) {
    println!("{ANSWER}{}", answer.replace('\n', " "));
    // Nobody listens if the starting process ended; then the next read of standard input ends this one.
    let _ = std::io::stdout().flush();
}
