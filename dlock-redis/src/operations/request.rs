//! Requests as bytes.

use std::time::Duration;

use dlock_core::OwnerToken;

use super::call::{Call, Keys, Listing, Record};
use super::scripts::{ACQUIRE, BREAK, EXTEND, Form, HOLDER, LIST, LOOK, RELEASE, Script, WAITING};
use super::{Deletes, HEARTBEAT_EVERY};
use crate::wire::Requests;

/// How long acquire.lua keeps a fence unless a claim says otherwise.
pub(crate) const FENCE_KEEP: Duration = Duration::from_secs(7 * 86_400);

/// How many keys the server looks at for one page: few enough for the longest reply that is read,
/// and for the server, which does nothing else meanwhile.
const LOOKED_AT: u64 = 100;

/// Packs requests. Its buffers are kept, so that a warm one allocates nothing.
#[derive(Default)]
pub(crate) struct Packer {
    requests: Requests,
    /// The digits of the latest owner: a release names that of its acquire.
    owner: String,
    /// Whose digits they are.
    written: Option<OwnerToken>,
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
                let keys = match queued_in {
                    None => PackedKeys::with_fence(keys),
                    Some(_) => PackedKeys::COUNT,
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
            Call::Break(key, fence, keys) => {
                self.begin(&BREAK, form, key, PackedKeys::with_fence(keys), 1);
                self.requests.number(fence.get());
            }
            Call::TakeBack(claim, fence, keys) => {
                self.begin(&BREAK, form, claim.key(), PackedKeys::with_fence(keys), 2);
                self.requests.number(fence.get());
                self.write(claim.owner());
                self.requests.word(&[&self.owner]);
            }
        }
    }

    /// Appends the question how many replicas have acknowledged what stands before it, which the
    /// server answers when they are enough, or after this time in ms.
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
        if self.written != Some(owner) {
            self.owner.clear();
            owner.push_to(&mut self.owner);
            self.written = Some(owner);
        }
    }
}

impl PackedKeys {
    const COUNT: usize = 4;
    /// The braces put them into the lock's slot of a cluster.
    const BESIDE: [&str; 3] = ["}:fence", "}:queue", "}:heartbeats"];

    /// How many they are for a call that cannot do without the fence.
    fn with_fence(keys: Keys) -> usize {
        match keys {
            Keys::Few => 2,
            Keys::All => Self::COUNT,
        }
    }

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
mod tests;
