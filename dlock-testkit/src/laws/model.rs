//! The other cases ask what somebody thought of; this one asks anything.
//!
//! The calls are random and the same each time. Whoever wants others sets `PROPTEST_CASES` to the number of runs (1 by default, of which 32
//! go on side by side), and `PROPTEST_MAX_SHRINK_TIME` to the milliseconds that the search for the shortest failing run may take.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::case::{Case, Law, broken, check};
use crate::machine::{Age, CLAIMANTS, Ended, Machine, Order, Span, Step};
use crate::{Subject, Verdict};

/// Runs that go on at the same time: most of the time they wait for leases to end.
const SIDE_BY_SIDE: u8 = 32;
/// Runs one after the other, unless `PROPTEST_CASES` says otherwise.
const RUNS: u32 = 1;
/// How often a run waits for leases to end, about.
const PASSES: u32 = 2;
const BUNCH: usize = 16;
const BUNCHES: usize = 25;
const KEYS: usize = 3;
/// What the shortest sequence of calls that shows a difference is searched for, in milliseconds, unless `PROPTEST_MAX_SHRINK_TIME` says
/// otherwise.
const SEARCH: u32 = 3000;

/// Whatever calls a few claimants make on a few keys, in whatever order, they are answered as by the store in memory.
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
        "not shown: this machine was too slow for every one of the runs"
    );
    Verdict::Kept
}

/// Makes runs until one shows a difference, and tells the shortest that does.
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
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(config, random);
    // Whether this thread was the first to find a difference, and how many calls showed it last.
    let (is_ours, calls) = (Cell::new(false), Cell::new(0));
    let outcome = runner.run(&runs(), |(names, steps)| {
        // Somebody else found one: nothing more is needed.
        if found.load(Ordering::SeqCst) && !is_ours.get() {
            return Ok(());
        }
        let mut machine = Machine::new(case, &keys(case, &names), PASSES);
        match machine.play(&steps) {
            Ok(()) => {
                judged.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Err(Ended::TooSlow) => Ok(()),
            Err(Ended::Differs(how)) if is_ours.get() || !found.swap(true, Ordering::SeqCst) => {
                is_ours.set(true);
                calls.set(machine.steps());
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
            Some(format!(
                "after the calls {steps:?} by claimants and keys of these numbers, on keys that end with {names:?}: {how}"
            ))
        }
    }
}

/// Keys with these ends: fewer, if the longest that the store takes ends before they differ.
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

/// What keys end with, and the calls.
fn runs() -> impl Strategy<Value = ([String; KEYS], Vec<Step>)> {
    // In bunches, so that a search for fewer calls begins with leaving out many.
    let bunch = prop::collection::vec(step(), 1..BUNCH);
    let steps = prop::collection::vec(bunch, 1..BUNCHES);
    (names(), steps.prop_map(|bunches| bunches.concat()))
}

/// Names that somebody may take for each other.
const ALIKE: &[[&str; KEYS]] = &[
    ["a", "A", "%41"],
    ["a", "aa", "a."],
    ["a", "a:fence", "a%once:b"],
    ["a/b", "a_b", "a.b"],
    ["*", "a*", "?"],
];

/// What keys end with.
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
    // Mostly about one key.
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
        1 => (who(), which()).prop_map(|(who, which)| Step::Look(who, which)),
        1 => who().prop_map(Step::Reopen),
        2 => Just(Step::Pass),
    ]
}
