//! One case of the suite: the law that it tests, the store under test, and the times that it uses.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dlock_core::{Characteristics, Clock, Signal, Time, drift};

use crate::Subject;
use crate::pauses;

/// The promise that a case tests. A failure begins with its name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Law {
    Atomic,
    Independent,
    Held,
    Own,
    Idempotent,
    Expiry,
    Extend,
    Fencing,
    Bounded,
    Clean,
    /// All laws at once.
    Model,
    /// The declared characteristics.
    Declared,
    /// The promises of `Lock` on a store that keeps the laws.
    Exclusion,
    Names,
    Waiting,
    Renewal,
    Loss,
    Hold,
    Once,
    Fork,
    /// What only the async form promises.
    #[cfg(feature = "tokio")]
    Dropped,
    #[cfg(feature = "tokio")]
    Async,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Law::Atomic => "law 1 (atomic)",
            Law::Independent => "law 2 (independent)",
            Law::Held => "law 3 (held)",
            Law::Own => "law 4 (own)",
            Law::Idempotent => "law 5 (idempotent)",
            Law::Expiry => "law 6 (expiry)",
            Law::Extend => "law 7 (extend)",
            Law::Fencing => "law 8 (fencing)",
            Law::Bounded => "law 9 (bounded)",
            Law::Clean => "law 10 (clean)",
            Law::Model => "model",
            Law::Declared => "declaration",
            Law::Exclusion => "lock (exclusion)",
            Law::Names => "lock (names)",
            Law::Waiting => "lock (waiting)",
            Law::Renewal => "lock (renewal)",
            Law::Loss => "lock (loss)",
            Law::Hold => "lock (hold)",
            Law::Once => "lock (once)",
            Law::Fork => "lock (fork)",
            #[cfg(feature = "tokio")]
            Law::Dropped => "lock (dropped)",
            #[cfg(feature = "tokio")]
            Law::Async => "lock (async)",
        })
    }
}

/// How often a sample is repeated if it came too late.
const SAMPLES: u32 = 20;
/// How many samples must show a broken promise where the machine may be at fault.
const DOUBTS: u32 = 3;
/// After how many samples that came too late short times are made twice as long.
const SAMPLES_OF_ONE_LENGTH: u32 = 4;
/// How often a call is timed. The least time is the store's, the rest comes from this machine.
const TIMED_CALLS: usize = 3;
/// The number of consecutive calls that fit into a short lease, with room for an overloaded
/// machine.
const CALLS_IN_A_SHORT_LEASE: u32 = 32;
/// The number of claimants that are created between two counts of this process's threads.
const CLIENTS_A_COUNT: u32 = 64;
/// More threads than all cases of a suite start together, and fewer than systems allow.
const MOST_THREADS: usize = 8000;
/// If calls take longer than this, the store is far away, and cases make their calls in parallel.
const FAR: Duration = Duration::from_millis(2);
/// How late an overloaded machine may be, in addition to what the store declares.
const SLACK: Duration = Duration::from_millis(50);

/// How many threads this process has; `None` where the operating system does not show them.
pub(crate) fn open_threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task")
        .ok()
        .map(Iterator::count)
}

pub(crate) struct Case<'s> {
    pub(crate) subject: &'s Subject,
    pub(crate) traits: Characteristics,
    law: Law,
    keys: AtomicU32,
    latency: OnceLock<Duration>,
    clients: AtomicU32,
    /// The samples that came too late.
    too_slow: AtomicU32,
}

/// Ends the case with a failure that names the law.
macro_rules! broken {
    ($case:expr, $($text:tt)+) => { $case.broken(format_args!($($text)+)) };
}

/// Ends the case with a failure that names the law, unless the condition holds.
macro_rules! check {
    ($case:expr, $holds:expr, $($text:tt)+) => {
        if !$holds { $case.broken(format_args!($($text)+)) }
    };
}

pub(crate) use {broken, check};

/// The result of one sample of a timed promise.
pub(crate) enum Sample {
    Judged,
    /// The machine or the store was too slow, so the sample proves nothing.
    TooSlow,
    /// The promise looks broken, as it also does if the machine stalls at the wrong moment. It is
    /// broken unless this process paused meanwhile, and if it looks so several times in a row.
    Doubtful(String),
}

impl<'s> Case<'s> {
    pub(crate) fn new(subject: &'s Subject, law: Law) -> Self {
        Case {
            traits: subject.first().characteristics(),
            subject,
            law,
            keys: AtomicU32::new(0),
            latency: OnceLock::new(),
            clients: AtomicU32::new(0),
            too_slow: AtomicU32::new(0),
        }
    }

    #[track_caller]
    pub(crate) fn broken(&self, what: fmt::Arguments<'_>) -> ! {
        match self.subject.made_at() {
            Some(place) => panic!(
                "{}: {what}\nThe store under test is created at {place}.",
                self.law
            ),
            None => panic!("{}: {what}", self.law),
        }
    }

    /// A key that nothing else uses.
    pub(crate) fn key(&self) -> String {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}", self.subject.prefix())
    }

    /// Reports a store that leaves threads behind. Otherwise the whole run would end without a
    /// message when the system runs out of threads.
    pub(crate) fn check_threads(&self) {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(CLIENTS_A_COUNT)
            && let Some(threads) = open_threads()
        {
            assert!(
                threads < MOST_THREADS,
                "{}: this process has {threads} threads: calls of the store leave threads behind",
                Law::Clean
            );
        }
    }

    /// Takes samples until one can be judged.
    pub(crate) fn sampled(&self, what: &str, mut sample: impl FnMut() -> Sample) {
        self.sampled_with_pauses(what, || pauses::during(&mut sample));
    }

    /// The same. `sample` returns also whether this process paused meanwhile.
    fn sampled_with_pauses(&self, what: &str, mut sample: impl FnMut() -> (Sample, bool)) {
        let mut doubts = 0;
        for _ in 0..SAMPLES {
            match sample() {
                (Sample::Judged, _) => return,
                (Sample::TooSlow, _) => self.stretch(),
                (Sample::Doubtful(what), has_paused) => {
                    doubts += 1;
                    check!(self, has_paused, "{what}");
                    check!(self, doubts < DOUBTS, "{what} ({DOUBTS} times in a row)");
                }
            }
        }
        let latency = self.latency();
        broken!(
            self,
            "not shown: {SAMPLES} times it was too late to see {what}. A call took {latency:?} when \
             it was measured, and the case gives {CALLS_IN_A_SHORT_LEASE} of them {:?}: some calls \
             of the store take much longer than that, or this machine is overloaded",
            self.short()
        )
    }

    /// The least time of a call to this store, measured once, with refused claims.
    pub(crate) fn latency(&self) -> Duration {
        *self.latency.get_or_init(|| {
            let holder = self.client(&self.key());
            let lease = holder.take(self.long(), "nobody had claimed the key").lease;
            let stranger = self.client(holder.key());
            let calls = (0..TIMED_CALLS).map(|_| {
                let answer = stranger.ask(self.long());
                answer.sent.until(answer.received)
            });
            let least = calls.min().unwrap_or_default();
            holder.frees(&lease, "only refused claims came");
            least
        })
    }

    /// The number of threads for independent calls, so that the latencies of a distant store do not
    /// add up.
    pub(crate) fn lanes(&self) -> usize {
        if self.latency() > FAR { 64 } else { 1 }
    }

    /// The time to live of a lease that ends during the case, with room for some calls before its
    /// end.
    pub(crate) fn short(&self) -> Duration {
        let calls = self.latency() * CALLS_IN_A_SHORT_LEASE;
        self.live(self.stretched(calls.max(Duration::from_millis(400))))
    }

    /// A short time, or more than that if several samples have come too late.
    pub(crate) fn stretched(&self, time: Duration) -> Duration {
        time * (1 << (self.too_slow.load(Ordering::Relaxed) / SAMPLES_OF_ONE_LENGTH))
    }

    /// Makes short times longer when several have been too short.
    fn stretch(&self) {
        self.too_slow.fetch_add(1, Ordering::Relaxed);
    }

    /// The time to live of a lease that does not end during the case, even on a slow machine.
    pub(crate) fn long(&self) -> Duration {
        self.live(Duration::from_secs(1800))
    }

    /// A time to live of `base`, or the nearest that the store accepts.
    pub(crate) fn live(&self, base: Duration) -> Duration {
        base.max(self.traits.ttl_min).min(self.traits.ttl_max)
    }

    /// How long after the end of a lease of `ttl` its key is certainly free. A store whose clock
    /// ticks may be late by a part of a tick on a busy machine.
    pub(crate) fn tail(&self, ttl: Duration) -> Duration {
        let granularity = self.traits.granularity;
        granularity + drift(ttl) + SLACK.max(granularity / 10)
    }

    pub(crate) fn sleep_until(&self, end: Time) {
        // This signal is never notified.
        Clock::BOOTTIME.sleep_until(&Signal::new(), end);
    }
}

pub(crate) fn now() -> Time {
    Clock::BOOTTIME.now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::MemoryDatastore;

    #[test]
    fn a_promise_that_could_never_be_observed_does_not_count_as_kept() {
        let subject = Subject::from(MemoryDatastore::new());
        let case = Case::new(&subject, Law::Expiry);
        let mut samples = 0;
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            case.sampled("anything", || {
                samples += 1;
                Sample::TooSlow
            });
        }));
        let message = failed.unwrap_err().downcast::<String>().unwrap();
        assert!(
            message
                .starts_with("law 6 (expiry): not shown: 20 times it was too late to see anything"),
            "{message}"
        );
        assert!(message.contains("A call took"), "{message}");
        assert_eq!(samples, SAMPLES);
    }

    #[test]
    fn a_promise_that_looks_broken_is_sampled_again_only_after_a_pause_and_twice_at_most() {
        let subject = Subject::from(MemoryDatastore::new());
        let case = Case::new(&subject, Law::Waiting);
        let doubtful = || Sample::Doubtful("out of turn".to_owned());
        let mut samples = 0;
        case.sampled_with_pauses("anything", || {
            samples += 1;
            let sample = match samples {
                1 => doubtful(),
                2 => Sample::TooSlow,
                3 => doubtful(),
                _ => Sample::Judged,
            };
            (sample, true)
        });
        assert_eq!(samples, 4);
        for (has_paused, most, says) in [
            (
                true,
                DOUBTS,
                "lock (waiting): out of turn (3 times in a row)",
            ),
            (false, 1, "lock (waiting): out of turn"),
        ] {
            samples = 0;
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                case.sampled_with_pauses("anything", || {
                    samples += 1;
                    (doubtful(), has_paused)
                });
            }));
            let message = failed.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*message, says);
            assert_eq!(samples, most);
        }
    }

    #[test]
    fn short_leases_are_made_longer_while_samples_come_too_late() {
        let subject = Subject::from(MemoryDatastore::new());
        let case = Case::new(&subject, Law::Expiry);
        let (mut lengths, least) = (Vec::new(), case.short());
        case.sampled("anything", || {
            lengths.push(case.short());
            match lengths.len() {
                9 => Sample::Judged,
                _ => Sample::TooSlow,
            }
        });
        let factors = [1, 1, 1, 1, 2, 2, 2, 2, 4];
        assert_eq!(lengths, factors.map(|factor| least * factor));
    }

    #[test]
    fn a_failure_names_the_place_where_the_store_under_test_is_created() {
        let line = line!() + 1;
        let subject = Subject::__built(MemoryDatastore::new, "crate::module", None);
        let case = Case::new(&subject, Law::Expiry);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            case.broken(format_args!("what is broken"));
        }));
        let message = failed.unwrap_err().downcast::<String>().unwrap();
        let place = format!("created at {}:{line}:", file!());
        assert!(
            message.starts_with("law 6 (expiry): what is broken") && message.contains(&place),
            "{message}"
        );
    }

    #[test]
    fn keys_of_cases_do_not_meet() {
        let subjects = [(); 2].map(|()| Subject::from(MemoryDatastore::new()));
        let [one, two] = subjects
            .each_ref()
            .map(|subject| Case::new(subject, Law::Own));
        let keys = [one.key(), one.key(), two.key()];
        assert!(keys[0] != keys[1] && keys[0] != keys[2], "{keys:?}");
    }
}
