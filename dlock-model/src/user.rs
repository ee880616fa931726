//! What a client does: it carries out what the flows of core ask for, one step at a time.

use std::rc::Rc;
use std::time::Duration;

use super::client::{Finish, Kept, Phase, Slot};
use super::flows::{Hold, Input, Output, Process, give};
use super::protocol::Protocol;
use super::types::{Answer, Call, GrantOf, PlanOf, Promise, Property, Seed, Verb};
use super::world::{TICK, World};
use dlock_core::Time;

impl<P: Protocol> World<P> {
    pub(super) fn give(&mut self, id: u8, input: Input) -> Output {
        let now = self.local(id);
        let memory = Rc::clone(&self.memory);
        give(&memory, &mut self.client_mut(id).process, now, input)
    }

    /// Gives the user's flow an input and carries out what it then wants.
    pub(super) fn go_on(&mut self, id: u8, input: Input) -> Result<(), String> {
        let output = self.give(id, input);
        self.act(id, output)
    }

    pub(super) fn start(&mut self, id: u8) -> Result<(), String> {
        let now = self.local(id);
        let bounds = &self.bounds;
        let plan = PlanOf {
            deadline: now.saturating_add(bounds.waits.unwrap_or(bounds.call_timeout)),
            waits: bounds.waits.is_some(),
            pause: Duration::from_millis(TICK),
        };
        let client = self.client_mut(id);
        client.rounds -= 1;
        client.number += 1;
        client.process = Process::new();
        client.waiting.signalled = false;
        self.go_on(id, Input::Acquire(plan, self.promise()))
    }

    /// Carries out what the user's flow wants.
    pub(super) fn act(&mut self, id: u8, mut output: Output) -> Result<(), String> {
        loop {
            output = match output {
                Output::Call {
                    verb: Verb::Abandon,
                    ..
                } if self.bounds.seed == Seed::NoAbandon && self.client(id).grant.is_none() => {
                    self.give(id, Input::Answered(Answer::Abandoned))
                }
                Output::Call {
                    verb,
                    fresh,
                    sequence,
                    not_after,
                    ttl,
                    grant,
                    ..
                } => {
                    if fresh {
                        self.claims_anew(id);
                    }
                    self.enter_phase_of(id, verb, ttl);
                    return self.call(id, Slot::User, verb, not_after, sequence, ttl, grant);
                }
                Output::Watch => {
                    let watches = self.watch(id);
                    self.give(id, Input::Watched(watches))
                }
                Output::Leave => return self.leave(id),
                Output::Sleep { until, wakeable } => {
                    let client = self.client_mut(id);
                    client.phase = match client.phase {
                        _ if client.grant.is_none() => Phase::Sleeping { until, wakeable },
                        Phase::Holding => Phase::AwaitingLost { until },
                        _ => Phase::Outliving { until },
                    };
                    return Ok(());
                }
                Output::Won {
                    grant,
                    until,
                    lost_request,
                } => {
                    self.hold(id, grant, until, lost_request)?;
                    return Ok(());
                }
                Output::NotWon => {
                    // Nobody waits any more who was not watched for.
                    self.client_mut(id).waiting.forget();
                    self.end(id);
                    return Ok(());
                }
                Output::Ended => {
                    self.end(id);
                    return Ok(());
                }
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// The flow makes a claim of its own beside the one that it gave up.
    fn claims_anew(&mut self, id: u8) {
        let owner = self.owner(id);
        let client = self.client_mut(id);
        if !std::mem::take(&mut client.unclean) {
            client.clean.push(owner);
        }
        // It was granted, so it is in no queue.
        client.waiting.forget();
        client.number += 1;
    }

    fn enter_phase_of(&mut self, id: u8, verb: Verb, ttl: Duration) {
        let (owner, now, seed) = (self.owner(id), self.now, self.bounds.seed);
        let client = self.client_mut(id);
        let before = client.phase;
        client.owes_a_try = false;
        client.phase = match verb {
            Verb::Acquire => Phase::Claiming,
            Verb::Abandon if client.grant.is_some() => Phase::Abandoning,
            _ if client.grant.is_none() => Phase::Undoing,
            _ => Phase::Finishing(Finish {
                keep: (verb == Verb::Extend).then_some(ttl),
                sent: now,
                unclean: client.unclean,
                is_first: !matches!(before, Phase::Finishing(_)),
            }),
        };
        if let (Phase::Finishing(_), Phase::Finishing(first)) = (client.phase, before) {
            // The first call failed. The key may be kept although nobody heard of it.
            client.unclean = first.unclean || first.keep.is_some();
        }
        if verb == Verb::Abandon && seed != Seed::NotRemembered {
            // dlock-memcache, store.rs, `abandon`
            client.given_up.push(owner);
        }
        if verb == Verb::Abandon {
            client.unanswered = None;
        }
    }

    fn hold(
        &mut self,
        id: u8,
        grant: GrantOf,
        until: Time,
        lost_request: Option<Time>,
    ) -> Result<(), String> {
        if until <= self.local(id) && self.checks(Property::GuardsBeginValid) {
            let owner = self.owner(id);
            return Err(format!("GuardsBeginValid: {owner:?} holds until {until:?}"));
        }
        let hold = Hold {
            grant,
            until,
            lost_request,
            promise: self.promise(),
            refuses_late_calls: P::REFUSES_LATE_CALLS
                || self.bounds.seed == Seed::ForgottenAfterItsEnd,
        };
        let client = self.client_mut(id);
        client.process = Process::new();
        client.waiting.forget();
        client.lost_request = lost_request;
        client.grant = Some(grant);
        client.phase = Phase::Holding;
        match self.give(id, Input::Keep(hold)) {
            Output::Nothing => Ok(()),
            other => unreachable!("{other:?}"),
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

    pub(super) fn wake(&mut self, id: u8) -> Result<(), String> {
        self.client_mut(id).waiting.signalled = false;
        self.go_on(id, Input::Woken)
    }

    /// The timing thread's look, and what the worker then does.
    pub(super) fn keep(&mut self, id: u8) -> Result<(), String> {
        let output = self.give(id, Input::Due);
        self.work(id, output)
    }

    /// Carries out what the worker wants.
    fn work(&mut self, id: u8, output: Output) -> Result<(), String> {
        match output {
            Output::Call {
                verb,
                sequence,
                not_after,
                ttl,
                grant,
                ..
            } => self.call(id, Slot::Keeper, verb, not_after, sequence, ttl, grant),
            Output::Nothing => Ok(()),
            other => unreachable!("the worker wants {other:?}"),
        }
    }

    pub(super) fn end_guard(&mut self, id: u8) -> Result<(), String> {
        self.go_on(id, Input::LetGo)
    }

    /// A call of a release was answered.
    fn finished(
        &mut self,
        id: u8,
        call: &Call,
        answer: Answer,
        is_first: bool,
    ) -> Result<(), String> {
        let has_time = self.local(id) < call.not_after.min(self.client(id).process.until);
        let is_transient = matches!(&answer, Answer::Failed { kind, .. } if kind.is_transient());
        self.client_mut(id).owes_a_try = is_first && is_transient && has_time;
        self.go_on(id, Input::Answered(answer))?;
        if std::mem::take(&mut self.client_mut(id).owes_a_try)
            && self.checks(Property::OneLossIsBorne)
        {
            return Err(format!(
                "OneLossIsBorne: {:?} tried {:?} once",
                call.owner, call.verb
            ));
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
        client.process = Process::new();
        (client.grant, client.lost_request, client.looked) = (None, None, false);
        client.confirmed = false;
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
        let failed = matches!(answer, Answer::Failed { .. });
        if slot == Slot::Heartbeat {
            self.attended(id, call, &answer);
            return Ok(());
        }
        if slot == Slot::Keeper {
            let is_present =
                call.owner == self.owner(id) && self.client(id).process.until > Time::ZERO;
            if is_present {
                let is_promise = matches!(answer, Answer::Extended(_));
                let client = self.client_mut(id);
                match call.verb {
                    Verb::Confirm => client.confirmed |= is_promise,
                    _ => client.confirmed &= !is_promise,
                }
            }
            if is_present {
                let output = self.give(id, Input::WorkerAnswered(answer));
                return self.work(id, output);
            }
            return Ok(());
        }
        match self.client(id).phase {
            Phase::Claiming => {
                let client = self.client_mut(id);
                match answer {
                    Answer::Failed { maybe: true, .. } if P::WAKES => {
                        client.unanswered = Some(call.owner);
                    }
                    Answer::Granted(_) => client.unanswered = None,
                    _ => {}
                }
                if let Answer::Granted(grant) = &answer
                    && let Some(fence) = grant.fence
                {
                    self.note_fence(grant.ordinal, fence)?;
                }
            }
            Phase::Undoing | Phase::Abandoning => self.note_undone(id, call, failed),
            Phase::Leaving => {
                self.left(id, failed);
                return self.go_on(id, Input::Left);
            }
            Phase::Finishing(finish) => {
                let (owner, now) = (self.owner(id), self.now);
                let client = self.client_mut(id);
                if let (Some(keep), Answer::Extended(_)) = (finish.keep, &answer) {
                    let keep = u64::try_from(keep.as_millis()).expect("short");
                    client.kept = Some(Kept {
                        owner,
                        until: finish.sent + keep,
                        at_most: now + P::longest(keep) + P::GRANULARITY,
                    });
                    client.unclean = true;
                }
                client.unclean |= failed;
                return self.finished(id, call, answer, finish.is_first);
            }
            phase => unreachable!("no call is made in {phase:?}"),
        }
        self.go_on(id, Input::Answered(answer))
    }
}
