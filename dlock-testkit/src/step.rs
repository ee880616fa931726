//! The steps of a random run, and how one ends early.

use crate::case::Law;

/// One call, or an event between calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// A claim, or the repeat of a claim.
    Claim(ClaimantIndex, KeyIndex, Span),
    Extend(ClaimantIndex, KeyIndex, Span, Order, Age),
    /// An extend, in one batch, of all keys that the claimant was ever granted.
    ExtendAll(ClaimantIndex, Span, Order),
    Release(ClaimantIndex, KeyIndex, Age),
    /// The claim is abandoned, whatever its outcome.
    Abandon(ClaimantIndex, KeyIndex),
    Confirm(ClaimantIndex, KeyIndex),
    /// An operator inspects the key.
    Inspect(ClaimantIndex, KeyIndex),
    /// The claimant's handle is closed and opened again.
    Reopen(ClaimantIndex),
    /// Time passes until all short leases are over.
    Pass,
}

impl Step {
    /// The law that is most likely broken by a wrong answer to this call.
    pub(crate) fn law(&self) -> Law {
        match self {
            Step::Claim(..) => Law::Held,
            Step::Extend(..) | Step::ExtendAll(..) => Law::Extend,
            Step::Release(..) => Law::Own,
            Step::Abandon(..) => Law::Clean,
            Step::Confirm(..) | Step::Inspect(..) | Step::Reopen(_) => Law::Declared,
            Step::Pass => Law::Expiry,
        }
    }
}

/// A claimant, by number.
pub(crate) type ClaimantIndex = usize;
/// A key, by number.
pub(crate) type KeyIndex = usize;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Span {
    /// Ends during the case.
    Short,
    /// Does not end during the case.
    Long,
    /// Twice as long.
    Longest,
}

/// Whether an extend is the newest one or a late copy, by its number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    Next,
    /// This many before the newest.
    Late(u64),
}

/// The grant that the claimant passes back to the store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Age {
    First,
    Latest,
}

/// Why a run ended early.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The store's answer differs from the model's.
    Differs(String),
    /// A short lease may have ended during a call, so the run proves nothing.
    TooSlow,
}

pub(crate) type StepResult<T = ()> = Result<T, Ended>;

pub(crate) fn differs<T>(how: String) -> StepResult<T> {
    Err(Ended::Differs(how))
}
