//! Programs whose `main` returns while guards are in scope.

use std::thread;

use dlock_core::LockOptions;
use dlock_core::aio::{Lock, Store};
use dlock_net::testing::EndingProgram;
use dlock_test_servers::faults::Fault;

use super::*;
use crate::queue::{lock, waiting};

/// How often each program runs.
const RUNS: usize = 100;

#[test]
fn a_program_that_ends_with_guards_in_scope_leaves_no_key() {
    let program = EndingProgram::of(
        module_path!(),
        "a_program_that_ends_with_guards_in_scope_leaves_no_key",
        |url| RedisDatastore::open(url).unwrap(),
    );
    let server = RedisServer::start();
    // The server reads what a program wrote before it reads that the program is gone.
    let is_gone = || {
        let clients = format!("{:?}", server.command(["CLIENT", "LIST"]));
        clients.matches("id=").count() == 1
    };
    for (kind, guards) in [(0, 1), (1, 1), (0, 3), (1, 3)] {
        let ids: Vec<_> = (0..guards).map(|it| format!("import-{it}")).collect();
        let mut left = 0;
        for run_number in 0..RUNS {
            if run_number % 4 == 0 {
                // The server forgets the scripts, as after a restart.
                server.command(["SCRIPT", "FLUSH"]);
            }
            program.run(&server.url(), kind, &ids);
            support::until("the program is gone", is_gone);
            let is_left = server.keys().iter().any(|key| !key.ends_with(":fence"));
            left += usize::from(is_left);
            server.command(["FLUSHALL"]);
        }
        assert_eq!(left, 0, "runs with {guards} guards on runtime {kind}");
    }
}

/// Of a program that ends, the server may receive nothing after the first request.
#[test]
fn the_release_of_a_dropped_guard_serves_the_next_waiter_in_its_first_trip() {
    for is_warm in [false, true] {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.address());
        let store = store_behind(&proxy);
        let runtime = current_thread();
        if is_warm {
            // Its connection knows how the server deletes a record without a script.
            runtime.block_on(warm(&store));
        }
        let store = Store::new(store);
        let options = LockOptions::builder().ttl(Duration::from_secs(3600));
        let held = Lock::with_options(&store, "import", options).unwrap();
        let guard = runtime.block_on(held.acquire()).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| lock(&server).acquire_within(LONG));
            support::until("it waits", || waiting(&server) == 1);
            // Without an answer to the first trip there is no second.
            proxy.replies(Fault::Hold);
            runtime.block_on(async { drop(guard) });
            waits.join().unwrap().unwrap().release().unwrap();
        });
        proxy.heal();
        runtime.block_on(store.settled());
    }
}
