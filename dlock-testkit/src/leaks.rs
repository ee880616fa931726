//! Threads and open files of this process, counted before and after a store was used.

use std::time::Duration;

use dlock_core::{Signal, Store};

use crate::case::{Case, now};

/// Rounds of use; each leaves at least one thing behind in a store that leaks.
const ROUNDS: usize = 30;
/// What may come and go for other reasons.
const TOLERANCE: usize = 8;

/// Uses the store, in a process that does nothing else; `clean`, or what is left.
pub(crate) fn counted(case: &Case<'_>) -> String {
    // Once for what is started once.
    use_it(case);
    let Some(before) = Open::now() else {
        return "uncountable".to_owned();
    };
    for _ in 0..ROUNDS {
        use_it(case);
    }
    // What ends by itself may take a moment.
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
    /// `None` where the operating system does not show them.
    fn now() -> Option<Self> {
        let count = |folder: &str| std::fs::read_dir(folder).ok().map(Iterator::count);
        Some(Open {
            threads: count("/proc/self/task")?,
            files: count("/proc/self/fd")?,
        })
    }
}

/// Opens a handle, makes each kind of call, closes it.
fn use_it(case: &Case<'_>) {
    let handle = case.subject.another();
    let key = case.key();
    let holder = case.client_on(&handle, &key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let waiter = case.client_on(&handle, &key);
    let watch = handle.watch(&waiter.claim(), &Signal::new());
    let late = waiter.claim().until(now());
    // Whatever these answer, they must leave nothing open.
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
