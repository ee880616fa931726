//! What can happen next, what it does, and what must hold after it.

use std::fmt::Write as _;

use super::{Client, Phase, Property, Step, World, broken};
use crate::explorer::{Machine, digest};
use crate::postgres::functions::Call;
use crate::postgres::table::Owner;

impl Machine for World {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, client) in (0..).zip(&self.clients) {
            if self.is_due(client) {
                steps.push(Step::GiveUp(number));
            }
            match client.phase {
                Phase::Idle if client.claims < self.bounds.claims => {
                    steps.push(Step::Claim(number));
                }
                Phase::Holding {
                    sequence, extend, ..
                } => {
                    if extend.is_some() && self.losses > 0 {
                        steps.push(Step::Disconnect(number));
                    }
                    if extend.is_none() {
                        if sequence < self.bounds.extends {
                            steps.push(Step::Extend(number));
                        }
                        if self.checks > 0 {
                            steps.push(Step::Check(number));
                        }
                    }
                    steps.push(Step::Release(number));
                }
                _ => {}
            }
        }
        if self.strangers > 0 {
            steps.push(Step::LockRow);
        }
        for slot in &self.slots {
            if slot.running.answer().is_some() {
                steps.push(Step::Commit(slot.id));
                if self.losses > 0 {
                    steps.push(Step::CommitUnheard(slot.id));
                }
            } else if self.can_go_on(slot) {
                steps.push(Step::Run(slot.id));
            }
            if self.aborts > 0 {
                steps.push(Step::RollBack(slot.id));
            }
        }
        let is_due = |client: &Client| self.is_due(client);
        let is_over = self.now == 10 + self.bounds.ticks;
        if !is_over && !self.clients.iter().any(is_due) && self.slow_calls() <= self.slow {
            steps.push(Step::Tick);
        }
        steps
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Tick => {
                self.slow -= self.slow_calls();
                self.now += 1;
            }
            Step::Claim(client) => self.claim(client),
            Step::Extend(client) => self.extend(client),
            Step::Release(client) => {
                let (sent, owner) = (self.now, self.client(client).owner);
                let call = self.begin(Call::Release { owner });
                self.client(client).phase = Phase::Releasing { call, sent };
            }
            Step::GiveUp(client) => self.give_up(client),
            Step::Disconnect(client) => {
                self.losses -= 1;
                self.give_up(client);
            }
            Step::Check(client) => {
                self.checks -= 1;
                if let Phase::Holding { fence, .. } = self.client(client).phase {
                    self.begin(Call::Check { fence });
                }
            }
            Step::LockRow => {
                self.strangers -= 1;
                self.begin(Call::LockRow);
            }
            Step::Run(id) => return self.run(id),
            Step::Commit(id) => return self.commit(id, true),
            Step::CommitUnheard(id) => {
                self.losses -= 1;
                return self.commit(id, false);
            }
            Step::RollBack(id) => {
                self.aborts -= 1;
                self.table.roll_back(id);
                self.slots.retain(|slot| slot.id != id);
                self.forget(id);
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let believers: Vec<Owner> = self
            .clients
            .iter()
            .filter(
                |client| matches!(client.phase, Phase::Holding { until, .. } if self.now < until),
            )
            .map(|client| client.owner)
            .collect();
        if believers.len() > 1 {
            let text = format!("{believers:?} believe that they hold");
            return Err(broken(Property::OneHolder, &text));
        }
        let row = self.table.read();
        for owner in believers {
            if !row.is_some_and(|row| row.is_held_by(owner, self.now)) {
                let text = format!("{owner} believes that it holds, the row is {row:?}");
                return Err(broken(Property::PromiseKept, &text));
            }
        }
        if let Some(row) = row.filter(|row| row.is_held(self.now))
            && row
                .owner
                .is_some_and(|owner| self.clean & (1 << owner) != 0)
        {
            let text = format!("{row:?} is there though its claim was abandoned");
            return Err(broken(Property::NothingLeft, &text));
        }
        Ok(())
    }

    fn fingerprint(&self) -> u64 {
        digest(&(
            (self.now, &self.table, self.sequence),
            (&self.clients, &self.slots),
            (self.clean, self.highest_fence),
            (self.slow, self.losses, self.aborts),
            (self.strangers, self.checks),
        ))
    }

    fn show(&self) -> String {
        let mut text = format!("at {} {:?}", self.now, self.table);
        for client in &self.clients {
            let _ = write!(text, "; {} {:?}", client.owner, client.phase);
        }
        for slot in &self.slots {
            let _ = write!(text, "; call {} {:?}", slot.id, slot.running);
        }
        text
    }
}
