//! Requests as bytes.

use std::fmt::Write as _;
use std::time::Duration;

use dlock_core::{Claim, Lease, OwnerToken, Time};
use dlock_net::deadline_in;

use super::LOOK_EVERY;
use super::scripts::{ACQUIRE, EXTEND, LOOK, RELEASE, Script};
use crate::resp::Requests;

/// Whether the server knows the script by its hash, or is sent all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Hash,
    Text,
}

/// One call of a script.
#[derive(Clone, Copy)]
pub(crate) enum Call<'a> {
    Acquire {
        claim: &'a Claim,
        ttl: Duration,
        /// The process in which the claimant waits, if it shall be queued.
        process: Option<&'a str>,
    },
    Extend(&'a Lease, Duration),
    Release {
        key: &'a str,
        owner: OwnerToken,
        /// The process in which the owner waited, if it may be queued.
        process: Option<&'a str>,
    },
    /// Looks after the waiters of a process at a key.
    Look {
        key: &'a str,
        process: &'a str,
    },
}

impl Call<'_> {
    /// When it must have ended, on the system's clock.
    pub(crate) fn end(&self) -> Time {
        match self {
            Call::Acquire { claim, .. } => deadline_in(claim.time_left()),
            Call::Extend(lease, _) => deadline_in(lease.time_left()),
            // They are right at any time.
            Call::Release { .. } | Call::Look { .. } => Time::MAX,
        }
    }
}

/// Packs requests. Its buffers are kept, so that a warm one allocates nothing.
#[derive(Default)]
pub(crate) struct Packer {
    requests: Requests,
    owner: String,
    keys: Keys,
}

/// The keys of the last call, packed: a release names those of its acquire.
#[derive(Default)]
struct Keys {
    lock: String,
    packed: Requests,
}

impl Packer {
    /// Appends one call. `not_after` is the server time, in µs, from which on it must do nothing.
    pub(crate) fn push(&mut self, call: Call<'_>, form: Form, not_after: u64) {
        match call {
            Call::Acquire {
                claim,
                ttl,
                process,
            } => {
                let arguments = 3 + usize::from(process.is_some());
                self.begin(&ACQUIRE, form, claim.key(), true, arguments);
                self.write(claim.owner());
                self.requests.word(&[&self.owner, " 0 ", claim.holder()]);
                self.requests.number(millis_up(ttl));
                self.requests.number(not_after);
                if let Some(process) = process {
                    self.requests.word(&[process]);
                }
            }
            Call::Extend(lease, ttl) => {
                // Only an end that is near can be sooner than the waiters know.
                let tells = ttl < LOOK_EVERY;
                self.begin(&EXTEND, form, lease.key(), tells, 5);
                self.write(lease.owner());
                self.requests.word(&[&self.owner]);
                self.requests.word(&[lease.holder()]);
                self.requests.number(millis_up(ttl));
                self.requests.number(not_after);
                self.requests.number(lease.sequence());
            }
            Call::Release {
                key,
                owner,
                process,
            } => {
                let arguments = 1 + usize::from(process.is_some());
                self.begin(&RELEASE, form, key, true, arguments);
                self.write(owner);
                self.requests.word(&[&self.owner]);
                if let Some(process) = process {
                    self.requests.word(&[process]);
                }
            }
            Call::Look { key, process } => {
                self.begin(&LOOK, form, key, true, 1);
                self.requests.word(&[process]);
            }
        }
    }

    /// What was pushed since the last [`clear`](Self::clear).
    pub(crate) fn bytes(&self) -> &[u8] {
        self.requests.bytes()
    }

    pub(crate) fn clear(&mut self) {
        self.requests.clear();
    }

    /// Begins the call of a script with the lock's key, and with those beside it if it may meet a queue.
    fn begin(&mut self, script: &Script, form: Form, key: &str, all_keys: bool, arguments: usize) {
        let keys = if all_keys { Keys::COUNT } else { 1 };
        self.requests.begin(3 + keys + arguments);
        self.requests.words(script.words(form));
        self.requests.number(keys as u64);
        match all_keys {
            true => self.requests.words(self.keys.of(key)),
            false => self.requests.word(&[key]),
        }
    }

    fn write(&mut self, owner: OwnerToken) {
        self.owner.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.owner, "{owner}");
    }
}

impl Keys {
    const COUNT: usize = 4;

    fn of(&mut self, lock: &str) -> &Requests {
        if self.packed.bytes().is_empty() || self.lock != lock {
            lock.clone_into(&mut self.lock);
            self.packed.clear();
            self.packed.word(&[lock]);
            // The braces put them into the lock's slot of a cluster.
            for name in ["}:fence", "}:queue", "}:seen"] {
                self.packed.word(&["{", lock, name]);
            }
        }
        &self.packed
    }
}

/// Whole milliseconds, rounded up: a lease lives at least what was asked.
fn millis_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use dlock_core::{Clock, Grant};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const NOT_AFTER: u64 = 1_795_476_271_000_000;

    /// The words of the requests, as the redis crate reads them; a script's hash or text left out.
    fn words(packer: &Packer) -> Vec<Vec<String>> {
        let (mut rest, mut requests) = (packer.bytes(), Vec::new());
        while !rest.is_empty() {
            let mut parser = crate::resp::Parser::default();
            let redis::Value::Array(words) = parser.reply(&mut rest).unwrap() else {
                panic!("a request is a list")
            };
            let mut words: Vec<String> = words
                .into_iter()
                .map(|word| redis::from_redis_value(word).unwrap())
                .collect();
            let script = words.remove(1);
            assert_eq!(script.len() == 40, words[0] == "EVALSHA", "{script}");
            requests.push(words);
        }
        requests
    }

    fn claim(key: &str) -> Claim {
        let claim = Claim::new(key, &Clock::BOOTTIME, MINUTE).unwrap();
        claim.with_holder("who holds it")
    }

    /// The words of a request with the keys of `key`.
    fn expected(name: &str, key: &str, arguments: &[&str]) -> Vec<String> {
        let beside = |name: &str| format!("{{{key}}}:{name}");
        let keys = [
            key.to_owned(),
            beside("fence"),
            beside("queue"),
            beside("seen"),
        ];
        let arguments = arguments.iter().map(ToString::to_string);
        [name.to_owned(), "4".to_owned()]
            .into_iter()
            .chain(keys)
            .chain(arguments)
            .collect()
    }

    #[test]
    fn each_request_names_its_own_keys_whatever_was_sent_before() {
        let mut packer = Packer::default();
        let mut right = Vec::new();
        // An empty one first: nothing was packed before it.
        for key in ["", "dlock:a", "dlock:a", "dlock:b", "dlock:a", ""] {
            let (claim, owner) = (claim(key), claim(key).owner());
            let acquire = |process| Call::Acquire {
                claim: &claim,
                ttl: Duration::from_micros(1_500),
                process,
            };
            let release = |process| Call::Release {
                key,
                owner,
                process,
            };
            let record = format!("{} 0 who holds it", claim.owner());
            let now = NOT_AFTER.to_string();
            let owner = owner.to_string();

            packer.push(acquire(None), Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &[&record, "2", &now]));
            packer.push(acquire(Some("abc")), Form::Text, NOT_AFTER);
            right.push(expected("EVAL", key, &[&record, "2", &now, "abc"]));
            packer.push(release(None), Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &[&owner]));
            packer.push(release(Some("abc")), Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &[&owner, "abc"]));
            let process = "abc";
            packer.push(Call::Look { key, process }, Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &["abc"]));
        }
        assert_eq!(words(&packer), right);
        packer.clear();
        assert!(packer.bytes().is_empty());
    }

    #[test]
    fn an_extend_names_the_queue_only_if_it_may_end_within_a_look() {
        let lease = Lease::new(claim("dlock:a"), Grant::new(MINUTE)).for_call(7, Time::MAX);
        let owner = lease.owner().to_string();
        let now = NOT_AFTER.to_string();
        let arguments = |ttl| [&*owner, "who holds it", ttl, &*now, "7"];

        let mut packer = Packer::default();
        let short = LOOK_EVERY - Duration::from_millis(1);
        packer.push(Call::Extend(&lease, short), Form::Hash, NOT_AFTER);
        packer.push(Call::Extend(&lease, LOOK_EVERY), Form::Hash, NOT_AFTER);
        let mut long = vec!["EVALSHA", "1", "dlock:a"];
        long.extend(arguments("1000"));
        let right = [
            expected("EVALSHA", "dlock:a", &arguments("999")),
            long.into_iter().map(String::from).collect(),
        ];
        assert_eq!(words(&packer), right);
    }

    #[test]
    fn a_time_to_live_is_rounded_up() {
        assert_eq!(millis_up(Duration::ZERO), 0);
        assert_eq!(millis_up(Duration::from_nanos(1)), 1);
        assert_eq!(millis_up(Duration::from_millis(10)), 10);
        assert_eq!(millis_up(Duration::MAX), u64::MAX);
    }
}
