//! The exit codes of `dlock run`, and those that other verbs have of their own.
//!
//! The numbers follow `sysexits.h` and the shells. The command may use the same numbers, so flags
//! can replace [`HELD`], [`DONE`], [`UNREACHABLE`] and [`LOST`]. Messages of dlock itself on
//! standard error begin with `dlock: `.
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

/// `dlock doctor` has found what can do harm together with something else, or could not check it.
pub const DOCTOR_WARNING: u8 = 1;

/// `dlock doctor` has found what can give a lock to two holders, or keeps locks from being
/// acquired. Also if the store cannot be used.
pub const DOCTOR_DANGER: u8 = 2;

/// The command line is wrong, or this store does not accept a value in it.
pub const USAGE: u8 = 64;

/// The store cannot be used: it cannot be reached, does not answer in time, or declines, or no
/// thread could be started for it. The command was not started. `--unreachable-exit-code` replaces
/// it.
pub const UNREACHABLE: u8 = 69;

/// The lease was lost before the command ended. dlock ended the command if it could.
/// `--lost-exit-code` replaces it.
pub const LOST: u8 = 70;

/// The system was out of a resource that dlock needs: a descriptor or a process. The command was
/// not started. Also if what a verb prints could not be written, to a full disk for example.
pub const SYSTEM: u8 = 71;

/// Somebody else held the lock for longer than `--wait`. The command was not started.
/// `--conflict-exit-code` replaces it.
pub const HELD: u8 = 75;

/// The job of `--once` is done already. The command was not started. `--done-exit-code` replaces
/// it.
pub const DONE: u8 = HELD;

/// The command ran for longer than `--max-hold`, and dlock ended it. `timeout(1)` uses the same
/// code.
pub const MAX_HOLD: u8 = 124;

/// The command was found but cannot be executed. Shells use the same code.
pub const CANNOT_EXECUTE: u8 = 126;

/// The command was not found. Shells use the same code.
pub const NOT_FOUND: u8 = 127;

/// The base of the codes for signals: if signal n ended the command, or the wait for the lock, the
/// exit code is `128 + n`.
pub const SIGNAL_BASE: u8 = 128;

/// `128 + n` for signal `n`.
pub fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal)
        .ok()
        .and_then(|signal| SIGNAL_BASE.checked_add(signal))
        .unwrap_or(u8::MAX)
}
