//! A request by one owner to hold a key.

use std::fmt;
use std::str;
use std::sync::Arc;
use std::time::Duration;

use crate::ProcessId;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::holder::Holder;
use crate::contract::holder::Phase;
use crate::time::clock::Clock;
use crate::time::instant::Time;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The identity of a lock's owner in the store: 128 random bits, fresh for each acquisition.
///
/// The bits come from the operating system each time. A generator in the process would be copied by
/// `fork`: parent and child would draw the same token, and, since claims are idempotent, both would
/// hold the lock.
///
/// [`Display`](fmt::Display) prints the whole token (32 hex digits) for a store to keep.
/// [`Debug`](fmt::Debug) prints only its start, since a process that knows the token can release
/// the lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerToken(u128);

impl OwnerToken {
    /// A token that no other acquisition has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the operating system has no random numbers.
    pub fn random() -> Result<Self, DatastoreError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            DatastoreError::not_executed(ErrorKind::Refused, format!("no random numbers: {error}"))
        })?;
        Ok(OwnerToken(u128::from_ne_bytes(bytes)))
    }

    /// 64 of its bits, to seed the jitter.
    pub(crate) fn low_bits(self) -> u64 {
        u64::try_from(self.0 & u128::from(u64::MAX)).unwrap_or(0)
    }

    /// Appends the 32 hex digits that [`Display`](fmt::Display) prints. Every call to a server
    /// writes its token, and `write!` would cost more.
    pub fn push_to(self, text: &mut String) {
        text.push_str(str::from_utf8(&self.digits()).unwrap_or_default());
    }

    /// `{:032x}` would take four times as long.
    fn digits(self) -> [u8; 32] {
        let mut hex = [0; 32];
        for (digits, byte) in hex.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            digits[0] = HEX[usize::from(byte >> 4)];
            digits[1] = HEX[usize::from(byte & 15)];
        }
        hex
    }

    /// Reads what [`Display`](fmt::Display) wrote; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(OwnerToken)
    }
}

impl fmt::Display for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Hex digits are always valid UTF-8, so the default is never used.
        f.write_str(str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerToken({:06x}…)", self.0 >> 104)
    }
}

/// A request by one owner to hold a key.
///
/// Core creates claims, adapters read them. [`Claim::new`] is public for tests of adapters.
#[derive(Clone, Debug)]
pub struct Claim {
    key: Arc<str>,
    owner: OwnerToken,
    holder: Arc<str>,
    clock: Clock,
    not_after: Time,
    deadline: Option<Time>,
}

impl Claim {
    /// A claim by this process with a fresh owner token, for a call that ends `call_timeout` from
    /// now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the operating system has no random numbers.
    pub fn new(
        key: impl Into<Arc<str>>,
        clock: &Clock,
        call_timeout: Duration,
    ) -> Result<Self, DatastoreError> {
        let holder =
            Holder::text_of_this_process(ProcessId::current(), None, Phase::Running).into();
        let not_after = clock.now().saturating_add(call_timeout);
        let owner = OwnerToken::random()?;
        Ok(Self::by(owner, holder, key.into(), clock, not_after))
    }

    /// A claim by `owner`, described by `holder`, whose call ends at `not_after`.
    #[doc(hidden)]
    pub fn by(
        owner: OwnerToken,
        holder: Arc<str>,
        key: Arc<str>,
        clock: &Clock,
        not_after: Time,
    ) -> Self {
        Claim {
            key,
            owner,
            holder,
            clock: clock.clone(),
            not_after,
            deadline: None,
        }
    }

    /// The same claim with another holder description.
    #[must_use]
    pub fn with_holder(mut self, text: impl Into<Arc<str>>) -> Self {
        self.holder = text.into();
        self
    }

    /// The same claim by this owner, for tests of how adapters compare owners. In production core
    /// draws a fresh owner for each acquisition: only that keeps two acquisitions from holding one
    /// key.
    #[doc(hidden)]
    #[must_use]
    pub fn owned_by(mut self, owner: OwnerToken) -> Self {
        self.owner = owner;
        self
    }

    /// The same claim for a call that ends at `not_after`.
    #[must_use]
    pub fn with_not_after(mut self, not_after: Time) -> Self {
        self.not_after = not_after;
        self
    }

    /// Turns it into the claim of a call that ends at `not_after`.
    pub(crate) fn set_not_after(&mut self, not_after: Time) {
        self.not_after = not_after;
    }

    /// The same claim by a caller that waits until `deadline` if it is refused.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Time) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The key: 1 to [`max_key`](crate::Characteristics::max_key) bytes of printable ASCII without
    /// space or braces.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn shared_key(&self) -> &Arc<str> {
        &self.key
    }

    /// The owner that claims.
    pub fn owner(&self) -> OwnerToken {
        self.owner
    }

    /// Text about the holder for processes that are refused: opaque, at most [`Holder::MAX_TEXT`]
    /// bytes of printable ASCII and spaces. A store keeps it with the key and passes it to
    /// [`HeldBy::with_holder_text`](crate::HeldBy::with_holder_text) when it refuses.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    pub(crate) fn shared_holder(&self) -> &Arc<str> {
        &self.holder
    }

    /// The end of *this call* on [`clock`](Self::clock): it must return by then, and must have no
    /// effect after.
    pub fn not_after(&self) -> Time {
        self.not_after
    }

    /// How long this call may still take, until [`not_after`](Self::not_after).
    pub fn time_left(&self) -> Duration {
        self.clock.now().until(self.not_after)
    }

    /// The end of the caller's wait for the key, over as many calls as it takes; `None` if the
    /// caller only tries once. A store with a queue needs it.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// The clock of the claim's times. Its readings mean nothing after a restart of the machine:
    /// see [`Time`].
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_survive_the_round_trip() {
        let (a, b) = (OwnerToken::random().unwrap(), OwnerToken::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(OwnerToken::from_hex(&a.to_string()), Some(a));
        for number in [a.0, 0xab, u128::MAX] {
            assert_eq!(OwnerToken(number).to_string(), format!("{number:032x}"));
        }
        for text in [
            "",
            "zz",
            "+0000000000000000000000000000001",
            &a.to_string().to_uppercase().replace('0', "A"),
        ] {
            assert_eq!(OwnerToken::from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn debug_does_not_show_the_whole_token() {
        let claim = Claim::new("dlock:x", &Clock::BOOTTIME, Duration::from_secs(1)).unwrap();
        assert!(!format!("{claim:?}").contains(&claim.owner().to_string()));
        let owner = OwnerToken(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(format!("{owner:?}"), "OwnerToken(012345…)");
    }

    #[test]
    fn the_jitter_of_a_claim_starts_at_its_own_bits() {
        assert_eq!(OwnerToken((7 << 64) | 42).low_bits(), 42);
    }

    #[test]
    fn a_claim_keeps_what_was_set() {
        let clock = crate::time::fake_clock::FakeClock::new().clock();
        let second = Duration::from_secs(1);
        let claim = Claim::new("dlock:x", &clock, second).unwrap();
        assert!(Holder::from_text(claim.holder()).is_some_and(|holder| holder.is_this_process()));
        assert_eq!((claim.key(), claim.time_left()), ("dlock:x", second));
        assert_eq!(claim.deadline(), None);
        let (end, later) = (
            clock.now().saturating_add(second * 2),
            clock.now().saturating_add(second * 3),
        );
        let set = claim
            .clone()
            .with_holder("me")
            .with_not_after(end)
            .with_deadline(later);
        assert_eq!((set.owner(), set.holder()), (claim.owner(), "me"));
        assert_eq!((set.not_after(), set.time_left()), (end, second * 2));
        assert_eq!(set.deadline(), Some(later));
        assert_eq!(set.clock().now(), clock.now());
    }
}
