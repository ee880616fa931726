//! Programs whose `main` returns while guards are in scope.

use std::env;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use dlock_core::LockOptions;
use dlock_core::aio::{Lock, Store};
use dlock_test_servers::PostgresServer;
use tokio::runtime::{Builder, Runtime};

use crate::support::{patient, until, with_schema};

/// The arguments of a child process: the server's URL, the kind of runtime, the number of guards.
const URL: &str = "DLOCK_TEST_ENDS_URL";
const KIND: &str = "DLOCK_TEST_ENDS_KIND";
const GUARDS: &str = "DLOCK_TEST_ENDS_GUARDS";

/// Both kinds of runtime.
fn runtimes() -> [Runtime; 2] {
    let mut many = Builder::new_multi_thread();
    let many = many.worker_threads(2).enable_all().build();
    let one = Builder::new_current_thread().enable_all().build();
    [one.unwrap(), many.unwrap()]
}

/// The body of a program's `async fn main`.
async fn main(url: &str, guards: usize) {
    let store = Store::new(patient(url));
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
    let server = with_schema(PostgresServer::start());
    let run = |kind: &str, guards: &str| {
        let module = module_path!().split_once("::").unwrap().1;
        let name = format!("{module}::a_program_that_ends_with_guards_in_scope_leaves_no_key");
        let mut child = Command::new(env::current_exe().unwrap());
        let child = child.args(["--exact", &name]).env(URL, server.url());
        let child = child.env(KIND, kind).env(GUARDS, guards);
        let status = child.stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
    };
    let mut look = server.session();
    let mut count = |what: &str| -> usize {
        let count = look.run(&format!("SELECT count(*) FROM {what}"));
        count.parse().unwrap()
    };
    for (kind, guards, runs) in [
        ("0", "1", 25),
        ("1", "1", 25),
        ("0", "3", 25),
        ("1", "3", 25),
        // More than there are connections.
        ("0", "25", 5),
    ] {
        let mut left = 0;
        for _ in 0..runs {
            run(kind, guards);
            // The server carries out what a program wrote before it closes its connection.
            until("the program is gone", || {
                count("pg_stat_activity WHERE application_name = 'dlock'") == 0
            });
            left += usize::from(count("dlock.locks WHERE owner IS NOT NULL") > 0);
            server.sql("DELETE FROM dlock.locks");
        }
        assert_eq!(left, 0, "runs with {guards} guards on runtime {kind}");
    }
}
