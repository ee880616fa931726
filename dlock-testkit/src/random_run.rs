//! Makes random calls to the store under test and to the store in memory. Their answers must be the
//! same.
//!
//! The store in memory is the model. Each key has its own model, on a clock that stands still until
//! the short lease of the key has certainly ended in the store under test. So no answer depends on
//! the speed of this machine: a lease is certainly alive or certainly over, and a call that took
//! too long to know proves nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, DatastoreError, Extension, Fencing, HeldBy, Holder, Lease, ReleaseOutcome,
    Time, drift,
};

use crate::case::{Case, now};
use crate::claimant::Claimant;
use crate::client::{Answer, Client, described};
use crate::form::Handle;
use crate::laws::held::text;
use crate::model_key::ModelKey;
use crate::step::{Age, ClaimantIndex, Ended, KeyIndex, Order, Span, Step, StepResult, differs};

/// The number of claimants, each with a handle of its own.
pub(crate) const CLAIMANTS: usize = 3;

/// A run that takes longer on this machine proves nothing.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// One run, on keys of its own.
pub(crate) struct RandomRun<'c> {
    case: &'c Case<'c>,
    began: Time,
    handles: Vec<Handle>,
    model_keys: Vec<ModelKey<'c>>,
    claimants: BTreeMap<(ClaimantIndex, KeyIndex), Claimant<'c>>,
    /// How often the run may still wait for leases to end.
    passes: u32,
    steps: usize,
}

impl<'c> RandomRun<'c> {
    pub(crate) fn new(case: &'c Case<'c>, keys: &[String], passes: u32) -> Self {
        let handles: Vec<Handle> = (0..CLAIMANTS)
            .map(|who| match who {
                0 => case.subject.first(),
                _ => case.subject.another(),
            })
            .collect();
        let model_keys: Vec<ModelKey<'c>> =
            keys.iter().map(|key| ModelKey::new(case, key)).collect();
        let mut claimants = BTreeMap::new();
        for (who, handle) in handles.iter().enumerate() {
            for (which, key) in keys.iter().enumerate() {
                let client = Client::new(case, handle, key);
                claimants.insert((who, which), model_keys[which].claimant(client));
            }
        }
        RandomRun {
            case,
            began: now(),
            handles,
            model_keys,
            claimants,
            passes,
            steps: 0,
        }
    }

    /// Carries out the steps one after the other. Then every claimant releases its keys.
    pub(crate) fn run(&mut self, steps: &[Step]) -> StepResult {
        let ends = self.claimants.keys();
        let ends: Vec<Step> = ends
            .map(|(who, which)| Step::Release(*who, *which, Age::Latest))
            .collect();
        for step in steps.iter().chain(&ends) {
            if self.began.until(now()) > LONGEST_RUN {
                return Err(Ended::TooSlow);
            }
            self.take(*step).map_err(|ended| match ended {
                Ended::Differs(how) => Ended::Differs(format!("{step:?}: {how}")),
                Ended::TooSlow => Ended::TooSlow,
            })?;
        }
        Ok(())
    }

    /// The number of steps that were begun.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    fn take(&mut self, step: Step) -> StepResult {
        self.steps += 1;
        let hurry = self.case.short() / 4;
        self.let_end(|model_key| model_key.is_short() && model_key.left_for_sure() < hurry);
        // There may be fewer keys than the step assumes, if two had the same name.
        let key = |which: KeyIndex| which % self.model_keys.len();
        match step {
            Step::Claim(who, which, span) => self.claim(who, key(which), span)?,
            Step::Extend(who, which, span, order, age) => {
                self.extend(who, key(which), span, order, age)?;
            }
            Step::ExtendAll(who, span, order) => self.extend_all(who, span, order)?,
            Step::Release(who, which, age) => self.release(who, key(which), age)?,
            Step::Abandon(who, which) => self.abandon(who, key(which))?,
            Step::Confirm(who, which) => self.confirm(who, key(which))?,
            Step::Inspect(who, which) => self.look(who, key(which))?,
            Step::Reopen(who) => self.reopen(who),
            Step::Pass => self.let_end(ModelKey::is_short),
        }
        Ok(())
    }

    fn claim(&mut self, who: ClaimantIndex, which: KeyIndex, span: Span) -> StepResult {
        let ttl = self.span(span);
        let claimant = &self.claimants[&(who, which)];
        let answer = claimant.client.ask(ttl);
        let model_key = &mut self.model_keys[which];
        model_key.check_in_time(answer.received)?;
        let is_repeat = model_key.is_held();
        let slack = self.began.until(answer.received) + self.case.traits.granularity;
        // A repeat need not raise the remaining time, if the grant says so.
        let asked = match &answer.value {
            AcquireOutcome::Granted(grant) if is_repeat && grant.ttl + slack < ttl => {
                self.case.traits.ttl_min
            }
            _ => ttl,
        };
        match (&answer.value, model_key.acquire(claimant, asked)) {
            (AcquireOutcome::Granted(grant), AcquireOutcome::Granted(expected)) => {
                model_key.check_fence(grant.fence, expected.fence)?;
                // A repeat need not say that it has more time than it asked for.
                let least = if asked == ttl { ttl } else { expected.ttl };
                let said = grant.ttl.max(asked);
                if is_repeat {
                    model_key.prolonged(&answer, grant.ttl, said);
                } else {
                    model_key.granted(&answer, grant.ttl, said);
                }
                self.check_time(grant.ttl, least, expected.ttl.max(least), answer.received)?;
                let claimant = self
                    .claimants
                    .get_mut(&(who, which))
                    .expect("all claimants");
                claimant.granted(grant.clone(), expected, is_repeat);
                Ok(())
            }
            (AcquireOutcome::Held(held), AcquireOutcome::Held(expected)) => {
                self.check_holder(which, held, &expected, answer.received)
            }
            (AcquireOutcome::Granted(_), AcquireOutcome::Held(held)) => differs(format!(
                "it was granted, while in the model the key is {held}"
            )),
            (AcquireOutcome::Held(held), AcquireOutcome::Granted(_)) => differs(format!(
                "it was refused since the key is {held}, while the model grants it"
            )),
        }
    }

    fn extend(
        &mut self,
        who: ClaimantIndex,
        which: KeyIndex,
        span: Span,
        order: Order,
        age: Age,
    ) -> StepResult {
        let ttl = self.span(span);
        let name = self.name();
        let claimant = self
            .claimants
            .get_mut(&(who, which))
            .expect("all claimants");
        let Some(lease) = claimant.lease(age) else {
            return Ok(());
        };
        let number = claimant.number(order);
        let lease = lease.with_holder(text(&name));
        let answer = claimant.client.extend_numbered(number, &lease, ttl);
        self.extended(who, which, &lease, number, ttl, &answer)
    }

    fn extend_all(&mut self, who: ClaimantIndex, span: Span, order: Order) -> StepResult {
        let ttl = self.span(span);
        let name = self.name();
        let sent = now();
        let end = sent.saturating_add(self.case.traits.call_timeout);
        let mut calls = Vec::new();
        for which in 0..self.model_keys.len() {
            let claimant = self
                .claimants
                .get_mut(&(who, which))
                .expect("all claimants");
            if let Some(lease) = claimant.lease(Age::Latest) {
                let number = claimant.number(order);
                let lease = lease.with_holder(text(&name)).for_call(number, end);
                calls.push((which, lease));
            }
        }
        let batch: Vec<(Lease, Duration)> = calls
            .iter()
            .map(|(_, lease)| (lease.clone(), ttl))
            .collect();
        let values = self.handles[who].extend_many(&batch);
        let received = now();
        if values.len() != calls.len() {
            return differs(format!("{} answers to {}", values.len(), calls.len()));
        }
        for ((which, lease), value) in calls.into_iter().zip(values) {
            let answer = Answer {
                sent,
                received,
                value: answered(value)?,
                repeated: false,
            };
            self.extended(who, which, &lease, lease.sequence(), ttl, &answer)?;
        }
        Ok(())
    }

    /// Compares the answer to an extend with the model's.
    fn extended(
        &mut self,
        who: ClaimantIndex,
        which: KeyIndex,
        lease: &Lease,
        number: u64,
        ttl: Duration,
        answer: &Answer<Extension>,
    ) -> StepResult {
        let model_key = &mut self.model_keys[which];
        model_key.check_in_time(answer.received)?;
        let claimant = self
            .claimants
            .get_mut(&(who, which))
            .expect("all claimants");
        let expected = model_key.extend(claimant, lease.holder(), number, ttl);
        match (&answer.value, expected) {
            (Extension::Extended(grant), Extension::Extended(expected)) => {
                model_key.check_fence(grant.fence, expected.fence)?;
                let is_newest = model_key.holder() == Holder::from_text(lease.holder());
                if is_newest {
                    model_key.granted(answer, grant.ttl, grant.ttl.max(ttl));
                }
                claimant.renewed(lease.renewed(grant.clone()));
                self.check_time(grant.ttl, expected.ttl, expected.ttl, answer.received)
            }
            (Extension::Lost, Extension::Lost) => Ok(()),
            (Extension::Extended(_), Extension::Lost) => {
                differs("it was extended, while in the model it is lost".to_owned())
            }
            (Extension::Lost, Extension::Extended(_)) => {
                differs("it was lost, while the model extends it".to_owned())
            }
        }
    }

    fn release(&mut self, who: ClaimantIndex, which: KeyIndex, age: Age) -> StepResult {
        let claimant = &self.claimants[&(who, which)];
        let Some(lease) = claimant.lease(age) else {
            return Ok(());
        };
        let answer = claimant.client.release(&lease);
        let model_key = &mut self.model_keys[which];
        model_key.check_in_time(answer.received)?;
        let expected = model_key.release(claimant);
        let is_explained = answer.repeated && answer.value == ReleaseOutcome::NotHeld;
        if answer.value != expected && !is_explained {
            return differs(format!(
                "it was answered {:?}, by the model {expected:?}",
                answer.value
            ));
        }
        Ok(())
    }

    /// After abandoning a claim the claimant uses a new one.
    fn abandon(&mut self, who: ClaimantIndex, which: KeyIndex) -> StepResult {
        let claimant = &self.claimants[&(who, which)];
        claimant.client.abandon();
        let model_key = &mut self.model_keys[which];
        model_key.check_in_time(now())?;
        model_key.abandon(claimant);
        let client = Client::new(self.case, &self.handles[who], model_key.key());
        let claimant = model_key.claimant(client);
        self.claimants.insert((who, which), claimant);
        Ok(())
    }

    fn confirm(&mut self, who: ClaimantIndex, which: KeyIndex) -> StepResult {
        if self.case.traits.confirm_after.is_none() {
            return Ok(());
        }
        let claimant = &self.claimants[&(who, which)];
        let Some(lease) = claimant.lease(Age::Latest) else {
            return Ok(());
        };
        let answer = answered(self.handles[who].confirm(&claimant.client.next_call(&lease)))?;
        let model_key = &self.model_keys[which];
        model_key.check_in_time(now())?;
        let is_held = matches!(answer, Extension::Extended(_));
        if is_held != model_key.is_held_by(claimant) {
            return differs(format!("it was answered {answer:?}"));
        }
        Ok(())
    }

    fn look(&mut self, who: ClaimantIndex, which: KeyIndex) -> StepResult {
        let Some(inspect) = self.handles[who].inspect() else {
            return Ok(());
        };
        let model_key = &self.model_keys[which];
        let seen = answered(inspect.holder(model_key.key()))?;
        let received = now();
        model_key.check_in_time(received)?;
        match (seen, model_key.seen()) {
            (Some(seen), Some(expected)) => self.check_holder(which, &seen, &expected, received),
            (None, None) => Ok(()),
            (seen, expected) => differs(format!("it shows {seen:?}, the model {expected:?}")),
        }
    }

    fn reopen(&mut self, who: ClaimantIndex) {
        let handle = self.case.subject.another();
        for which in 0..self.model_keys.len() {
            let claimant = self
                .claimants
                .get_mut(&(who, which))
                .expect("all claimants");
            claimant.client = claimant.client.on(&handle);
        }
        self.handles[who] = handle;
    }

    /// Waits until the leases of these keys are certainly over, and ends them in the model.
    fn let_end(&mut self, ends: impl Fn(&ModelKey<'c>) -> bool) {
        let mut waited = false;
        for model_key in &mut self.model_keys {
            if ends(model_key) {
                model_key.let_end();
                waited = true;
            }
        }
        self.passes = self.passes.saturating_sub(u32::from(waited));
    }

    fn span(&self, span: Span) -> Duration {
        match span {
            Span::Short if self.passes > 0 => self.case.short(),
            Span::Short | Span::Long => self.case.long(),
            Span::Longest => self.case.live(self.case.long() * 2),
        }
    }

    /// The holder description of this step.
    fn name(&self) -> String {
        format!("step-{}", self.steps)
    }

    /// The model's clock stands still, so its remaining time may be too long by the time that has
    /// really passed.
    fn check_time(
        &self,
        seen: Duration,
        least: Duration,
        most: Duration,
        received: Time,
    ) -> StepResult {
        let granularity = self.case.traits.granularity;
        let passed = self.began.until(received);
        if seen + passed + granularity < least || seen > most + granularity + drift(most) {
            return differs(format!(
                "it was answered with {seen:?}, while the model has {least:?} to {most:?}"
            ));
        }
        Ok(())
    }

    fn check_holder(
        &mut self,
        which: KeyIndex,
        seen: &HeldBy,
        expected: &HeldBy,
        received: Time,
    ) -> StepResult {
        if let (Some(seen), Some(expected)) = (seen.holder(), expected.holder())
            && seen.host() != expected.host()
        {
            return differs(format!("it shows {seen:?}, the model {expected:?}"));
        }
        let model_key = &mut self.model_keys[which];
        if seen.fence().is_some() || self.case.traits.fencing == Fencing::None {
            model_key.check_fence(seen.fence(), expected.fence())?;
        }
        match (seen.expires_in(), expected.expires_in()) {
            (Some(seen), Some(expected)) => self.check_time(seen, expected, expected, received),
            _ => Ok(()),
        }
    }
}

/// The answer to a call that is not repeated.
fn answered<T>(answer: Result<T, DatastoreError>) -> StepResult<T> {
    answer.map_err(|error| match error.is_transient() {
        true => Ended::TooSlow,
        false => Ended::Differs(format!("it failed: {}", described(&error))),
    })
}
