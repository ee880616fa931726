//! Random calls, compared with the store in memory. The other cases test only situations that their
//! authors thought of.
//!
//! The calls are random but the same each time. `PROPTEST_RNG_SEED` selects others, by a number.
//! `PROPTEST_CASES` sets the number of runs (1 by default; each makes 32 in parallel), and
//! `PROPTEST_MAX_SHRINK_TIME` the milliseconds for the search for the shortest failing run.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{
    Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRng, TestRunner,
};

use crate::case::{Case, Law, broken, check};
use crate::random_run::{CLAIMANTS, RandomRun};
use crate::step::{Age, Ended, Order, Span, Step};
use crate::{Subject, Verdict};

/// The number of parallel runs, which mostly wait for leases to end.
const SIDE_BY_SIDE: u8 = 32;
/// The number of consecutive runs, unless `PROPTEST_CASES` sets it.
const RUNS: u32 = 1;
/// About how often a run waits for leases to end.
const PASSES: u32 = 2;
const BUNCH: usize = 16;
const BUNCHES: usize = 25;
const KEYS: usize = 3;
/// The milliseconds for the search for the shortest sequence of calls that shows a difference,
/// unless `PROPTEST_MAX_SHRINK_TIME` sets it.
const SEARCH: u32 = 3000;

/// Random calls by a few claimants on a few keys, in any order, are answered as by the store in
/// memory.
pub fn any_calls_are_answered_as_by_the_model(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Model);
    let judged = AtomicU32::new(0);
    let found = AtomicBool::new(false);
    let difference = thread::scope(|scope| {
        let threads: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|seed| {
                scope.spawn({
                    let (case, judged, found) = (&case, &judged, &found);
                    move || explore(case, seed, judged, found)
                })
            })
            .collect();
        let ends = threads.into_iter().map(|thread| match thread.join() {
            Ok(difference) => difference,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ends.flatten().next()
    });
    if let Some(difference) = difference {
        broken!(case, "{difference}");
    }
    check!(
        case,
        judged.into_inner() > 0,
        "not shown: every one of the runs took too long, with {:?} for a call when it was measured",
        case.latency()
    );
    Verdict::Kept
}

/// Makes runs until one shows a difference. Returns the shortest that does.
fn explore(case: &Case<'_>, seed: u8, judged: &AtomicU32, found: &AtomicBool) -> Option<String> {
    let default = Config::default();
    let is_set = |name| std::env::var_os(name).is_some();
    let config = Config {
        cases: if is_set("PROPTEST_CASES") {
            default.cases
        } else {
            RUNS
        },
        max_shrink_time: match is_set("PROPTEST_MAX_SHRINK_TIME") {
            true => default.max_shrink_time,
            false => SEARCH,
        },
        max_shrink_iters: 100_000,
        failure_persistence: None,
        ..default
    };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_of(seed, config.rng_seed));
    let mut runner = TestRunner::new_with_rng(config, random);
    // Whether this thread was the first to find a difference, and how many calls showed it last.
    let (is_ours, calls) = (Cell::new(false), Cell::new(0));
    let outcome = runner.run(&runs(), |(names, steps)| {
        // Another thread has found a difference, which is enough.
        if found.load(Ordering::SeqCst) && !is_ours.get() {
            return Ok(());
        }
        let mut random_run = RandomRun::new(case, &keys(case, &names), PASSES);
        match random_run.run(&steps) {
            Ok(()) => {
                judged.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Err(Ended::TooSlow) => Ok(()),
            Err(Ended::Differs(how)) if is_ours.get() || !found.swap(true, Ordering::SeqCst) => {
                is_ours.set(true);
                calls.set(random_run.steps());
                Err(TestCaseError::fail(how))
            }
            Err(Ended::Differs(_)) => Ok(()),
        }
    });
    match outcome {
        Ok(()) => None,
        Err(TestError::Abort(why)) => Some(format!("not shown: {why}")),
        Err(TestError::Fail(how, (names, mut steps))) => {
            steps.truncate(calls.get());
            Some(described(&names, &steps, &how.to_string()))
        }
    }
}

/// The seed of one of the threads: always the same, unless `PROPTEST_RNG_SEED` selects another.
fn seed_of(thread: u8, chosen: RngSeed) -> [u8; 32] {
    let mut seed = [thread; 32];
    if let RngSeed::Fixed(number) = chosen {
        for (byte, chosen) in seed.iter_mut().zip(number.to_le_bytes()) {
            *byte ^= chosen;
        }
    }
    seed
}

/// Describes the failure: what the last call did, the law that it probably breaks, and all calls,
/// one on each line.
fn described(names: &[String], steps: &[Step], how: &str) -> String {
    let law = steps.last().map_or(Law::Model, Step::law);
    let mut text = format!(
        "the last of {} calls breaks {law}: {how}. The calls, by claimants and keys of these \
         numbers, on keys that end with {names:?}:",
        steps.len()
    );
    for (number, step) in steps.iter().enumerate() {
        text += &format!("\n  {}. {step:?}", number + 1);
    }
    text
}

/// Keys with these endings. There are fewer if the store's longest key ends before they differ.
fn keys(case: &Case<'_>, names: &[String]) -> Vec<String> {
    let base = case.key();
    let mut keys: Vec<String> = Vec::new();
    for name in names {
        let mut key = format!("{base}:{name}");
        key.truncate(case.traits.max_key);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The endings of keys, and the calls.
fn runs() -> impl Strategy<Value = ([String; KEYS], Vec<Step>)> {
    // In groups, so that the search for fewer calls begins by leaving out many.
    let bunch = prop::collection::vec(step(), 1..BUNCH);
    let steps = prop::collection::vec(bunch, 1..BUNCHES);
    (names(), steps.prop_map(|bunches| bunches.concat()))
}

/// Names that a store may confuse.
const ALIKE: &[[&str; KEYS]] = &[
    ["a", "A", "%41"],
    ["a", "aa", "a."],
    ["a", "a:fence", "a%once:b"],
    ["a/b", "a_b", "a.b"],
    ["*", "a*", "?"],
];

/// The endings of keys.
fn names() -> impl Strategy<Value = [String; KEYS]> {
    let any = || "[!-z|~]{1,60}";
    let long = || "x{170,210}a";
    prop_oneof![
        4 => select(ALIKE).prop_map(|names| names.map(str::to_owned)),
        1 => [any(), any(), any()],
        1 => [long(), long(), long()],
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..CLAIMANTS;
    // Most calls are on the same key.
    let which = || prop_oneof![3 => Just(0), 2 => 1..KEYS];
    let span = || select(&[Span::Short, Span::Long, Span::Longest][..]);
    let age = || select(&[Age::First, Age::Latest][..]);
    let order = || prop_oneof![2 => Just(Order::Next), 1 => (0..4u64).prop_map(Order::Late)];
    prop_oneof![
        8 => (who(), which(), span()).prop_map(|(who, which, span)| Step::Claim(who, which, span)),
        8 => (who(), which(), span(), order(), age())
            .prop_map(|(who, which, span, order, age)| Step::Extend(who, which, span, order, age)),
        3 => (who(), span(), order()).prop_map(|(who, span, order)| Step::ExtendAll(who, span, order)),
        5 => (who(), which(), age()).prop_map(|(who, which, age)| Step::Release(who, which, age)),
        1 => (who(), which()).prop_map(|(who, which)| Step::Abandon(who, which)),
        1 => (who(), which()).prop_map(|(who, which)| Step::Confirm(who, which)),
        1 => (who(), which()).prop_map(|(who, which)| Step::Inspect(who, which)),
        1 => who().prop_map(Step::Reopen),
        2 => Just(Step::Pass),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_the_same_each_time_unless_others_are_asked_for() {
        assert_eq!(seed_of(3, RngSeed::Random), [3; 32]);
        assert_eq!(seed_of(3, RngSeed::Fixed(0)), [3; 32]);
        let others = seed_of(3, RngSeed::Fixed(0x0102));
        assert_eq!(others[..3], [3 ^ 2, 3 ^ 1, 3]);
    }
}
