//! Counts the threads and open files of this process before and after a store is used.

use std::time::Duration;

use dlock_core::Signal;

use crate::case::{Case, now, open_threads};
use crate::form::Store;

/// The number of rounds of use. In each, a store that leaks leaves at least one thread or file
/// behind.
const ROUNDS: usize = 30;
/// The number of threads and files that may come and go for other reasons.
const TOLERANCE: usize = 8;

/// Uses the store, in a process that does nothing else. Returns `clean`, or what is left over.
pub(crate) fn counted(case: &Case<'_>) -> String {
    // Use it once before, since some things are started only once.
    use_it(case);
    let Some(before) = Open::now() else {
        return "uncountable".to_owned();
    };
    for _ in 0..ROUNDS {
        use_it(case);
    }
    // Threads and files that end by themselves may take a moment.
    let give_up = now().saturating_add(Duration::from_secs(15));
    loop {
        let Some(after) = Open::now() else {
            return "uncountable".to_owned();
        };
        if after.threads <= before.threads + TOLERANCE && after.files <= before.files + TOLERANCE {
            return "clean".to_owned();
        }
        if now() > give_up {
            return format!(
                "after {ROUNDS} rounds {} threads became {} and {} open files became {}",
                before.threads, after.threads, before.files, after.files
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Open {
    threads: usize,
    files: usize,
}

impl Open {
    /// `None` if the operating system does not show the numbers.
    fn now() -> Option<Self> {
        let count = |folder: &str| std::fs::read_dir(folder).ok().map(Iterator::count);
        Some(Open {
            threads: open_threads()?,
            files: count("/proc/self/fd")?,
        })
    }
}

/// Opens a handle, makes each kind of call, and closes it.
fn use_it(case: &Case<'_>) {
    let handle = case.subject.another();
    let key = case.key();
    let holder = case.client_on(&handle, &key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let waiter = case.client_on(&handle, &key);
    let watch = handle.watch(&waiter.claim(), &Signal::new());
    let late = waiter.claim().with_not_after(now());
    // These may answer anything, but must leave nothing open.
    drop(waiter.try_once(case.long()));
    drop(handle.acquire(&late, case.long()));
    drop(watch);
    waiter.abandon();
    drop(holder.extend(&lease, case.long()));
    drop(handle.extend_many(&[(holder.next_call(&lease), case.long())]));
    drop(handle.confirm(&lease));
    holder.release(&lease);
    let store = Store::new(handle);
    let guard = case.lock(&store, "leaks", |options| options).try_acquire();
    drop(guard);
}
