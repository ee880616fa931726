//! Calls in any order, made to the store under test and to the store in memory, whose answers must be the same.
//!
//! The store in memory is the model. Each key has one of its own, on a clock that stands still until the short lease of the key has
//! surely ended in the other store. So no answer depends on how fast this machine is: a lease is surely alive or surely over, and a call
//! that took so long that neither can be said shows nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use dlock_core::{
    Attempt, DatastoreError, Extension, Fencing, Held, Holder, Lease, Released, Time, drift,
};

use crate::case::{Case, now};
use crate::client::{Answer, Client, described};
use crate::laws::held::text;
use crate::player::Player;
use crate::shelf::Shelf;
use crate::subject::Handle;

/// How many claimants there are, each with a handle of its own.
pub(crate) const CLAIMANTS: usize = 3;

/// A run that takes longer on this machine shows nothing.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// One call, or something that happens between calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// A claim, or the repeat of one.
    Claim(Who, Which, Span),
    Extend(Who, Which, Span, Order, Age),
    /// An extend of all keys that the claimant was ever granted, in one batch.
    ExtendAll(Who, Span, Order),
    Release(Who, Which, Age),
    /// The claim is given up, whatever came of it.
    Abandon(Who, Which),
    Confirm(Who, Which),
    /// An operator's look.
    Look(Who, Which),
    /// The claimant's handle is opened anew.
    Reopen(Who),
    /// Time passes until no short lease is left.
    Pass,
}

/// A claimant, by number.
pub(crate) type Who = usize;
/// A key, by number.
pub(crate) type Which = usize;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Span {
    /// To end during the case.
    Short,
    /// Not to end during the case.
    Long,
    /// Twice that.
    Longest,
}

/// When an extend was sent, as its number says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    Next,
    /// So many before the newest.
    Late(u64),
}

/// Which of its grants the claimant gives back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Age {
    First,
    Latest,
}

/// Why a run ended before its last step.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The store answered otherwise than the model.
    Differs(String),
    /// A short lease may have ended while a call was made: nothing was shown.
    TooSlow,
}

pub(crate) type Played<T = ()> = Result<T, Ended>;

pub(crate) fn differs<T>(how: String) -> Played<T> {
    Err(Ended::Differs(how))
}

/// One run, on keys of its own.
pub(crate) struct Machine<'c> {
    case: &'c Case<'c>,
    began: Time,
    handles: Vec<Handle>,
    shelves: Vec<Shelf<'c>>,
    players: BTreeMap<(Who, Which), Player<'c>>,
    /// How often it may still wait for leases to end.
    passes: u32,
    steps: usize,
}

impl<'c> Machine<'c> {
    pub(crate) fn new(case: &'c Case<'c>, keys: &[String], passes: u32) -> Self {
        let handles: Vec<Handle> = (0..CLAIMANTS)
            .map(|who| match who {
                0 => case.subject.first(),
                _ => case.subject.another(),
            })
            .collect();
        let shelves: Vec<Shelf<'c>> = keys.iter().map(|key| Shelf::new(case, key)).collect();
        let mut players = BTreeMap::new();
        for (who, handle) in handles.iter().enumerate() {
            for (which, key) in keys.iter().enumerate() {
                let client = Client::new(case, handle, key);
                players.insert((who, which), Player::new(client, &shelves[which]));
            }
        }
        Machine {
            case,
            began: now(),
            handles,
            shelves,
            players,
            passes,
            steps: 0,
        }
    }

    /// Takes the steps one after the other, and then everybody releases what they have.
    pub(crate) fn play(&mut self, steps: &[Step]) -> Played {
        let ends = self.players.keys();
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

    /// How many steps were begun.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    fn take(&mut self, step: Step) -> Played {
        self.steps += 1;
        let hurry = self.case.short() / 4;
        self.let_end(|shelf| shelf.is_short() && shelf.left_for_sure() < hurry);
        // There may be fewer keys than asked for, if two had one name.
        let key = |which: Which| which % self.shelves.len();
        match step {
            Step::Claim(who, which, span) => self.claim(who, key(which), span)?,
            Step::Extend(who, which, span, order, age) => {
                self.extend(who, key(which), span, order, age)?;
            }
            Step::ExtendAll(who, span, order) => self.extend_all(who, span, order)?,
            Step::Release(who, which, age) => self.release(who, key(which), age)?,
            Step::Abandon(who, which) => self.abandon(who, key(which))?,
            Step::Confirm(who, which) => self.confirm(who, key(which))?,
            Step::Look(who, which) => self.look(who, key(which))?,
            Step::Reopen(who) => self.reopen(who),
            Step::Pass => self.let_end(Shelf::is_short),
        }
        Ok(())
    }

    fn claim(&mut self, who: Who, which: Which, span: Span) -> Played {
        let ttl = self.span(span);
        let player = &self.players[&(who, which)];
        let answer = player.client.ask(ttl);
        let shelf = &mut self.shelves[which];
        shelf.check_in_time(answer.received)?;
        let is_repeat = shelf.is_held();
        let slack = self.began.until(answer.received) + self.case.traits.granularity;
        // A repeat need not raise the time that is left, if the grant says so.
        let asked = match &answer.value {
            Attempt::Granted(grant) if is_repeat && grant.ttl + slack < ttl => {
                self.case.traits.ttl_min
            }
            _ => ttl,
        };
        match (&answer.value, shelf.acquire(player, asked)) {
            (Attempt::Granted(grant), Attempt::Granted(expected)) => {
                shelf.check_fence(grant.fence, expected.fence)?;
                // A repeat need not say how much more it has than it asked for.
                let least = if asked == ttl { ttl } else { expected.ttl };
                let said = grant.ttl.max(asked);
                if is_repeat {
                    shelf.prolonged(&answer, grant.ttl, said);
                } else {
                    shelf.granted(&answer, grant.ttl, said);
                }
                self.check_time(grant.ttl, least, expected.ttl.max(least), answer.received)?;
                let player = self.players.get_mut(&(who, which)).expect("all players");
                player.granted(grant.clone(), expected, is_repeat);
                Ok(())
            }
            (Attempt::Held(held), Attempt::Held(expected)) => {
                self.check_holder(which, held, &expected, answer.received)
            }
            (Attempt::Granted(_), Attempt::Held(held)) => differs(format!(
                "it was granted, while in the model the key is {held}"
            )),
            (Attempt::Held(held), Attempt::Granted(_)) => differs(format!(
                "it was refused since the key is {held}, while the model grants it"
            )),
        }
    }

    fn extend(&mut self, who: Who, which: Which, span: Span, order: Order, age: Age) -> Played {
        let ttl = self.span(span);
        let name = self.name();
        let player = self.players.get_mut(&(who, which)).expect("all players");
        let Some(lease) = player.lease(age) else {
            return Ok(());
        };
        let number = player.number(order);
        let lease = lease.with_holder(text(&name));
        let answer = player.client.extend_numbered(number, &lease, ttl);
        self.extended(who, which, &lease, number, ttl, &answer)
    }

    fn extend_all(&mut self, who: Who, span: Span, order: Order) -> Played {
        let ttl = self.span(span);
        let name = self.name();
        let sent = now();
        let end = sent.saturating_add(self.case.traits.call_timeout);
        let mut calls = Vec::new();
        for which in 0..self.shelves.len() {
            let player = self.players.get_mut(&(who, which)).expect("all players");
            if let Some(lease) = player.lease(Age::Latest) {
                let number = player.number(order);
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
        who: Who,
        which: Which,
        lease: &Lease,
        number: u64,
        ttl: Duration,
        answer: &Answer<Extension>,
    ) -> Played {
        let shelf = &mut self.shelves[which];
        shelf.check_in_time(answer.received)?;
        let player = self.players.get_mut(&(who, which)).expect("all players");
        let expected = shelf.extend(player, lease.holder(), number, ttl);
        match (&answer.value, expected) {
            (Extension::Extended(grant), Extension::Extended(expected)) => {
                shelf.check_fence(grant.fence, expected.fence)?;
                let is_newest = shelf.holder() == Holder::from_text(lease.holder());
                if is_newest {
                    shelf.granted(answer, grant.ttl, grant.ttl.max(ttl));
                }
                player.renewed(lease.renewed(grant.clone()));
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

    fn release(&mut self, who: Who, which: Which, age: Age) -> Played {
        let player = &self.players[&(who, which)];
        let Some(lease) = player.lease(age) else {
            return Ok(());
        };
        let answer = player.client.release(&lease);
        let shelf = &mut self.shelves[which];
        shelf.check_in_time(answer.received)?;
        let expected = shelf.release(player);
        let is_explained = answer.repeated && answer.value == Released::NotOurs;
        if answer.value != expected && !is_explained {
            return differs(format!(
                "it was answered {:?}, by the model {expected:?}",
                answer.value
            ));
        }
        Ok(())
    }

    /// Whoever gives up a claim has a new one afterwards.
    fn abandon(&mut self, who: Who, which: Which) -> Played {
        let player = &self.players[&(who, which)];
        player.client.abandon();
        let shelf = &mut self.shelves[which];
        shelf.check_in_time(now())?;
        shelf.abandon(player);
        let client = Client::new(self.case, &self.handles[who], shelf.key());
        let player = Player::new(client, shelf);
        self.players.insert((who, which), player);
        Ok(())
    }

    fn confirm(&mut self, who: Who, which: Which) -> Played {
        if self.case.traits.confirm_after.is_none() {
            return Ok(());
        }
        let player = &self.players[&(who, which)];
        let Some(lease) = player.lease(Age::Latest) else {
            return Ok(());
        };
        let answer = answered(self.handles[who].confirm(&player.client.next_call(&lease)))?;
        let shelf = &self.shelves[which];
        shelf.check_in_time(now())?;
        let is_held = matches!(answer, Extension::Extended(_));
        if is_held != shelf.is_held_by(player) {
            return differs(format!("it was answered {answer:?}"));
        }
        Ok(())
    }

    fn look(&mut self, who: Who, which: Which) -> Played {
        let Some(inspect) = self.handles[who].inspect() else {
            return Ok(());
        };
        let shelf = &self.shelves[which];
        let seen = answered(inspect.holder(shelf.key()))?;
        let received = now();
        shelf.check_in_time(received)?;
        match (seen, shelf.seen()) {
            (Some(seen), Some(expected)) => self.check_holder(which, &seen, &expected, received),
            (None, None) => Ok(()),
            (seen, expected) => differs(format!("it shows {seen:?}, the model {expected:?}")),
        }
    }

    fn reopen(&mut self, who: Who) {
        let handle = self.case.subject.another();
        for which in 0..self.shelves.len() {
            let player = self.players.get_mut(&(who, which)).expect("all players");
            player.client = player.client.on(&handle);
        }
        self.handles[who] = handle;
    }

    /// Waits until the leases of these keys are surely over, and ends them in the model.
    fn let_end(&mut self, ends: impl Fn(&Shelf<'c>) -> bool) {
        let mut waited = false;
        for shelf in &mut self.shelves {
            if ends(shelf) {
                shelf.let_end();
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

    /// What this step calls the holder.
    fn name(&self) -> String {
        format!("step-{}", self.steps)
    }

    /// The model's clock stands still, so what it says may be more by the time that has really passed.
    fn check_time(
        &self,
        seen: Duration,
        least: Duration,
        most: Duration,
        received: Time,
    ) -> Played {
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
        which: Which,
        seen: &Held,
        expected: &Held,
        received: Time,
    ) -> Played {
        if let (Some(seen), Some(expected)) = (seen.holder(), expected.holder())
            && seen.host() != expected.host()
        {
            return differs(format!("it shows {seen:?}, the model {expected:?}"));
        }
        let shelf = &mut self.shelves[which];
        if seen.fence().is_some() || self.case.traits.fencing == Fencing::None {
            shelf.check_fence(seen.fence(), expected.fence())?;
        }
        match (seen.expires_in(), expected.expires_in()) {
            (Some(seen), Some(expected)) => self.check_time(seen, expected, expected, received),
            _ => Ok(()),
        }
    }
}

/// The answer to a call that is made once.
fn answered<T>(answer: Result<T, DatastoreError>) -> Played<T> {
    answer.map_err(|error| match error.is_transient() {
        true => Ended::TooSlow,
        false => Ended::Differs(format!("it failed: {}", described(&error))),
    })
}
