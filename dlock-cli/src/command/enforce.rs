//! Keeps the command within its lease and its time: asks it to end, and kills it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{DYING, Running, Unkillable};
use crate::group::OutOfReach;
use crate::lease::State;

impl Running<'_> {
    /// Acts on the state of the lease: sends SIGTERM when only the grace period is left, and
    /// SIGKILL shortly before the end, since a killed process takes a moment to be gone.
    ///
    /// # Errors
    ///
    /// If the lease has ended and the command cannot be killed, or if it was killed and does not
    /// end.
    pub(super) fn enforce_lease(&mut self) -> Result<(), Unkillable> {
        match self.lease.check() {
            State::Lost => {
                self.loss.get_or_insert(self.lease.loss());
                self.kill(DYING)
                    .map_err(|OutOfReach| Unkillable::OtherUser)?
            }
            // If it is out of reach, try again: the lease has not ended yet.
            _ if self.kill_at.is_some_and(|at| Instant::now() >= at) => {
                self.kill(self.grace.max(DYING)).unwrap_or(Ok(()))
            }
            State::AtRisk if self.loss.is_none() => {
                self.end_early();
                Ok(())
            }
            State::AtRisk | State::Lasts => {
                let is_over = self.end_at.is_some_and(|at| Instant::now() >= at);
                if is_over && !self.took_too_long && self.loss.is_none() {
                    self.end_after_max_hold();
                }
                Ok(())
            }
        }
    }

    /// Kills the command. The inner error is that of a command that was killed before and has not
    /// ended `within` this time.
    fn kill(&mut self, within: Duration) -> Result<Result<(), Unkillable>, OutOfReach> {
        self.group.kill_with_leader()?;
        let now = Instant::now();
        let killed = *self.killed.get_or_insert(now);
        Ok(match now >= killed + within {
            true => Err(Unkillable::Hangs),
            false => Ok(()),
        })
    }

    fn end_after_max_hold(&mut self) {
        // A command that has just ended by itself keeps its own status. Its end is handled next.
        if self.reap_children().is_some() {
            return;
        }
        if self.group.signal(Signal::TERM).is_err() {
            // dlock does not end it, so its status is its own. It is tried again at the next check.
            return self.report_once("the command cannot be asked to end: it runs as another user");
        }
        self.took_too_long = true;
        self.kill_at = Some(Instant::now() + self.grace);
        let _ = self.group.signal(Signal::CONT);
    }

    pub(super) fn end_early(&mut self) {
        if self.group.signal(Signal::TERM).is_err() {
            // The command runs on while the lease lasts: a renewal may still succeed.
            return self.report_once("the command cannot be asked to end: it runs as another user");
        }
        self.loss = Some(self.lease.loss());
        let kill_at = self.lease.kill_at();
        self.kill_at = Some(self.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        // A stopped process handles a signal only when it is continued.
        let _ = self.group.signal(Signal::CONT);
    }

    pub(super) fn next_check(&self) -> Instant {
        let now = Instant::now();
        let end_at = self.end_at.filter(|_| !self.took_too_long);
        let due = [self.kill_at, end_at].into_iter().flatten();
        due.filter(|at| *at > now)
            .fold(self.lease.next_check(), Instant::min)
    }
}
