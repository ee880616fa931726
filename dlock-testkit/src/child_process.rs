//! A second process: the test binary, started again for one ignored test, carries out commands line
//! by line.

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
/// Marks answers among the lines that the test harness prints.
const ANSWER: &str = "@dlock ";
/// Generous, for a process that starts or waits for others on an overloaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Another process that has the store open. It is killed when this is dropped.
pub(crate) struct ChildProcess<'c> {
    case: &'c Case<'c>,
    child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl<'c> ChildProcess<'c> {
    /// Starts the process.
    pub(crate) fn start(case: &'c Case<'c>) -> Self {
        // Opened here first, in case the store must be created.
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
        let mut other = ChildProcess {
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

    /// Sends a command and returns the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.send(order);
        self.answer()
    }

    /// Sends a command without waiting for the answer.
    pub(crate) fn send(&mut self, order: &str) {
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

    /// The next answer.
    pub(crate) fn answer(&mut self) -> String {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => broken!(
                self.case,
                "not shown: another process did not answer within {PATIENCE:?}"
            ),
            // Its standard output is closed, so it has ended or is about to end.
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

    /// Lets it wait for a lock in a thread of its own.
    pub(crate) fn waits(&mut self, id: &str, within: Duration) {
        let answer = self.ask(&format!("wait {id} {}", within.as_millis()));
        if answer != "waits" {
            broken!(
                self.case,
                "another process was to wait and answered `{answer}`"
            );
        }
    }

    /// Waits until all its waiters are done. Returns when each was served.
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

    /// Sends a signal to the process. After `STOP` the process does nothing more.
    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
        let pid = Pid::from_child(&self.child);
        let sent = kill_process(pid, signal).and_then(|()| match signal {
            // Its threads run until one of them has handled the signal, which may take a while on
            // an overloaded machine.
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

    /// Waits until the process has ended by itself.
    pub(crate) fn ends(&mut self) {
        let give_up = now().saturating_add(PATIENCE);
        while !matches!(self.child.try_wait(), Ok(Some(_))) {
            if now() > give_up {
                broken!(self.case, "not shown: another process did not end");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process without a chance to clean up.
    pub(crate) fn kill(mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            broken!(
                self.case,
                "not shown: another process could not be killed: {error}"
            );
        }
    }
}

impl Drop for ChildProcess<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the ignored `other_process` test of [`conformance!`](crate::conformance). It opens
/// the store that the starting process names, and carries out that process's commands until its
/// standard input ends. If no process has started it, it does nothing.
///
/// `subject` creates the subject of a case; the place and prefix of the starting process replace
/// its own.
///
/// # Panics
///
/// If the store cannot be opened, or a call on it fails.
pub fn other_process(subject: impl Fn() -> Subject) {
    let Ok(prefix) = std::env::var(PREFIX) else {
        return;
    };
    let subject = subject().seen_by_other(place_of_parent(), prefix);
    crate::child_commands::serve(&subject, &mut say);
}

/// The place of the store, in a process that a case has started, if the store has one.
pub(crate) fn place_of_parent() -> Option<String> {
    std::env::var(PLACE).ok()
}

/// Answers the process that started this one.
#[allow(clippy::print_stdout)] // Answers go to standard output.
fn say(answer: &str) {
    println!("{ANSWER}{}", answer.replace('\n', " "));
    // If the starting process has ended, the next read of standard input ends this one.
    let _ = std::io::stdout().flush();
}
