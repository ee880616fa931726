//! What runs and cannot be copied, as a function from a state and an input to a state and an
//! output.
//!
//! A future depends on nothing except its inputs and when they came, so a copy of it is a log of
//! these, given to a new one. What it did once is remembered: the same inputs come back in many
//! states of the world.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use dlock_core::Time;

use super::explorer::digest;

/// What runs.
pub(super) trait Replay: Sized {
    type Input: Clone + Debug + Eq + Hash;
    type Output: Clone + Debug + PartialEq;

    /// It has received nothing yet.
    fn new() -> Self;

    /// It receives an input at `now` on its clock, and goes on until it wants something.
    fn give(&mut self, now: Time, input: &Self::Input) -> Self::Output;
}

/// What a process received, and what it wanted then.
pub(super) struct History<R: Replay> {
    /// Stands for all of it.
    fingerprint: u64,
    log: Rc<Vec<Entry<R>>>,
}

struct Entry<R: Replay> {
    at: Time,
    input: R::Input,
    output: R::Output,
}

/// What was given to a process before, and what came of it.
pub(super) struct Memory<R: Replay>(RefCell<Known<R>>);

type Known<R> = HashMap<Question<R>, (History<R>, <R as Replay>::Output)>;
type Question<R> = (u64, Time, <R as Replay>::Input);

impl<R: Replay> History<R> {
    /// Gives the process an input at `now` on its clock.
    pub(super) fn give(&mut self, memory: &Memory<R>, now: Time, input: R::Input) -> R::Output {
        let question = (self.fingerprint, now, input);
        if let Some((after, output)) = memory.0.borrow().get(&question) {
            *self = after.clone();
            return output.clone();
        }
        let mut process = R::new();
        for entry in &*self.log {
            let output = process.give(entry.at, &entry.input);
            assert_eq!(output, entry.output, "not deterministic: {entry:?}");
        }
        let output = process.give(now, &question.2);
        let mut log = (*self.log).clone();
        log.push(Entry {
            at: now,
            input: question.2.clone(),
            output: output.clone(),
        });
        *self = History {
            fingerprint: digest(&question),
            log: Rc::new(log),
        };
        let known = (self.clone(), output.clone());
        memory.0.borrow_mut().insert(question, known);
        output
    }
}

impl<R: Replay> Default for History<R> {
    fn default() -> Self {
        History {
            fingerprint: 0,
            log: Rc::default(),
        }
    }
}

impl<R: Replay> Clone for History<R> {
    fn clone(&self) -> Self {
        History {
            fingerprint: self.fingerprint,
            log: Rc::clone(&self.log),
        }
    }
}

impl<R: Replay> Debug for History<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&*self.log).finish()
    }
}

impl<R: Replay> Hash for History<R> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl<R: Replay> Clone for Entry<R> {
    fn clone(&self) -> Self {
        Entry {
            at: self.at,
            input: self.input.clone(),
            output: self.output.clone(),
        }
    }
}

impl<R: Replay> Debug for Entry<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Entry { at, input, output } = self;
        write!(f, "at {at:?}: {input:?} -> {output:?}")
    }
}

impl<R: Replay> Default for Memory<R> {
    fn default() -> Self {
        Memory(RefCell::default())
    }
}
