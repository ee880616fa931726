//! What `dlock run` exits with.
//!
//! The numbers are those of `sysexits.h` and of the shells, so that a script that knows them needs no table. A command may use
//! the same numbers for itself: [`HELD`], [`DONE`], [`UNREACHABLE`] and [`LOST`] can be replaced by flags, and what dlock
//! itself says on standard error begins with `dlock: `.
//!
//! ```no_run
//! use dlock_cli::exit_code;
//! use std::process::Command;
//!
//! let status = Command::new("dlock").args(["run", "hourly-import", "--", "./import.sh"]).status()?;
//! if status.code() == Some(exit_code::HELD.into()) {
//!     println!("somebody else imports");
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

/// The command line cannot be understood, or a value in it cannot work with this store.
pub const USAGE: u8 = 64;

/// The store cannot be used: it cannot be reached, does not answer in time, or refuses. The command was not started.
/// `--unreachable-exit-code` replaces it.
pub const UNREACHABLE: u8 = 69;

/// The lease was lost before the command ended; the command was ended for it. Also: dlock itself could not go on.
/// `--lost-exit-code` replaces it.
pub const LOST: u8 = 70;

/// Somebody else holds the lock, for longer than `--wait`. The command was not started. `--conflict-exit-code` replaces it.
pub const HELD: u8 = 75;

/// The job of `--once` is done already. The command was not started. `--done-exit-code` replaces it.
pub const DONE: u8 = HELD;

/// The command was found but cannot be executed, as in shells.
pub const CANNOT_EXECUTE: u8 = 126;

/// The command was not found, as in shells.
pub const NOT_FOUND: u8 = 127;

/// What a signal adds to: a command that signal n ended gives `128 + n`, and so does a wait that signal n ended.
pub const SIGNAL_BASE: u8 = 128;

/// `128 + n` for signal `n`.
pub fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal)
        .ok()
        .and_then(|signal| SIGNAL_BASE.checked_add(signal))
        .unwrap_or(u8::MAX)
}
