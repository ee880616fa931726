//! Which life of the server a connection talks to.

use dlock_core::{DatastoreError, ErrorKind, FencingToken};

use crate::error::Problem;

/// CAS numbers below this many per second of a server's life never reach the next second's fencing tokens.
const CAS_BITS: u32 = 24;

/// One run of the server process: CAS numbers start again at 1 with the next, so a number means something only together with
/// the life that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// Its process id.
    pub(crate) pid: u64,
    /// The second in which it started, by its own clock.
    pub(crate) start: u64,
}

impl Life {
    /// The fencing token of the grant that the server numbered `cas`. Added rather than put side by side: should a life
    /// ever count past its second's share, its tokens still rise.
    pub(crate) fn fence(self, peer: &str, cas: u64) -> Result<FencingToken, DatastoreError> {
        self.start
            .checked_shl(CAS_BITS)
            .filter(|shifted| shifted >> CAS_BITS == self.start)
            .and_then(|shifted| shifted.checked_add(cas))
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
    fn tokens_rise_within_a_life_and_from_life_to_life() {
        let first = Life {
            pid: 1,
            start: 1_800_000_000,
        };
        let second = Life {
            pid: 1,
            start: 1_800_000_001,
        };
        let fence = |life: Life, cas| life.fence("x", cas).unwrap();
        assert!(fence(first, 1) < fence(first, 2));
        assert!(fence(first, (1 << CAS_BITS) - 1) < fence(second, 0));
        assert!(fence(first, 1 << CAS_BITS) < fence(first, (1 << CAS_BITS) + 1));
    }

    #[test]
    fn a_token_that_would_overflow_is_an_error() {
        let now = Life {
            pid: 1,
            start: 1_800_000_000,
        };
        assert!(now.fence("x", u64::MAX).is_err());
        let absurd = Life {
            pid: 1,
            start: u64::MAX / 2,
        };
        assert!(absurd.fence("x", 1).is_err());
    }
}
