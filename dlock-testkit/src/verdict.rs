//! What a case of the suite found.

use std::process::{ExitCode, Termination};

/// What a case of the suite found. A broken promise is not a verdict but a panic that names the law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a case may not apply to the store"]
pub enum Verdict {
    /// The store kept the promise.
    Kept,
    /// The store declares that it does not promise this; the text says so. The case has shown that the declaration is true, as far
    /// as that can be shown.
    NotApplicable(&'static str),
}

/// Both verdicts are a success of the `#[test]` function that returns them; the reason shows with `--nocapture`.
impl Termination for Verdict {
    fn report(self) -> ExitCode {
        if let Verdict::NotApplicable(reason) = self {
            // The text belongs to the test's captured output.
            #[allow(clippy::print_stdout)]
            {
                println!("not applicable: {reason}");
            }
        }
        ExitCode::SUCCESS
    }
}
