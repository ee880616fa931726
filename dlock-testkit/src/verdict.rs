//! What a case of the suite found.

use std::process::{ExitCode, Termination};

/// The result of a case of the suite. A broken promise is not a verdict but a panic that names the
/// law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a case may not apply to the store"]
pub enum Verdict {
    /// The store kept the promise.
    Kept,
    /// The store declares that it does not promise this; the text says so. The case has tested the
    /// declaration as far as possible.
    NotApplicable(&'static str),
}

/// Both verdicts are a success of the `#[test]` function. The summary at the end of a run lists the
/// cases that do not apply, with the reasons.
impl Termination for Verdict {
    fn report(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}
