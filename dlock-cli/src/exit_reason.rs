//! An exit code that is not the command's, and why.

use crate::message::report;

/// An exit code that is not the command's, and why.
#[derive(Debug)]
pub(crate) struct ExitReason {
    pub(crate) code: u8,
    pub(crate) message: Option<String>,
}

impl ExitReason {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        ExitReason {
            code,
            message: Some(message.into()),
        }
    }

    /// A caller that replaced the exit code by 0 does not want a message either: cron sends a mail
    /// for every line.
    pub(crate) fn unless_zero(code: u8, message: impl Into<String>) -> Self {
        ExitReason {
            code,
            message: (code != 0).then(|| message.into()),
        }
    }

    /// Prints the message, if there is one. Returns the exit code.
    pub(crate) fn reported(self) -> u8 {
        if let Some(message) = self.message {
            report(message);
        }
        self.code
    }
}
