//! Requests as bytes.

use std::time::Duration;

use dlock_core::{Claim, FencingToken, Lease, OwnerToken, Time};
use dlock_net::deadline_in;

use super::scripts::{ACQUIRE, BREAK, EXTEND, Form, HOLDER, LIST, LOOK, RELEASE, Script, WAITING};
use super::{Deletes, HEARTBEAT_EVERY};
use crate::wire::Requests;

/// How long acquire.lua keeps a fence unless a claim says otherwise.
pub(crate) const FENCE_KEEP: Duration = Duration::from_secs(7 * 86_400);

/// One call of a script.
#[derive(Clone, Copy)]
pub(crate) enum Call<'a> {
    Acquire {
        claim: &'a Claim,
        ttl: Duration,
        /// The claimant's process, if that receives messages: the record names it.
        process: Option<&'a str>,
        /// Whether a refusal queues the claimant, which waits in that process.
        queues: bool,
        /// Whether it may have been carried out before, unanswered.
        again: bool,
        keys: Keys,
    },
    Extend(&'a Lease, Duration),
    /// The same with one key, whatever the time to live: the waiters learn of a near end later.
    ExtendAlone(&'a Lease, Duration),
    /// Frees a key whose owner is not queued.
    Release {
        record: Record<'a>,
        keys: Keys,
    },
    /// The same for an owner that may be queued, in that process.
    Leave {
        key: &'a str,
        owner: OwnerToken,
        process: &'a str,
    },
    /// Gives back what was handed to a waiter that its process does not know, unless it was
    /// claimed, and takes the waiter off the queue.
    GiveBack {
        key: &'a str,
        owner: OwnerToken,
        process: &'a str,
    },
    /// Keeps the waiters of a process in the queue of a key.
    Heartbeat {
        key: &'a str,
        process: &'a str,
        /// Whether the holder's process is asked whether it has released the lock already.
        asks: bool,
        /// The last of the process's waiters that came and is in the queue.
        last: Option<OwnerToken>,
    },
    /// Asks who holds a key.
    Holder(&'a str),
    /// Counts who waits for a key.
    Waiting(&'a str),
    /// Names keys of the server that the call goes to, of which this is one page.
    List(Listing<'a>),
    /// Frees a key that is held under this fencing token.
    Break(&'a str, FencingToken),
    /// Takes back what a claim was granted under this fencing token, and nothing that it was
    /// granted since.
    TakeBack(&'a Claim, FencingToken),
    /// Lets the next call on this connection use a slot that is being moved here.
    Asking,
}

/// Some of the keys of one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing<'a> {
    /// Where to begin, as the server said the time before; 0 at first.
    pub(crate) cursor: u64,
    /// What the keys are like, in the way of SCAN.
    pub(crate) pattern: &'a str,
}

/// How many keys the server looks at for one page: few enough for the longest reply that is read,
/// and for the server, which does nothing else meanwhile.
const LOOKED_AT: u64 = 100;

/// Which keys a call names. A call that needs no more than a few is not refused while a cluster
/// moves their slot, where the others do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Those without which it cannot do its work where nobody waits.
    Few,
    /// Also those of the queue.
    All,
}

/// What an owner wrote under a key, as far as it knows: a call whose answer was lost may have
/// changed it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) key: &'a str,
    pub(crate) owner: OwnerToken,
    /// Of the last extend.
    pub(crate) sequence: u64,
    /// The owner's process, if that receives messages.
    pub(crate) process: Option<&'a str>,
    pub(crate) holder: &'a str,
}

/// What a call may be answered by a number alone depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Acquire,
    Extend,
    /// A key is freed, by whatever right.
    Free,
    /// The same without a script.
    Delete,
    Holder,
    Waiting,
    List,
    Heartbeat,
    Asking,
    /// Not a script: how many replicas have acknowledged what was sent before, of this many.
    Wait(u32),
}

impl<'a> Call<'a> {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Call::Acquire { .. } => Kind::Acquire,
            Call::Extend(..) | Call::ExtendAlone(..) => Kind::Extend,
            Call::Release { .. }
            | Call::Leave { .. }
            | Call::GiveBack { .. }
            | Call::Break(..)
            | Call::TakeBack(..) => Kind::Free,
            Call::Holder(_) => Kind::Holder,
            Call::Waiting(_) => Kind::Waiting,
            Call::List(_) => Kind::List,
            Call::Heartbeat { .. } => Kind::Heartbeat,
            Call::Asking => Kind::Asking,
        }
    }

    /// The key of its lock, which decides to which slot of a cluster it belongs.
    pub(crate) fn key(&self) -> &'a str {
        match *self {
            Call::Acquire { claim, .. } => claim.key(),
            Call::Extend(lease, _) | Call::ExtendAlone(lease, _) => lease.key(),
            Call::Release { record, .. } => record.key,
            Call::Leave { key, .. }
            | Call::GiveBack { key, .. }
            | Call::Heartbeat { key, .. }
            | Call::Holder(key)
            | Call::Waiting(key)
            | Call::Break(key, _) => key,
            Call::TakeBack(claim, _) => claim.key(),
            // They name no key, and are sent to a node that their caller chooses.
            Call::Asking | Call::List(_) => "",
        }
    }

    /// Whether replicas must have what it writes, if they are waited for at all.
    pub(crate) fn is_for_replicas(&self) -> bool {
        matches!(
            self,
            Call::Acquire { .. } | Call::Extend(..) | Call::ExtendAlone(..)
        )
    }

    /// Whether others wait for its effect.
    pub(crate) fn is_urgent(&self) -> bool {
        !matches!(self, Call::Acquire { .. })
    }

    /// A call that does the same with fewer keys, or finds that it takes more; `None` if there is
    /// none.
    pub(crate) fn with_few_keys(self) -> Option<Self> {
        match self {
            Call::Extend(lease, ttl) => Some(Call::ExtendAlone(lease, ttl)),
            Call::Release {
                record,
                keys: Keys::All,
            } => Some(Call::Release {
                record,
                keys: Keys::Few,
            }),
            _ => None,
        }
    }

    /// The same on a connection to a server that deletes in this way.
    pub(crate) fn kind_with(&self, deletes: Deletes) -> Kind {
        match self {
            Call::Release {
                keys: Keys::Few, ..
            } if deletes.is_command() => Kind::Delete,
            call => call.kind(),
        }
    }

    /// The same call once more, the answer to which was lost.
    pub(crate) fn once_more(mut self) -> Self {
        if let Call::Acquire { again, .. } = &mut self {
            *again = true;
        }
        self
    }

    /// The same call, for a key where somebody waits.
    pub(crate) fn with_all_keys(mut self) -> Self {
        if let Call::Acquire { keys, .. } | Call::Release { keys, .. } = &mut self {
            *keys = Keys::All;
        }
        self
    }

    /// When it must have ended, on the system's clock.
    pub(crate) fn end(&self) -> Time {
        match self {
            Call::Acquire { claim, .. } => deadline_in(claim.time_left()),
            Call::Extend(lease, _) | Call::ExtendAlone(lease, _) => deadline_in(lease.time_left()),
            // They are right at any time.
            Call::Release { .. }
            | Call::Leave { .. }
            | Call::GiveBack { .. }
            | Call::Heartbeat { .. }
            | Call::Holder(_)
            | Call::Waiting(_)
            | Call::List(_)
            | Call::Break(..)
            | Call::TakeBack(..)
            | Call::Asking => Time::MAX,
        }
    }
}

/// Packs requests. Its buffers are kept, so that a warm one allocates nothing.
#[derive(Default)]
pub(crate) struct Packer {
    requests: Requests,
    owner: String,
    keys: PackedKeys,
    /// For how long a fence is kept; `None` for the time that the script knows.
    fence_keep: Option<Duration>,
    /// How a record is deleted without a script.
    pub(crate) deletes: Deletes,
}

/// The keys of the last call, packed: a release names those of its acquire.
#[derive(Default)]
struct PackedKeys {
    lock: String,
    packed: Requests,
    /// Where each of them ends.
    ends: [usize; PackedKeys::COUNT],
}

impl Packer {
    /// Has claims keep a fence for this long.
    pub(crate) fn keep_fences_for(&mut self, time: Duration) {
        self.fence_keep = Some(time).filter(|time| *time != FENCE_KEEP);
    }

    /// For how long a claim keeps the fence, if the script does not know: it outlives a lock that
    /// nobody renews.
    fn kept(&self, ttl: Duration) -> Option<Duration> {
        let keep = self.fence_keep.unwrap_or(FENCE_KEEP);
        let keep = keep.max(ttl.saturating_mul(2));
        (keep != FENCE_KEEP).then_some(keep)
    }

    /// Appends one call. `not_after` is the server time, in µs, from which on it must do nothing.
    pub(crate) fn push(&mut self, call: Call<'_>, form: Form, not_after: u64) {
        match call {
            Call::Acquire {
                claim,
                ttl,
                process,
                queues,
                again,
                keys,
            } => {
                let queued_in = process.filter(|_| queues);
                let kept = self.kept(ttl);
                let arguments = match (queued_in, again, kept) {
                    (_, _, Some(_)) => 6,
                    (_, true, None) => 5,
                    (Some(_), false, None) => 4,
                    (None, false, None) => 3,
                };
                let keys = match (queued_in, keys) {
                    (None, Keys::Few) => 2,
                    _ => PackedKeys::COUNT,
                };
                self.begin(&ACQUIRE, form, claim.key(), keys, arguments);
                self.record(Record {
                    key: claim.key(),
                    owner: claim.owner(),
                    sequence: 0,
                    process,
                    holder: claim.holder(),
                });
                self.requests.number(millis_up(ttl));
                // Rounded down: rather too early.
                self.requests.number(not_after / 1000);
                if arguments > 3 {
                    self.requests.word(&[queued_in.unwrap_or_default()]);
                }
                if arguments > 4 {
                    self.requests.word(&[if again { "again" } else { "" }]);
                }
                if let Some(kept) = kept {
                    self.requests.number(millis_up(kept));
                }
            }
            Call::Extend(lease, ttl) | Call::ExtendAlone(lease, ttl) => {
                // Only an end that is near can be sooner than the waiters know.
                let names_queue = matches!(call, Call::Extend(..)) && ttl < HEARTBEAT_EVERY;
                let keys = if names_queue { PackedKeys::COUNT } else { 1 };
                self.begin(&EXTEND, form, lease.key(), keys, 5);
                self.write(lease.owner());
                self.requests.word(&[&self.owner]);
                self.requests.word(&[lease.holder()]);
                self.requests.number(millis_up(ttl));
                self.requests.number(not_after);
                self.requests.number(lease.sequence());
            }
            Call::Release {
                record,
                keys: Keys::Few,
            } => self.release(record, form),
            Call::Release { record, .. } => {
                self.begin(&RELEASE, form, record.key, PackedKeys::COUNT, 1);
                self.record(record);
            }
            Call::Leave {
                key,
                owner,
                process,
            } => {
                self.begin(&RELEASE, form, key, PackedKeys::COUNT, 2);
                self.write(owner);
                self.requests.word(&[&self.owner]);
                self.requests.word(&[process]);
            }
            Call::GiveBack {
                key,
                owner,
                process,
            } => {
                self.begin(&RELEASE, form, key, PackedKeys::COUNT, 3);
                self.write(owner);
                self.requests.word(&[&self.owner]);
                self.requests.word(&[process]);
                self.requests.word(&["handed"]);
            }
            Call::Heartbeat {
                key,
                process,
                asks,
                last,
            } => {
                let arguments = 2 + usize::from(last.is_some());
                self.begin(&LOOK, form, key, PackedKeys::COUNT, arguments);
                self.requests.word(&[process]);
                self.requests.number(u64::from(asks));
                if let Some(last) = last {
                    self.write(last);
                    self.requests.word(&[&self.owner]);
                }
            }
            Call::Asking => {
                self.requests.begin(1);
                self.requests.word(&["ASKING"]);
            }
            Call::Holder(key) => self.begin(&HOLDER, form, key, 2, 0),
            Call::Waiting(key) => self.begin(&WAITING, form, key, PackedKeys::COUNT, 0),
            Call::List(Listing { cursor, pattern }) => {
                self.begin(&LIST, form, "", 0, 3);
                self.requests.number(cursor);
                self.requests.word(&[pattern]);
                self.requests.number(LOOKED_AT);
            }
            Call::Break(key, fence) => {
                self.begin(&BREAK, form, key, PackedKeys::COUNT, 1);
                self.requests.number(fence.get());
            }
            Call::TakeBack(claim, fence) => {
                self.begin(&BREAK, form, claim.key(), PackedKeys::COUNT, 2);
                self.requests.number(fence.get());
                self.write(claim.owner());
                self.requests.word(&[&self.owner]);
            }
        }
    }

    /// Appends the question how many replicas have acknowledged what stands before it, which the
    /// server answers when they are enough, or after so many ms.
    pub(crate) fn push_wait(&mut self, replicas: u32, millis: u64) {
        self.requests.begin(3);
        self.requests.word(&["WAIT"]);
        self.requests.number(replicas.into());
        self.requests.number(millis);
    }

    /// Appends one call to `bytes`.
    #[cfg(feature = "tokio")]
    pub(crate) fn push_to(
        &mut self,
        bytes: &mut Vec<u8>,
        call: Call<'_>,
        form: Form,
        not_after: u64,
    ) {
        self.requests.swap(bytes);
        self.push(call, form, not_after);
        self.requests.swap(bytes);
    }

    /// Appends the question to `bytes`.
    #[cfg(feature = "tokio")]
    pub(crate) fn push_wait_to(&mut self, bytes: &mut Vec<u8>, replicas: u32, millis: u64) {
        self.requests.swap(bytes);
        self.push_wait(replicas, millis);
        self.requests.swap(bytes);
    }

    /// What was pushed since the last [`clear`](Self::clear).
    pub(crate) fn bytes(&self) -> &[u8] {
        self.requests.bytes()
    }

    pub(crate) fn clear(&mut self) {
        self.requests.clear();
    }

    /// Begins the call of a script with this many keys: that of the lock, then those beside it.
    fn begin(&mut self, script: &Script, form: Form, key: &str, keys: usize, arguments: usize) {
        self.requests.begin(3 + keys + arguments);
        self.requests.words(script.words(form));
        self.requests.number(keys as u64);
        self.requests.packed(self.keys.of(key, keys));
    }

    /// Appends the release of a record that probably has no mark.
    fn release(&mut self, record: Record<'_>, form: Form) {
        match self.deletes {
            Deletes::Unknown => {
                self.begin(&RELEASE, form, record.key, 1, 4);
                self.record(record);
                self.requests.word(&[]);
                self.requests.word(&[]);
                self.requests.word(&["deletes"]);
                return;
            }
            Deletes::ByScript => self.begin(&RELEASE, form, record.key, 1, 1),
            Deletes::Delifeq => {
                self.requests.begin(3);
                self.requests.word(&["DELIFEQ"]);
                self.requests.packed(self.keys.of(record.key, 1));
            }
            Deletes::Delex => {
                self.requests.begin(4);
                self.requests.word(&["DELEX"]);
                self.requests.packed(self.keys.of(record.key, 1));
                self.requests.word(&["IFEQ"]);
            }
        }
        self.record(record);
    }

    fn record(&mut self, record: Record<'_>) {
        self.write(record.owner);
        let mut sequence = itoa::Buffer::new();
        let sequence = sequence.format(record.sequence);
        let (owner, holder) = (&*self.owner, record.holder);
        match record.process {
            Some(process) => {
                let parts = [owner, " ", sequence, "@", process, " ", holder];
                self.requests.word(&parts);
            }
            None => self.requests.word(&[owner, " ", sequence, " ", holder]),
        }
    }

    fn write(&mut self, owner: OwnerToken) {
        self.owner.clear();
        owner.push_to(&mut self.owner);
    }
}

impl PackedKeys {
    const COUNT: usize = 4;
    /// The braces put them into the lock's slot of a cluster.
    const BESIDE: [&str; 3] = ["}:fence", "}:queue", "}:heartbeats"];

    /// The first `count` of the keys of a lock.
    fn of(&mut self, lock: &str, count: usize) -> &[u8] {
        if self.packed.bytes().is_empty() || self.lock != lock {
            lock.clone_into(&mut self.lock);
            self.packed.clear();
            self.packed.word(&[lock]);
            self.ends[0] = self.packed.bytes().len();
            for (name, end) in Self::BESIDE.iter().zip(&mut self.ends[1..]) {
                self.packed.word(&["{", lock, name]);
                *end = self.packed.bytes().len();
            }
        }
        let end = count.checked_sub(1).map_or(0, |last| self.ends[last]);
        &self.packed.bytes()[..end]
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
            let mut parser = crate::wire::Parser::default();
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

    /// The words of a request with all keys of `key`.
    fn expected(name: &str, key: &str, arguments: &[&str]) -> Vec<String> {
        with_keys(4, name, key, arguments)
    }

    /// The same with only the first `count` of them.
    fn with_keys(count: usize, name: &str, key: &str, arguments: &[&str]) -> Vec<String> {
        let beside = |name: &str| format!("{{{key}}}:{name}");
        let keys = [
            key.to_owned(),
            beside("fence"),
            beside("queue"),
            beside("heartbeats"),
        ];
        let arguments = arguments.iter().map(ToString::to_string);
        [name.to_owned(), count.to_string()]
            .into_iter()
            .chain(keys.into_iter().take(count))
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
            let acquire = |process, queues| Call::Acquire {
                claim: &claim,
                ttl: Duration::from_micros(1_500),
                process,
                queues,
                again: false,
                keys: Keys::Few,
            };
            let release = |process| Call::Release {
                record: Record {
                    key,
                    owner,
                    sequence: 12,
                    process,
                    holder: "who holds it",
                },
                keys: Keys::Few,
            };
            let record = format!("{} 0 who holds it", claim.owner());
            let named = format!("{} 0@abc who holds it", claim.owner());
            let extended = format!("{owner} 12 who holds it");
            let extended_there = format!("{owner} 12@abc who holds it");
            let now = (NOT_AFTER / 1000).to_string();
            let process = "abc";
            let leave = Call::Leave {
                key,
                owner,
                process,
            };
            let give_back = Call::GiveBack {
                key,
                owner,
                process,
            };
            let heartbeat = |asks, last| Call::Heartbeat {
                key,
                process,
                asks,
                last,
            };
            let last = Some(owner);
            let owner = owner.to_string();

            let mut sent = |call: Call<'_>, form, expected| {
                packer.push(call, form, NOT_AFTER);
                right.push(expected);
            };
            let acquires = [
                (acquire(None, false), 2, &record, [].as_slice()),
                (acquire(Some("abc"), false), 2, &named, &[]),
                (acquire(Some("abc"), true), 4, &named, &["abc"]),
                (acquire(None, false).once_more(), 2, &record, &["", "again"]),
                (
                    acquire(Some("abc"), true).once_more(),
                    4,
                    &named,
                    &["abc", "again"],
                ),
                (acquire(None, false).with_all_keys(), 4, &record, &[]),
            ];
            for (call, keys, record, more) in acquires {
                let arguments = [&[&**record, "2", &*now], more].concat();
                let expected = |name| with_keys(keys, name, key, &arguments);
                sent(call, Form::Hash, expected("EVALSHA"));
                sent(call, Form::Text, expected("EVAL"));
            }
            for (call, keys, record) in [
                (release(None), 1, &extended),
                (release(Some("abc")), 1, &extended_there),
                (release(None).with_all_keys(), 4, &extended),
            ] {
                let arguments = match keys {
                    1 => &[&**record, "", "", "deletes"][..],
                    _ => &[&**record],
                };
                sent(call, Form::Hash, with_keys(keys, "EVALSHA", key, arguments));
            }
            packer.push(leave, Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &[&owner, "abc"]));
            packer.push(give_back, Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &[&owner, "abc", "handed"]));
            packer.push(heartbeat(false, None), Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &["abc", "0"]));
            packer.push(heartbeat(true, last), Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &["abc", "1", &owner]));
            packer.push(Call::Holder(key), Form::Hash, NOT_AFTER);
            let fence = format!("{{{key}}}:fence");
            right.push(["EVALSHA", "2", key, &fence].map(String::from).to_vec());
            let seventeen = FencingToken::new(17);
            packer.push(Call::Break(key, seventeen), Form::Hash, NOT_AFTER);
            right.push(expected("EVALSHA", key, &["17"]));
            packer.push(Call::TakeBack(&claim, seventeen), Form::Hash, NOT_AFTER);
            let claimant = claim.owner().to_string();
            right.push(expected("EVALSHA", key, &["17", &claimant]));
        }
        assert_eq!(words(&packer), right);
        packer.clear();
        assert!(packer.bytes().is_empty());
    }

    #[test]
    fn a_fence_is_kept_for_as_long_as_was_asked_and_for_twice_a_time_to_live() {
        let claim = claim("dlock:a");
        let day = Duration::from_secs(86_400);
        let kept = |keep: Option<Duration>, ttl, again| {
            let mut packer = Packer::default();
            if let Some(keep) = keep {
                packer.keep_fences_for(keep);
            }
            let call = Call::Acquire {
                claim: &claim,
                ttl,
                process: None,
                queues: false,
                again,
                keys: Keys::Few,
            };
            packer.push(call, Form::Hash, NOT_AFTER);
            words(&packer)[0].get(7..).unwrap_or_default().to_vec()
        };
        let nothing: [&str; 0] = [];
        assert_eq!(kept(None, MINUTE, false), nothing);
        assert_eq!(kept(Some(FENCE_KEEP), FENCE_KEEP / 2, false), nothing);
        assert_eq!(kept(None, day * 4, false), ["", "", "691200000"]);
        assert_eq!(kept(Some(day), MINUTE, false), ["", "", "86400000"]);
        assert_eq!(kept(Some(day), day, true), ["", "again", "172800000"]);
    }

    #[test]
    fn a_record_without_a_mark_is_deleted_as_the_server_can() {
        let claim = claim("dlock:a");
        let record = Record {
            key: "dlock:a",
            owner: claim.owner(),
            sequence: 3,
            process: Some("abc"),
            holder: "who holds it",
        };
        let text = format!("{} 3@abc who holds it", claim.owner());
        let few = Keys::Few;
        let call = Call::Release { record, keys: few };
        let written = |deletes| {
            let mut packer = Packer {
                deletes,
                ..Packer::default()
            };
            packer.push(call, Form::Hash, NOT_AFTER);
            let mut parser = crate::wire::Parser::default();
            let request = parser.reply(packer.bytes()).unwrap();
            redis::from_redis_value::<Vec<String>>(request).unwrap()
        };
        assert_eq!(
            written(Deletes::Delifeq),
            ["DELIFEQ", "dlock:a", &text].map(String::from)
        );
        let delex = ["DELEX", "dlock:a", "IFEQ", &text];
        assert_eq!(written(Deletes::Delex), delex.map(String::from));
        assert_eq!(written(Deletes::ByScript)[2..], ["1", "dlock:a", &text]);

        for (deletes, kind) in [
            (Deletes::Unknown, Kind::Free),
            (Deletes::ByScript, Kind::Free),
            (Deletes::Delifeq, Kind::Delete),
            (Deletes::Delex, Kind::Delete),
        ] {
            assert_eq!(call.kind_with(deletes), kind);
            let all = call.with_all_keys();
            assert_eq!(all.kind_with(deletes), Kind::Free, "a script");
        }
    }

    #[test]
    fn an_extend_names_the_queue_only_if_it_may_end_within_a_heartbeat() {
        let lease = Lease::new(claim("dlock:a"), Grant::new(MINUTE)).for_call(7, Time::MAX);
        let owner = lease.owner().to_string();
        let now = NOT_AFTER.to_string();
        let arguments = |ttl| [&*owner, "who holds it", ttl, &*now, "7"];

        let mut packer = Packer::default();
        let short = HEARTBEAT_EVERY - Duration::from_millis(1);
        packer.push(Call::Extend(&lease, short), Form::Hash, NOT_AFTER);
        packer.push(Call::Extend(&lease, HEARTBEAT_EVERY), Form::Hash, NOT_AFTER);
        let mut long = vec!["EVALSHA", "1", "dlock:a"];
        long.extend(arguments("1000"));
        let right = [
            expected("EVALSHA", "dlock:a", &arguments("999")),
            long.into_iter().map(String::from).collect(),
        ];
        assert_eq!(words(&packer), right);
    }

    #[test]
    fn the_replicas_are_asked_for_behind_what_they_shall_have() {
        let mut packer = Packer::default();
        packer.push(Call::Holder(""), Form::Hash, NOT_AFTER);
        let before = packer.bytes().len();
        packer.push_wait(2, 100);
        let wait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$3\r\n100\r\n";
        assert_eq!(&packer.bytes()[before..], wait.as_bytes());
    }

    #[test]
    fn a_time_to_live_is_rounded_up() {
        assert_eq!(millis_up(Duration::ZERO), 0);
        assert_eq!(millis_up(Duration::from_nanos(1)), 1);
        assert_eq!(millis_up(Duration::from_millis(10)), 10);
        assert_eq!(millis_up(Duration::MAX), u64::MAX);
    }
}
