//! Prints a summary of inapplicable cases at the end of a run, past the capture of the test
//! harness.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, Once, PoisonError};

use crate::Verdict;

/// The results of each suite of this process so far.
static SUITES: Mutex<BTreeMap<&'static str, Suite>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Suite {
    kept: usize,
    /// Why a case did not apply -> the names of such cases.
    not_applicable: BTreeMap<&'static str, Vec<&'static str>>,
}

/// Counts the verdict of a case for the summary at the end of the process.
pub(crate) fn count(suite: &'static str, case: &'static str, verdict: Verdict) {
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(print_at_exit);
    let mut suites = SUITES.lock().unwrap_or_else(PoisonError::into_inner);
    let suite = suites.entry(suite).or_default();
    match verdict {
        Verdict::Kept => suite.kept += 1,
        Verdict::NotApplicable(why) => suite.not_applicable.entry(why).or_default().push(case),
    }
}

/// The summary of all suites; empty if every case applied.
fn summary(suites: &BTreeMap<&'static str, Suite>) -> String {
    let mut text = String::new();
    for (name, suite) in suites {
        let skipped: usize = suite.not_applicable.values().map(Vec::len).sum();
        if skipped == 0 {
            continue;
        }
        text += &format!(
            "\n{name}: {} promises kept, {skipped} not applicable:\n",
            suite.kept
        );
        for (why, cases) in &suite.not_applicable {
            text += &format!("  {why}: {}\n", cases.join(", "));
        }
    }
    text
}

/// Prints the summary when the process exits, since no test knows that it is the last.
#[cfg(unix)]
#[allow(unsafe_code)] // The harness ends with `exit`, and nothing in std is called then.
fn print_at_exit() {
    extern "C" fn print() {
        // Do not panic here: a panic must not leave a function called from C.
        let text = SUITES.try_lock().map(|suites| summary(&suites));
        if let Ok(text) = text {
            // Write to the stream directly, since the harness captures `eprint!`.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
    // SAFETY: `print` stays for as long as the process, and `atexit` only keeps its address.
    unsafe { libc::atexit(print) };
}

#[cfg(not(unix))]
fn print_at_exit() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_did_not_apply_by_reason_and_nothing_else() {
        let mut suites: BTreeMap<&'static str, Suite> = BTreeMap::new();
        suites.entry("whole").or_default().kept = 3;
        assert_eq!(summary(&suites), "");
        let suite = suites.entry("mine").or_default();
        suite.kept = 2;
        for (why, case) in [("no queue", "b"), ("no queue", "a"), ("no look", "c")] {
            suite.not_applicable.entry(why).or_default().push(case);
        }
        assert_eq!(
            summary(&suites),
            "\nmine: 2 promises kept, 3 not applicable:\n  no look: c\n  no queue: b, a\n"
        );
    }
}
