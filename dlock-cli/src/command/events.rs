//! What happens while the command runs: signals for it, and changes of its state.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use super::Running;
use crate::lease::State;
use crate::message::report_if_writable;
use crate::signals::Event;
use crate::sys::{self, Change};

/// The signals that people send to end a command.
const ASKS_TO_END: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

impl Running<'_> {
    pub(super) fn handle(&mut self, event: Option<Event>) {
        match event {
            // The loop checks for changes after each event.
            None | Some(Event::Lost | Event::Signal(Signal::CHILD)) => {}
            Some(Event::Signal(Signal::CONT)) => self.resume(),
            Some(Event::Signal(Signal::TSTP)) => {
                // If the command waits for the terminal, continue it for that first: a later
                // continue would discard this signal.
                self.reap_children();
                self.suspending = true;
                let _ = self.group.signal(Signal::TSTP);
            }
            Some(Event::Signal(signal)) => {
                self.asked_to_end |= ASKS_TO_END.contains(&signal);
                if self.group.signal(signal).is_err() && self.reap_children().is_none() {
                    self.report_once(
                        "a signal could not be passed to the command: it runs as another user",
                    );
                }
            }
        }
    }

    pub(super) fn report_once(&mut self, message: &str) {
        if !self.reported_unreachable {
            self.reported_unreachable = true;
            report_if_writable(message);
        }
    }

    /// Reaps children, and handles a stop of the command. Returns how the command ended, if it did.
    pub(super) fn reap_children(&mut self) -> Option<Change> {
        while let Ok(Some((child, change))) = sys::next_change() {
            match change {
                Change::Exited(_) | Change::Killed(_) if child == self.leader => {
                    return Some(change);
                }
                Change::Stopped(signal) if child == self.leader => {
                    reap(child);
                    self.stopped(signal);
                }
                // As process 1, dlock inherits all orphans.
                _ => reap(child),
            }
        }
        None
    }

    /// Handles a stop of the command. If the command were the shell's own child, the shell would
    /// take the terminal and wait for `fg` or `bg`. So dlock stops too, with its group, and the
    /// shell does that.
    fn stopped(&mut self, signal: i32) {
        let (Some(terminal), Some(signal)) = (&mut self.terminal, Signal::from_named_raw(signal))
        else {
            return;
        };
        let signal = if self.suspending {
            Signal::TSTP
        } else {
            signal
        };
        match signal {
            Signal::TTIN | Signal::TTOU if terminal.lend_on_request(self.leader) => {
                return self.resume();
            }
            Signal::TTIN | Signal::TTOU | Signal::TSTP => {}
            // A user has stopped the command and will continue it. Its lease is renewed meanwhile.
            _ => return,
        }
        terminal.take_back(self.leader);
        let before = Instant::now();
        let _ = sys::take_default_action_with_group(signal);
        let _ = sys::catch(Signal::TSTP.as_raw());
        // Without a shell that could continue it, the system does not stop the group at all. The
        // pause keeps the command from being stopped and continued in a busy loop.
        if signal != Signal::TSTP && before.elapsed() < Duration::from_millis(10) {
            thread::sleep(Duration::from_millis(200));
        }
        self.resume();
    }

    /// Continues the command if the lease lasts. It was not renewed while dlock was stopped; if it
    /// has ended, the loop ends the command.
    fn resume(&mut self) {
        if self.lease.check() == State::Lost {
            return;
        }
        if let Some(terminal) = &self.terminal {
            terminal.lend(self.leader);
        }
        let _ = self.group.signal(Signal::CONT);
    }

    pub(super) fn take_back_terminal(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| {
            let had_it = terminal.belongs_to(self.leader);
            terminal.take_back(self.leader);
            had_it
        })
    }
}

/// Acknowledges a child's change of state to the system. A child that has ended disappears.
pub(super) fn reap(child: Pid) {
    let _ = waitpid(Some(child), WaitOptions::NOHANG | WaitOptions::UNTRACED);
}
