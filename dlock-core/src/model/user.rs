//! What a client does: it carries out what core decides, as drive.rs, guard.rs and the keeper do, one step at a time.

use std::rc::Rc;
use std::time::Duration;

use super::client::{Finish, Phase, Slot, Then};
use super::decisions::{Mind, Says, Told, tell};
use super::protocol::Protocol;
use super::types::{Answer, Call, PlanOf, Promise, Seed, Verb};
use super::world::{TICK, World};
use crate::Time;

impl<P: Protocol> World<P> {
    pub(super) fn tell(&mut self, id: u8, told: Told) -> Says {
        let now = self.local(id);
        let memory = Rc::clone(&self.memory);
        tell(&memory, &mut self.client_mut(id).mind, now, told)
    }

    pub(super) fn start(&mut self, id: u8) -> Result<(), String> {
        let now = self.local(id);
        let bounds = &self.bounds;
        let plan = PlanOf {
            deadline: now.saturating_add(bounds.waits.unwrap_or(bounds.call_timeout)),
            waits: bounds.waits.is_some(),
            call_timeout: bounds.call_timeout,
            pause: Duration::from_millis(TICK),
        };
        let client = self.client_mut(id);
        client.rounds -= 1;
        client.number += 1;
        client.mind = Mind::new();
        client.waiting.signalled = false;
        let says = self.tell(id, Told::Start(plan));
        self.act(id, says)
    }

    /// drive.rs, `acquire`: carries out what the acquisition decides.
    pub(super) fn act(&mut self, id: u8, mut says: Says) -> Result<(), String> {
        loop {
            says = match says {
                Says::Claim { not_after, fresh } => {
                    let owner = self.owner(id);
                    let client = self.client_mut(id);
                    if fresh {
                        if !std::mem::take(&mut client.unclean) {
                            client.clean.push(owner);
                        }
                        // It was granted, so it is in no queue.
                        client.waiting.forget();
                        client.number += 1;
                    }
                    client.phase = Phase::Claiming;
                    let ttl = self.bounds.max_hold.unwrap_or(Duration::MAX);
                    let ttl = ttl.min(self.bounds.ttl);
                    return self.call(id, Slot::User, Verb::Acquire, not_after, 0, ttl, None);
                }
                Says::Watch => {
                    let watches = self.watch(id);
                    self.tell(id, Told::Watched(watches))
                }
                // drive.rs, `sleep`: it is over for this claim.
                Says::Sleep { until, wakeable } if !wakeable => {
                    return self.drop_watch(id, Then::Sleep { until });
                }
                Says::Sleep { until, wakeable } => {
                    self.client_mut(id).phase = Phase::Sleeping { until, wakeable };
                    return Ok(());
                }
                Says::Abandon if self.bounds.seed == Seed::NoAbandon => self.tell(id, Told::Undone),
                Says::Abandon => {
                    self.client_mut(id).phase = Phase::Undoing;
                    return self.abandon(id);
                }
                Says::Discard(grant) => {
                    self.client_mut(id).phase = Phase::Undoing;
                    let end = self.call_end(id);
                    let ttl = Duration::ZERO;
                    return self.call(id, Slot::User, Verb::Release, end, 1, ttl, Some(grant));
                }
                Says::Finish => self.tell(id, Told::Ended),
                Says::Won {
                    grant,
                    until,
                    lost_request,
                } => {
                    let promise = self.promise();
                    let client = self.client_mut(id);
                    client.mind = Mind::new();
                    client.waiting.overdue = 0;
                    client.lost_request = lost_request;
                    client.grant = Some(grant);
                    let hold = Told::Hold {
                        grant,
                        until,
                        promise,
                    };
                    let _ = self.tell(id, hold);
                    return self.drop_watch(id, Then::Hold);
                }
                Says::NotWon => return self.drop_watch(id, Then::End),
                other => unreachable!("{other:?}"),
            }
        }
    }

    pub(super) fn promise(&self) -> Promise {
        Promise {
            ttl: self.bounds.ttl,
            renew: self.bounds.renew,
            min_hold: self.bounds.min_hold,
            max_hold: self.bounds.max_hold,
            ttl_min: Duration::from_millis(TICK),
            confirm_after: P::CONFIRM_AFTER.map(Duration::from_millis),
            call_timeout: self.bounds.call_timeout,
        }
    }

    pub(super) fn call_end(&self, id: u8) -> Time {
        self.local(id).saturating_add(self.bounds.call_timeout)
    }

    pub(super) fn abandon(&mut self, id: u8) -> Result<(), String> {
        // dlock-memcache, store.rs, `abandon`
        let owner = self.owner(id);
        if self.bounds.seed != Seed::NotRemembered {
            self.client_mut(id).given_up.push(owner);
        }
        let end = self.call_end(id);
        self.call(id, Slot::User, Verb::Abandon, end, 0, Duration::ZERO, None)
    }

    pub(super) fn wake(&mut self, id: u8) -> Result<(), String> {
        match self.client(id).phase {
            Phase::Sleeping { .. } => {
                self.client_mut(id).waiting.signalled = false;
                let says = self.tell(id, Told::Woken);
                self.act(id, says)
            }
            Phase::AwaitingLost { .. } => self.begin_finish(id),
            _ => {
                self.client_mut(id).phase = Phase::Abandoning;
                self.abandon(id)
            }
        }
    }

    /// keeper/timing.rs and keeper/worker.rs
    pub(super) fn keep(&mut self, id: u8) -> Result<(), String> {
        let (told, verb) = match self.tell(id, Told::Due) {
            Says::Extend => (Told::Send, Verb::Extend),
            Says::Confirm => (Told::SendConfirm, Verb::Confirm),
            _ => return Ok(()),
        };
        let Says::Call {
            sequence,
            not_after,
            ttl,
            grant,
        } = self.tell(id, told)
        else {
            return Ok(());
        };
        self.client_mut(id).asked = ttl;
        self.call(
            id,
            Slot::Keeper,
            verb,
            not_after,
            sequence,
            ttl,
            Some(grant),
        )
    }

    /// guard.rs, `end`
    pub(super) fn end_guard(&mut self, id: u8) -> Result<(), String> {
        let says = self.tell(id, Told::AskHold);
        let (now, lost_request) = (self.local(id), self.client(id).lost_request);
        match lost_request.filter(|until| now < *until) {
            Some(until) if matches!(says, Says::HoldLeft(Some(_))) => {
                self.client_mut(id).phase = Phase::AwaitingLost { until };
                Ok(())
            }
            _ => self.begin_finish(id),
        }
    }

    pub(super) fn begin_finish(&mut self, id: u8) -> Result<(), String> {
        let Says::HoldLeft(keep) = self.tell(id, Told::Take) else {
            unreachable!("it was asked for that")
        };
        let now = self.local(id);
        let lost_request = self.client(id).lost_request;
        let refuses = P::REFUSES_LATE_CALLS || self.bounds.seed == Seed::ForgottenAfterItsEnd;
        let finish = Finish {
            // drive.rs, `outlive_lost_request`
            lost_request: lost_request.filter(|until| now < *until || !refuses),
            keep,
            deadline: self.call_end(id),
            failures: 0,
            told_in_time: false,
            valid: false,
            sent: self.now,
        };
        self.finish(id, finish)
    }

    /// guard.rs, `finish`: one time round.
    pub(super) fn finish(&mut self, id: u8, finish: Finish) -> Result<(), String> {
        let mind = &self.client(id).mind;
        let valid = !mind.lost && self.local(id) < mind.until;
        let not_after = finish.deadline;
        let Says::Call {
            sequence, grant, ..
        } = self.tell(id, Told::Number { not_after })
        else {
            unreachable!("it was asked for that")
        };
        let (verb, ttl) = match finish.keep {
            Some(keep) if valid => (Verb::Extend, keep),
            _ => (Verb::Release, Duration::ZERO),
        };
        self.client_mut(id).phase = Phase::Finishing(Finish {
            valid,
            sent: self.now,
            ..finish
        });
        self.call(id, Slot::User, verb, not_after, sequence, ttl, Some(grant))
    }

    pub(super) fn finished(
        &mut self,
        id: u8,
        mut finish: Finish,
        answer: &Answer,
    ) -> Result<(), String> {
        let done = match answer {
            Answer::Extended(_) => true,
            Answer::Lost => false,
            Answer::Released(ours) => *ours,
            Answer::Failed { kind, maybe } => {
                finish.failures += 1;
                finish.told_in_time |= *maybe && finish.valid;
                let end = finish.deadline.min(self.client(id).mind.until);
                if finish.failures < 2 && kind.is_transient() && self.local(id) < end {
                    return self.finish(id, finish);
                }
                self.client_mut(id).unclean = true;
                false
            }
            other => unreachable!("{other:?}"),
        };
        let kept = finish.keep.filter(|_| done && finish.valid);
        if let Some(keep) = kept {
            let owner = self.owner(id);
            let keep = u64::try_from(keep.as_millis()).expect("short");
            let client = self.client_mut(id);
            client.kept = Some((owner, finish.sent + keep));
            client.unclean = true;
            self.end(id);
            return Ok(());
        }
        // It may be kept although nobody heard of it.
        self.client_mut(id).unclean |= finish.keep.is_some() && finish.failures > 0;
        let now = self.local(id);
        let lost_request = match self.bounds.seed {
            Seed::NotOutlived => None,
            Seed::OutlivedTooLate => finish.lost_request.filter(|until| now < *until),
            _ => finish.lost_request,
        };
        match lost_request {
            Some(until) => self.client_mut(id).phase = Phase::Outliving { until },
            None => self.end(id),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, id: u8) {
        let owner = self.owner(id);
        let client = self.client_mut(id);
        if !std::mem::take(&mut client.unclean) {
            client.clean.push(owner);
            if client.grant.is_none() {
                client.failed.push(owner);
            }
        }
        client.phase = if client.rounds > 0 {
            Phase::Idle
        } else {
            Phase::Ended
        };
        client.mind = Mind::new();
        (client.grant, client.lost_request, client.looked) = (None, None, false);
        (client.asked, client.confirmed) = (Duration::ZERO, false);
        if client.phase == Phase::Ended {
            client.user_link = None;
        }
    }

    fn note_undone(&mut self, id: u8, call: &Call, failed: bool) {
        let client = self.client_mut(id);
        client.unclean |= failed;
        // store.rs, `abandon`
        if failed && call.waits && call.verb == Verb::Abandon {
            client.waiting.still_queued(call.owner);
        }
    }

    /// What a call of this client ended with.
    pub(super) fn answered(
        &mut self,
        id: u8,
        slot: Slot,
        call: &Call,
        answer: Answer,
    ) -> Result<(), String> {
        let sent = match self.bounds.seed {
            Seed::LeaseFromReceipt => self.local(id),
            _ => call.sent,
        };
        let failed = matches!(answer, Answer::Failed { .. });
        if slot == Slot::Looker {
            self.attended(id, call, &answer);
            return Ok(());
        }
        if slot == Slot::Keeper {
            let is_present =
                call.owner == self.owner(id) && self.client(id).mind.until > Time::ZERO;
            if is_present {
                let is_promise = matches!(answer, Answer::Extended(_));
                let client = self.client_mut(id);
                match call.verb {
                    Verb::Confirm => client.confirmed |= is_promise,
                    _ => client.confirmed &= !is_promise,
                }
            }
            let told = match call.verb {
                Verb::Extend => Told::Extended {
                    sent,
                    asked: self.client(id).asked,
                    answer,
                },
                Verb::Confirm => Told::Confirmed { sent, answer },
                _ => return Ok(()),
            };
            if is_present
                && self.tell(id, told) == Says::Orphaned
                && let Says::Call {
                    sequence,
                    not_after,
                    ttl,
                    grant,
                } = self.tell(id, Told::Orphan)
            {
                let verb = Verb::Release;
                return self.call(
                    id,
                    Slot::Keeper,
                    verb,
                    not_after,
                    sequence,
                    ttl,
                    Some(grant),
                );
            }
            return Ok(());
        }
        match self.client(id).phase {
            Phase::Claiming => {
                if let Answer::Granted(grant) = &answer
                    && let Some(fence) = grant.fence
                {
                    self.note_fence(grant.ordinal, fence)?;
                }
                let says = self.tell(id, Told::Claimed { sent, answer });
                self.act(id, says)
            }
            Phase::Undoing => {
                self.note_undone(id, call, failed);
                let says = self.tell(id, Told::Undone);
                self.act(id, says)
            }
            Phase::Leaving(then) => {
                self.left(id, then, failed);
                Ok(())
            }
            Phase::Finishing(finish) => self.finished(id, finish, &answer),
            Phase::Abandoning => {
                self.note_undone(id, call, failed);
                self.end(id);
                Ok(())
            }
            phase => unreachable!("no call is made in {phase:?}"),
        }
    }
}
