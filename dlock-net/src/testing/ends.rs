//! Programs whose `main` returns while guards are in scope.

use std::env;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use dlock_core::LockOptions;
use dlock_core::aio::{AsyncDatastore, Lock, Store};

use super::runtimes;

/// What a child process gets: the server's URL, the runtime's place among both kinds, the ids of
/// its locks.
const URL: &str = "DLOCK_TEST_ENDS_URL";
const KIND: &str = "DLOCK_TEST_ENDS_KIND";
const IDS: &str = "DLOCK_TEST_ENDS_IDS";

/// The program's exit code, which no test program has.
const ENDED: i32 = 42;

/// A program that acquires locks and returns from its `async fn main` with their guards in scope.
/// It is a test, which its test program runs in a child process.
#[derive(Debug)]
pub struct EndingProgram {
    test: String,
}

impl EndingProgram {
    /// Called first by the test of this name in the module with this path, `module_path!()`. In the
    /// child process it is the program itself, on the store that `open` opens at a URL, and does
    /// not return.
    ///
    /// # Panics
    ///
    /// In the child process, if it cannot acquire a lock.
    pub fn of<D: AsyncDatastore + 'static>(
        module_path: &str,
        test: &str,
        open: impl FnOnce(&str) -> D,
    ) -> Self {
        if let Ok(url) = env::var(URL) {
            let of_parent = |name| env::var(name).expect("the parent sets it");
            let kind: usize = of_parent(KIND).parse().expect("a number");
            let runtime = runtimes().into_iter().nth(kind);
            let runtime = runtime.expect("one of the kinds");
            runtime.block_on(main(|| open(&url), &of_parent(IDS)));
            // What the return of a real `main` does: its runtime is dropped, and the process exits.
            drop(runtime);
            process::exit(ENDED);
        }
        let module = module_path
            .split_once("::")
            .map_or("", |(_, module)| module);
        EndingProgram {
            test: format!("{module}::{test}"),
        }
    }

    /// Runs it to its end, on the `kind`th of [`runtimes`], with locks of these ids in the store at
    /// the URL.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn run(&self, url: &str, kind: usize, ids: &[impl AsRef<str>]) {
        let ids: Vec<_> = ids.iter().map(AsRef::as_ref).collect();
        let mut child = Command::new(env::current_exe().expect("this executable has a path"));
        let child = child.args(["--exact", &self.test]).env(URL, url);
        let child = child.env(KIND, kind.to_string()).env(IDS, ids.join(","));
        let status = child.stdout(Stdio::null()).status();
        let status = status.expect("this executable can be started");
        assert_eq!(status.code(), Some(ENDED), "{}: {status}", self.test);
    }
}

/// The body of the program's `async fn main`.
async fn main<D: AsyncDatastore + 'static>(open: impl FnOnce() -> D, ids: &str) {
    let store = Store::new(open());
    let options = LockOptions::builder().ttl(Duration::from_secs(3600));
    let mut held = Vec::new();
    for id in ids.split(',') {
        let lock = Lock::with_options(&store, id, options.clone()).expect("valid options");
        held.push(lock.acquire().await.expect("a free lock"));
    }
    // The guards and the store are in scope here.
}
