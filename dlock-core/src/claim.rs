//! One wish to hold a key.

use std::fmt;
use std::process;
use std::str;
use std::sync::Arc;
use std::time::Duration;

use crate::holder::Phase;
use crate::{Clock, DatastoreError, ErrorKind, Holder, Time};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Who owns a lock, as the store sees it: 128 random bits, fresh for each acquisition.
///
/// They come from the operating system each time. A generator kept in the process would be copied by `fork`, parent
/// and child would draw the same token and, claims being idempotent, both would hold the lock.
///
/// [`Display`](fmt::Display) gives all of it (32 hex digits) for a store to keep; [`Debug`](fmt::Debug) only its start, since whoever
/// knows a token can release the lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerToken(u128);

impl OwnerToken {
    /// A token that nobody has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the operating system has no randomness to give.
    pub fn random() -> Result<Self, DatastoreError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            DatastoreError::not_executed(ErrorKind::Refused, format!("no random numbers: {error}"))
        })?;
        Ok(OwnerToken(u128::from_ne_bytes(bytes)))
    }

    /// Some of its bits, where any number will do.
    pub(crate) fn low_bits(self) -> u64 {
        u64::try_from(self.0 & u128::from(u64::MAX)).unwrap_or(0)
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
        // By hand, as every claim is written out: `{:032x}` takes four times as long.
        let mut hex = [0; 32];
        for (digits, byte) in hex.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            digits[0] = HEX[usize::from(byte >> 4)];
            digits[1] = HEX[usize::from(byte & 15)];
        }
        f.write_str(str::from_utf8(&hex).unwrap_or_default())
    }
}

impl fmt::Debug for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerToken({:06x}…)", self.0 >> 104)
    }
}

/// One wish to hold a key.
///
/// An adapter reads it; core makes it. [`Claim::new`] is public for tests of adapters.
#[derive(Clone, Debug)]
pub struct Claim {
    key: Arc<str>,
    owner: OwnerToken,
    holder: Arc<str>,
    clock: Clock,
    not_after: Time,
    waits_until: Option<Time>,
}

impl Claim {
    /// A claim with a fresh owner token, held by this process, whose call ends `call_timeout` from now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the operating system has no randomness to give.
    pub fn new(
        key: impl Into<Arc<str>>,
        clock: &Clock,
        call_timeout: Duration,
    ) -> Result<Self, DatastoreError> {
        let holder = Holder::text_of_this_process(process::id(), None, Phase::Running).into();
        let not_after = clock.now().saturating_add(call_timeout);
        Self::by(holder, key.into(), clock, not_after)
    }

    /// The same, described by `holder`, whose call ends at `not_after`.
    pub(crate) fn by(
        holder: Arc<str>,
        key: Arc<str>,
        clock: &Clock,
        not_after: Time,
    ) -> Result<Self, DatastoreError> {
        Ok(Claim {
            key,
            owner: OwnerToken::random()?,
            holder,
            clock: clock.clone(),
            not_after,
            waits_until: None,
        })
    }

    /// The same claim with another holder description.
    #[must_use]
    pub fn with_holder(mut self, text: impl Into<Arc<str>>) -> Self {
        self.holder = text.into();
        self
    }

    /// The same claim for a call that ends at `not_after`.
    #[must_use]
    pub fn until(mut self, not_after: Time) -> Self {
        self.not_after = not_after;
        self
    }

    /// The same claim by a caller who waits until `until` if it is refused.
    #[must_use]
    pub fn waiting_until(mut self, until: Time) -> Self {
        self.waits_until = Some(until);
        self
    }

    /// The key: 1 to [`max_key`](crate::Characteristics::max_key) bytes of printable ASCII without space or braces.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn shared_key(&self) -> &Arc<str> {
        &self.key
    }

    /// Who claims.
    pub fn owner(&self) -> OwnerToken {
        self.owner
    }

    /// What a refusal of others shall say of the holder: opaque text of at most [`Holder::MAX_TEXT`] bytes of printable
    /// ASCII and spaces. Store it with the key, give it to [`Held::with_holder_text`](crate::Held::with_holder_text).
    pub fn holder(&self) -> &str {
        &self.holder
    }

    pub(crate) fn shared_holder(&self) -> &Arc<str> {
        &self.holder
    }

    /// The end of *this call* on [`clock`](Self::clock): it must have returned by then, and must have no effect after.
    pub fn not_after(&self) -> Time {
        self.not_after
    }

    /// How long this call may still take.
    pub fn time_left(&self) -> Duration {
        self.clock.now().until(self.not_after)
    }

    /// Until when the caller waits for the key, over as many calls as it takes; `None` if it only tries. For queues.
    pub fn waits_until(&self) -> Option<Time> {
        self.waits_until
    }

    /// The clock that the claim's times are read on. What it shows means nothing after the machine was started again: see [`Time`].
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
    fn debug_does_not_hand_out_the_token() {
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
    fn a_claim_keeps_all_that_it_was_told() {
        let clock = crate::FakeClock::new().clock();
        let second = Duration::from_secs(1);
        let claim = Claim::new("dlock:x", &clock, second).unwrap();
        assert!(Holder::from_text(claim.holder()).is_some_and(|holder| holder.is_this_process()));
        assert_eq!((claim.key(), claim.time_left()), ("dlock:x", second));
        assert_eq!(claim.waits_until(), None);
        let (end, later) = (
            clock.now().saturating_add(second * 2),
            clock.now().saturating_add(second * 3),
        );
        let told = claim
            .clone()
            .with_holder("me")
            .until(end)
            .waiting_until(later);
        assert_eq!((told.owner(), told.holder()), (claim.owner(), "me"));
        assert_eq!((told.not_after(), told.time_left()), (end, second * 2));
        assert_eq!(told.waits_until(), Some(later));
        assert_eq!(told.clock().now(), clock.now());
    }
}
