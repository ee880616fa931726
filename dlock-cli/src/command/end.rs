//! The end of the command, and of the processes that it started.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::events::reap;
use super::{CannotEnd, DYING, Ended, Running, Unkillable};
use crate::group::OutOfReach;
use crate::lease::State;
use crate::message::report;
use crate::sys::Change;
use crate::watcher::Watcher;

/// Said when the lock is released although a part of the command's group still runs.
const STILL_RUN: &str = "the command has ended, but processes that it started still run; \
                         the lock is released anyway";

impl Running<'_> {
    /// Returns although the command runs: its lease or its time is over, and dlock cannot end it.
    pub(super) fn give_up(
        mut self,
        why: Unkillable,
        cannot_end: &dyn Fn(CannotEnd),
    ) -> (Ended, Option<Watcher>) {
        self.take_back_terminal();
        self.watcher.dismiss();
        let (ended, cannot) = match (self.loss, self.took_too_long) {
            (None, true) => (Ended::Hangs, CannotEnd::TookTooLong),
            (loss, _) => {
                let loss = loss.unwrap_or(self.lease.loss());
                (Ended::RunsOn, CannotEnd::Lost(loss, why))
            }
        };
        cannot_end(cannot);
        (ended, Some(self.watcher))
    }

    pub(super) fn finish(
        mut self,
        change: Change,
        cannot_end: &dyn Fn(CannotEnd),
    ) -> (Ended, Option<Watcher>) {
        let had_terminal = self.take_back_terminal();
        let killed = matches!(change, Change::Killed(_));
        if killed || self.asked_to_end || self.took_too_long || self.loss.is_some() {
            reap(self.leader);
            if let Err(why) = self.wait_for_group() {
                return self.give_up(why, cannot_end);
            }
        }
        self.watcher.dismiss();
        reap(self.leader);
        let ended = match (self.loss, change) {
            (Some(loss), _) => Ended::Lost(loss),
            (None, _) if self.took_too_long => Ended::TookTooLong,
            (None, Change::Killed(signal) | Change::Stopped(signal)) => Ended::Killed {
                signal,
                had_terminal,
            },
            (None, Change::Exited(status)) => {
                Ended::Exited(u8::try_from(status & 0xff).unwrap_or(u8::MAX))
            }
        };
        (ended, Some(self.watcher))
    }

    /// Waits for the rest of the command's group, and holds the lock meanwhile. In `sh -c 'a; b'` a
    /// signal ends the shell at once, while `a` may still be cleaning up.
    ///
    /// The leader was reaped already, but its number is not reused while the group has members.
    ///
    /// # Errors
    ///
    /// If the lease was lost and the rest of the group could not be ended, or if it was killed and
    /// does not end.
    fn wait_for_group(&mut self) -> Result<(), Unkillable> {
        const STEP: Duration = Duration::from_millis(20);
        let wait_until = Instant::now() + self.grace;
        let mut killed = None;
        while self.group.runs() {
            let now = Instant::now();
            match self.lease.check() {
                State::Lost => {
                    self.loss.get_or_insert(self.lease.loss());
                    let killed = *killed.get_or_insert(now);
                    if self.group.signal(Signal::KILL).is_err() && self.group.runs() {
                        return Err(Unkillable::OtherUser);
                    }
                    if now >= killed + DYING {
                        return Err(Unkillable::Hangs);
                    }
                }
                _ if self.kill_at.is_some_and(|at| now >= at) => {
                    let killed = *killed.get_or_insert(now);
                    let reached = self.group.signal(Signal::KILL);
                    // The lease may be renewed for ever, but nothing more can be done.
                    if now >= killed + self.grace.max(DYING) && self.group.runs() {
                        return match (self.loss, reached) {
                            (None, Err(OutOfReach)) => {
                                report(STILL_RUN);
                                Ok(())
                            }
                            (Some(_), Err(OutOfReach)) => Err(Unkillable::OtherUser),
                            (_, Ok(())) => Err(Unkillable::Hangs),
                        };
                    }
                }
                State::AtRisk if self.loss.is_none() => self.end_early(),
                _ if self.loss.is_none() && now >= wait_until => {
                    report(STILL_RUN);
                    return Ok(());
                }
                _ => {}
            }
            if let Some(event) = self.signals.next(Some(now + STEP)) {
                self.handle(Some(event));
                self.reap_children();
            }
        }
        Ok(())
    }
}
