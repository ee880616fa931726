//! Visits every state that can be reached, the near ones first, so that the first broken property
//! comes with a shortest trace.

use std::collections::HashMap;
use std::fmt::{Debug, Display, Write as _};
use std::hash::BuildHasherDefault;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

/// Something with states, that takes steps.
pub(super) trait Machine: Clone {
    type Step: Copy + Debug + PartialEq;

    /// What can happen next.
    fn steps(&self) -> Vec<Self::Step>;

    /// Lets it happen. An error is a property that it broke.
    fn take(&mut self, step: Self::Step) -> Result<(), String>;

    /// A property that the state as it is breaks.
    fn check(&self) -> Result<(), String>;

    /// Equal for equal states, and for no others but by a chance of about one in 2^64 per pair.
    fn fingerprint(&self) -> u64;

    /// The state in one line, for traces.
    fn show(&self) -> String;
}

/// What an exploration saw.
#[derive(Debug, Clone)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) transitions: usize,
    pub(super) depth: usize,
    pub(super) took: Duration,
    /// Whether all that can be reached was visited, or there were too many.
    pub(super) complete: bool,
    pub(super) broken: Option<Broken>,
}

/// A property that was broken, and how it came to that.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    pub(super) what: String,
    pub(super) steps: usize,
    pub(super) trace: String,
}

impl Display for Explored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Explored {
            states,
            transitions,
            depth,
            took,
            complete,
            broken,
        } = self;
        write!(
            f,
            "{states} states, {transitions} transitions, up to {depth} steps deep, in {took:.1?}"
        )?;
        if !complete {
            write!(f, ", not all")?;
        }
        match broken {
            Some(broken) => write!(
                f,
                "\n{} after {} steps:\n{}",
                broken.what, broken.steps, broken.trace
            ),
            None => Ok(()),
        }
    }
}

/// The states that were visited, each with the one before it and the step between.
type Seen<S> = HashMap<u64, Option<(u64, S)>, BuildHasherDefault<Passed>>;

/// Visits what can be reached from `start`, at most `most` states, until something is broken.
pub(super) fn explore<M: Machine>(start: &M, most: usize) -> Explored {
    let began = Instant::now();
    let mut seen: Seen<M::Step> = HashMap::default();
    let first = start.fingerprint();
    seen.insert(first, None);
    let mut explored = Explored {
        states: 1,
        transitions: 0,
        depth: 0,
        took: Duration::ZERO,
        complete: true,
        broken: None,
    };
    let mut layer = vec![(first, start.clone())];
    'all: while !layer.is_empty() {
        let mut next = Vec::new();
        for (from, state) in layer {
            for step in state.steps() {
                explored.transitions += 1;
                let mut to = state.clone();
                let result = to.take(step);
                let fingerprint = to.fingerprint();
                let result = match result {
                    // What was seen was looked at.
                    Ok(()) if seen.contains_key(&fingerprint) => continue,
                    Ok(()) => to.check(),
                    broken => broken,
                };
                if let Err(what) = result {
                    let mut steps = path(&seen, from);
                    steps.push(step);
                    explored.broken = Some(Broken {
                        what,
                        steps: steps.len(),
                        trace: trace(start, &steps),
                    });
                    break 'all;
                }
                seen.insert(fingerprint, Some((from, step)));
                if seen.len() >= most {
                    explored.complete = false;
                    break 'all;
                }
                next.push((fingerprint, to));
            }
        }
        explored.depth += usize::from(!next.is_empty());
        layer = next;
    }
    explored.states = seen.len();
    explored.took = began.elapsed();
    explored
}

fn path<S: Copy>(seen: &Seen<S>, mut to: u64) -> Vec<S> {
    let mut steps = Vec::new();
    while let Some(Some((from, step))) = seen.get(&to) {
        steps.push(*step);
        to = *from;
    }
    steps.reverse();
    steps
}

fn trace<M: Machine>(start: &M, steps: &[M::Step]) -> String {
    let mut state = start.clone();
    let mut text = String::new();
    for step in steps {
        let taken = state.take(*step);
        let _ = writeln!(text, "  {step:?}\n      {}", state.show());
        if taken.is_err() {
            break;
        }
    }
    text
}

/// A hash that is quick without an optimizing compiler, and mixes all bits.
pub(super) fn digest<T: Hash>(value: &T) -> u64 {
    let mut hasher = Mixed(0x9e37_79b9_7f4a_7c15);
    value.hash(&mut hasher);
    hasher.finish()
}

struct Mixed(u64);

impl Mixed {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both halves of the product are taken"
    )]
    fn mix(&mut self, number: u64) {
        // Folded multiplication (Wang Yi, wyhash).
        let product = u128::from(self.0 ^ number) * 0xa076_1d64_78bd_642f;
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        let mut last = Mixed(self.0);
        last.mix(0xe703_7ed1_a0b4_28db);
        last.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.mix(u64::from_le_bytes(number));
        }
        self.mix(bytes.len() as u64);
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are hashed")
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters modulo `size`, each can be raised.
    #[derive(Clone, Debug)]
    struct Pair {
        size: u64,
        at: [u64; 2],
        bad: [u64; 2],
    }

    impl Machine for Pair {
        type Step = usize;

        fn steps(&self) -> Vec<usize> {
            vec![0, 1]
        }

        fn take(&mut self, step: usize) -> Result<(), String> {
            self.at[step] = (self.at[step] + 1) % self.size;
            Ok(())
        }

        fn check(&self) -> Result<(), String> {
            if self.at == self.bad {
                return Err("bad".into());
            }
            Ok(())
        }

        fn fingerprint(&self) -> u64 {
            self.at[0] * self.size + self.at[1]
        }

        fn show(&self) -> String {
            format!("{:?}", self.at)
        }
    }

    #[test]
    fn every_state_is_visited_once() {
        let pair = Pair {
            size: 10,
            at: [0, 0],
            bad: [10, 10],
        };
        let explored = explore(&pair, usize::MAX);
        assert_eq!((explored.states, explored.transitions), (100, 200));
        assert!(explored.complete && explored.broken.is_none());
    }

    #[test]
    fn the_shortest_way_to_what_is_broken_is_shown() {
        let pair = Pair {
            size: 10,
            at: [0, 0],
            bad: [2, 1],
        };
        let broken = explore(&pair, usize::MAX).broken.expect("it is reachable");
        assert_eq!((broken.what.as_str(), broken.steps), ("bad", 3));
        assert!(broken.trace.ends_with("[2, 1]\n"), "{}", broken.trace);
    }
}
