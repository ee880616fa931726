//! Measures dlock beside the bare wire and beside other libraries.

use std::process::ExitCode;

fn main() -> ExitCode {
    dlock_bench::main()
}
