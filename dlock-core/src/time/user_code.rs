//! Runs code that is not dlock's: callbacks, observers, wakers of executors.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of the user, which may panic, also when what it leaves behind is dropped. The panic
/// ends here: its message was printed by the panic hook of the program.
pub(crate) fn contained(code: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
        // The payload may be anything, and panic in turn.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    }
}
