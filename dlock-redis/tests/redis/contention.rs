//! Some processes that want one lock all the time, and what can be said of their grants.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Lock, Store};
use dlock_redis::RedisDatastore;

use crate::queue::SOON;
use crate::support::*;

/// How long each of them holds the lock.
const HOLD: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(crate) struct Contention {
    over: AtomicBool,
    grants: AtomicUsize,
    /// The fencing tokens of all grants.
    tokens: Mutex<BTreeSet<u64>>,
}

impl Contention {
    /// Two processes, to the server at `url`, each with this number of threads that take the lock
    /// in turn, while `during` runs.
    pub(crate) fn of_two(url: &str, threads: usize, during: impl FnOnce(&Contention)) {
        let contention = Contention::default();
        let stores = [(); 2].map(|()| Store::new(RedisDatastore::open(url).unwrap()));
        thread::scope(|scope| {
            let contention = &contention;
            for store in &stores {
                for _ in 0..threads {
                    scope.spawn(move || contention.take_turns(&Lock::new(store, "import")));
                }
            }
            let ends = EndsWith(contention);
            contention.goes_on(20, "at first");
            during(contention);
            drop(ends);
        });
    }

    fn take_turns(&self, lock: &Lock) {
        let mut last = 0;
        while !self.over.load(Ordering::SeqCst) {
            // Servers come and go.
            let Ok(guard) = lock.acquire_within(LONG) else {
                continue;
            };
            let token = guard.fencing_token().unwrap().get();
            assert!(token > last, "{token} after {last} in one thread");
            last = token;
            assert!(self.tokens.lock().unwrap().insert(token), "{token} again");
            self.grants.fetch_add(1, Ordering::SeqCst);
            thread::sleep(HOLD);
            drop(guard);
        }
    }

    pub(crate) fn grants(&self) -> usize {
        self.grants.load(Ordering::SeqCst)
    }

    /// The next grant comes within two seconds, or some more on a machine with more work than
    /// cores, and this number comes at all.
    pub(crate) fn goes_on(&self, grants: usize, what: &str) {
        let (before, start) = (self.grants(), Instant::now());
        until(what, || self.grants() > before + 1);
        assert!(start.elapsed() < SOON, "{what}: {:?}", start.elapsed());
        until(what, || self.grants() >= before + grants);
    }
}

/// Ends it also if a test fails.
struct EndsWith<'a>(&'a Contention);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}
