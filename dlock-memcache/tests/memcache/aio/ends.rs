//! Programs whose `main` returns while guards are in scope.

use dlock_net::testing::EndingProgram;

use super::*;

/// How often each program runs.
const RUNS: usize = 25;

#[test]
fn a_program_that_ends_with_guards_in_scope_leaves_no_key() {
    let program = EndingProgram::of(
        module_path!(),
        "a_program_that_ends_with_guards_in_scope_leaves_no_key",
        |url| MemcacheDatastore::open(url).unwrap(),
    );
    for (kind, guards) in [(0, 1), (1, 1), (0, 3), (1, 3)] {
        for _ in 0..RUNS {
            let keys: Vec<_> = (0..guards).map(|_| key("aio-ends")).collect();
            let ids: Vec<_> = keys.iter().map(|key| &key["dlock:".len()..]).collect();
            program.run(&server().url(), kind, &ids);
            // The server reads what the program wrote, though the program is gone.
            for key in keys {
                current_thread().block_on(until("the lock is free", || {
                    value(server(), &key).is_none()
                }));
            }
        }
    }
}
