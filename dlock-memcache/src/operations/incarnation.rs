//! Identifies the run of the server process that a connection leads to.

use dlock_core::{DatastoreError, ErrorKind, FencingToken};

use crate::error::Problem;

/// The bits of a fencing token for the CAS numbers of one second. If all clients together store
/// fewer than 2^22, four million, keys a second on average, the tokens of a run never reach those
/// of a run that starts in a later second.
const CAS_BITS: u32 = 22;
/// 2020-01-01. Counted from here, a token stays below 2^53 until 2088, so that JavaScript, JSON and
/// floats keep it exactly.
pub const EPOCH: u64 = 1_577_836_800;

/// One run of the server process. CAS numbers start again at 1 with the next run, so a number means
/// something only together with its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation {
    /// Its process id.
    pub pid: u64,
    /// The second in which it started, by the server's clock.
    pub start: u64,
}

impl Incarnation {
    /// Returns whether its start gives tokens: it must be after the zero point of tokens.
    pub fn has_tokens(self) -> bool {
        self.start > EPOCH
    }

    /// The fencing token of the grant with the CAS number `cas`. The two parts are added: if the
    /// number ever exceeds its share of bits, the tokens of this run still rise.
    pub fn fence(self, peer: &str, cas: u64) -> Result<FencingToken, DatastoreError> {
        let since_epoch = self.start.saturating_sub(EPOCH);
        since_epoch
            .checked_mul(1 << CAS_BITS)
            .and_then(|share| share.checked_add(cas))
            .map(FencingToken::new)
            .ok_or_else(|| {
                let peer = peer.to_owned();
                DatastoreError::maybe_executed(ErrorKind::Protocol, Problem::FenceOverflow { peer })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_rise_within_a_run_of_the_server_and_from_run_to_run() {
        let first = Incarnation {
            pid: 1,
            start: 1_800_000_000,
        };
        let second = Incarnation {
            pid: 1,
            start: 1_800_000_001,
        };
        let fence = |incarnation: Incarnation, cas| incarnation.fence("x", cas).unwrap();
        assert!(fence(first, 1) < fence(first, 2));
        assert!(fence(first, (1 << CAS_BITS) - 1) < fence(second, 0));
        assert!(fence(first, 1 << CAS_BITS) < fence(first, (1 << CAS_BITS) + 1));
    }

    #[test]
    fn tokens_are_numbers_that_a_float_keeps_exactly() {
        // The last second of 2087, and a server that has stored four million keys a second for ten
        // days.
        let late = Incarnation {
            pid: 1,
            start: 3_723_753_599 - 10 * 86_400,
        };
        let token = late
            .fence("x", 10 * 86_400 * ((1 << CAS_BITS) - 1))
            .unwrap();
        assert!(token.get() < 1 << 53, "{token}");
    }

    #[test]
    fn a_token_that_would_overflow_is_an_error() {
        let now = Incarnation {
            pid: 1,
            start: 1_800_000_000,
        };
        assert!(now.fence("x", u64::MAX).is_err());
        let absurd = Incarnation {
            pid: 1,
            start: u64::MAX / 2,
        };
        assert!(absurd.fence("x", 1).is_err());
    }
}
