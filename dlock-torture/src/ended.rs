//! How a command ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use dlock_core::Time;

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) at: Time,
    /// The exit status, or the reason why it had to be killed.
    pub(crate) status: Result<ExitStatus, String>,
}

/// The exit code, or 128 plus the signal, as in a shell.
pub(crate) fn code(status: ExitStatus) -> i32 {
    let signal = status.signal().map_or(0, |signal| 128 + signal);
    status.code().unwrap_or(signal)
}
