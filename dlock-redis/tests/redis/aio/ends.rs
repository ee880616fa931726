//! Programs whose `main` returns while guards are in scope.

use std::process::{self, Command, Stdio};
use std::{env, thread};

use dlock_core::LockOptions;
use dlock_core::aio::{Lock, Store};
use dlock_test_servers::faults::Fault;

use super::*;
use crate::queue::{lock, waiting};

/// What a child process gets: the server's URL, the kind of runtime, the number of guards.
const URL: &str = "DLOCK_TEST_ENDS_URL";
const KIND: &str = "DLOCK_TEST_ENDS_KIND";
const GUARDS: &str = "DLOCK_TEST_ENDS_GUARDS";

/// How often each program runs.
const RUNS: usize = 100;

/// The body of a program's `async fn main`.
async fn main(url: &str, guards: usize) {
    let store = Store::new(RedisDatastore::open(url).unwrap());
    let options = LockOptions::builder().ttl(Duration::from_secs(3600));
    let mut held = Vec::new();
    for number in 0..guards {
        let id = format!("import-{number}");
        let lock = Lock::with_options(&store, id, options.clone()).unwrap();
        held.push(lock.acquire().await.unwrap());
    }
    // The guards are in scope here.
}

#[test]
fn a_program_that_ends_with_guards_in_scope_leaves_no_key() {
    if let Ok(url) = env::var(URL) {
        let kind: usize = env::var(KIND).unwrap().parse().unwrap();
        let guards = env::var(GUARDS).unwrap().parse().unwrap();
        let runtime = runtimes().into_iter().nth(kind).unwrap();
        runtime.block_on(main(&url, guards));
        // What the return of a real `main` does: its runtime is dropped, and the process exits.
        drop(runtime);
        process::exit(0);
    }
    let server = RedisServer::start();
    let run = |kind: &str, guards: &str| {
        let module = module_path!().split_once("::").unwrap().1;
        let name = format!("{module}::a_program_that_ends_with_guards_in_scope_leaves_no_key");
        let mut child = Command::new(env::current_exe().unwrap());
        let child = child.args(["--exact", &name]).env(URL, server.url());
        let child = child.env(KIND, kind).env(GUARDS, guards);
        let status = child.stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
    };
    // The server reads what a program wrote before it reads that the program is gone.
    let is_gone = || {
        let clients = format!("{:?}", server.command(["CLIENT", "LIST"]));
        clients.matches("id=").count() == 1
    };
    for (kind, guards) in [("0", "1"), ("1", "1"), ("0", "3"), ("1", "3")] {
        let mut left = 0;
        for run_number in 0..RUNS {
            if run_number % 4 == 0 {
                // The server forgets the scripts, as after a restart.
                server.command(["SCRIPT", "FLUSH"]);
            }
            run(kind, guards);
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
