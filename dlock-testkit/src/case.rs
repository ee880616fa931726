//! One case of the suite: whose law it shows, on which store, with which times.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dlock_core::{Characteristics, Clock, Signal, Time, drift};

use crate::Subject;
use crate::client::Client;
use crate::subject::Handle;

/// Which promise a case shows: what its failure begins with.
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
    /// All of them at once.
    Model,
    /// What the store declares of itself.
    Declared,
    /// What `Lock` promises on a store that keeps its laws.
    Exclusion,
    Names,
    Waiting,
    Renewal,
    Loss,
    Hold,
    Once,
    Fork,
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
        })
    }
}

/// How often a sample that this machine was too slow for is taken again.
const SAMPLES: u32 = 20;
/// What a machine under load may be late by, over and above what a store declares.
const SLACK: Duration = Duration::from_millis(50);

pub(crate) struct Case<'s> {
    pub(crate) subject: &'s Subject,
    pub(crate) traits: Characteristics,
    law: Law,
    keys: AtomicU32,
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

/// What came of one sample of a timed promise.
pub(crate) enum Sample {
    Judged,
    /// The machine did not come to it in time: nothing was shown, for or against.
    TooSlow,
}

impl<'s> Case<'s> {
    pub(crate) fn new(subject: &'s Subject, law: Law) -> Self {
        Case {
            traits: subject.first().characteristics(),
            subject,
            law,
            keys: AtomicU32::new(0),
        }
    }

    pub(crate) fn broken(&self, what: fmt::Arguments<'_>) -> ! {
        panic!("{}: {what}", self.law)
    }

    /// A key that nothing else uses.
    pub(crate) fn key(&self) -> String {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}", self.subject.prefix())
    }

    /// A claimant on the first handle.
    pub(crate) fn client(&self, key: &str) -> Client<'_> {
        self.client_on(&self.subject.first(), key)
    }

    /// A claimant on this handle.
    pub(crate) fn client_on(&self, store: &Handle, key: &str) -> Client<'_> {
        Client::new(self, store, key)
    }

    /// Takes samples until one could be judged.
    pub(crate) fn sampled(&self, what: &str, mut sample: impl FnMut() -> Sample) {
        for _ in 0..SAMPLES {
            match sample() {
                Sample::Judged => return,
                Sample::TooSlow => {}
            }
        }
        broken!(
            self,
            "not shown: {SAMPLES} times this machine was too slow to see {what}"
        )
    }

    /// The time to live of a lease that shall end during the case.
    pub(crate) fn short(&self) -> Duration {
        self.live(Duration::from_millis(400))
    }

    /// The time to live of a lease that shall not end during the case, on however slow a machine.
    pub(crate) fn long(&self) -> Duration {
        self.live(Duration::from_secs(1800))
    }

    /// A time to live of `base`, or the nearest that the store takes.
    pub(crate) fn live(&self, base: Duration) -> Duration {
        base.max(self.traits.ttl_min).min(self.traits.ttl_max)
    }

    /// How long after the end of a lease of `ttl` its key is free for certain.
    pub(crate) fn tail(&self, ttl: Duration) -> Duration {
        self.traits.granularity + drift(ttl) + SLACK
    }

    pub(crate) fn sleep_until(&self, end: Time) {
        // Nobody notifies it.
        Clock::BOOTTIME.park(&Signal::new(), end);
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
    fn what_could_never_be_seen_is_not_kept() {
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
        assert_eq!(
            *message,
            "law 6 (expiry): not shown: 20 times this machine was too slow to see anything"
        );
        assert_eq!(samples, SAMPLES);
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
