//! `dlock`: runs a command while it holds a lock that many hosts share.

use std::process::ExitCode;

fn main() -> ExitCode {
    dlock_cli::main(std::env::args_os().skip(1))
}
