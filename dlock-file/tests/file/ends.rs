//! Programs that use a folder in async code and end.

use std::env;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use dlock_core::aio::{Lock, Store, Unblock};
use dlock_core::{Inspect, LockOptions, ReleaseOutcome};
use tokio::runtime::{Builder, Runtime};

use crate::support::Scratch;

/// What a child process gets: where the folder is, and the kind of runtime.
const PLACE: &str = "DLOCK_TEST_ENDS_PLACE";
const KIND: &str = "DLOCK_TEST_ENDS_KIND";

/// How often each program runs.
const RUNS: usize = 100;

/// The body of a program's `async fn main`, as the guide has it.
async fn main(scratch: &Scratch) {
    let store = Store::new(Unblock::new(scratch.open()));
    {
        let options = LockOptions::builder().ttl(Duration::from_secs(3600));
        let lock = Lock::with_options(&store, "import", options).unwrap();
        let _guard = lock.acquire().await.unwrap();
    }
    store.settled().await;
}

fn runtime(kind: &str) -> Runtime {
    let mut builder = match kind {
        "one thread" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_program_that_waits_for_its_store_to_settle_leaves_no_lock_in_the_folder() {
    if let Some(place) = env::var_os(PLACE) {
        let runtime = runtime(&env::var(KIND).unwrap());
        runtime.block_on(main(&Scratch::at(PathBuf::from(place))));
        // What the return of a real `main` does: its runtime is dropped, and the process exits.
        drop(runtime);
        process::exit(0);
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!(
        "{module}::a_program_that_waits_for_its_store_to_settle_leaves_no_lock_in_the_folder"
    );
    for kind in ["one thread", "two threads"] {
        let mut left = 0;
        for _ in 0..RUNS {
            let mut child = Command::new(env::current_exe().unwrap());
            let child = child.args(["--exact", &name]).stdout(Stdio::null());
            let status = child.env(PLACE, scratch.place()).env(KIND, kind).status();
            assert!(status.unwrap().success());
            if let Some(held) = store.holder("dlock:import").unwrap() {
                left += 1;
                let broken = store.break_lease("dlock:import", held.fence().unwrap());
                assert_eq!(broken.unwrap(), ReleaseOutcome::Released);
            }
        }
        assert_eq!(left, 0, "runs on {kind}");
    }
}
