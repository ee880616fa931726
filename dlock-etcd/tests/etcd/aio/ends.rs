//! Programs whose `main` returns while guards are in scope.

use std::env;
use std::process::{self, Command, Stdio};

use dlock_core::LockOptions;
use dlock_core::aio::{Lock, Store};
use dlock_test_servers::TlsCertificate;

use super::*;
use crate::support::{eventually, read};

/// What a child process learns from its parent: the server's URL, the kind of runtime, the ids of
/// its locks.
const URL: &str = "DLOCK_TEST_ENDS_URL";
const KIND: &str = "DLOCK_TEST_ENDS_KIND";
const IDS: &str = "DLOCK_TEST_ENDS_IDS";

/// How often each program runs.
const RUNS: usize = 25;

/// The body of a program's `async fn main`.
async fn main(url: &str, ids: &str) {
    let store = Store::new(EtcdDatastore::open(url).unwrap());
    let options = LockOptions::builder().ttl(Duration::from_secs(3600));
    let mut held = Vec::new();
    for id in ids.split(',') {
        let lock = Lock::with_options(&store, id, options.clone()).unwrap();
        held.push(lock.acquire().await.unwrap());
    }
    // The guards are in scope here.
}

#[test]
fn a_program_that_ends_with_guards_in_scope_leaves_no_key() {
    if let Ok(url) = env::var(URL) {
        let kind: usize = env::var(KIND).unwrap().parse().unwrap();
        let runtime = runtimes().into_iter().nth(kind).unwrap();
        runtime.block_on(main(&url, &env::var(IDS).unwrap()));
        // What the return of a real `main` does: its runtime is dropped, and the process exits.
        drop(runtime);
        process::exit(0);
    }
    let tls = EtcdServer::start_with_tls(TlsCertificate::Signed);
    let tls_url = format!("{}?ca={}", tls.tls_url(), tls.ca_file().display());
    for (server, url) in [(server(), server().url()), (&tls, tls_url)] {
        for (kind, guards) in [("0", 1), ("1", 1), ("0", 3), ("1", 3)] {
            for _ in 0..RUNS {
                let keys: Vec<_> = (0..guards).map(|_| key("aio-ends")).collect();
                let ids: Vec<_> = keys.iter().map(|key| &key["dlock:".len()..]).collect();
                run(&url, kind, &ids.join(","));
                // The server carries out what the program wrote, though the program is gone.
                for key in &keys {
                    eventually("the lock is free", || {
                        read(server, key).is_none().then_some(())
                    });
                }
            }
        }
    }
}

/// Runs this test in a child process, as a program.
fn run(url: &str, kind: &str, ids: &str) {
    let module = module_path!().split_once("::").unwrap().1;
    let name = format!("{module}::a_program_that_ends_with_guards_in_scope_leaves_no_key");
    let mut child = Command::new(env::current_exe().unwrap());
    let child = child.args(["--exact", &name]).env(URL, url);
    let child = child.env(KIND, kind).env(IDS, ids);
    let status = child.stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
}
