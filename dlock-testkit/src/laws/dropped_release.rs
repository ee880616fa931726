//! Releases, guards and `locked` whose futures are dropped.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dlock_core::Wait;

use crate::case::{Law, broken, check};
use crate::client::PATIENCE;
use crate::dropping::{AsyncCase, Polled, TwoFaced, at_each_await};
use crate::{Subject, Verdict};

/// A release that is dropped at any await, or never polled, is carried out.
pub fn a_release_is_carried_out(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let store = all.store(true);
    let mut number = 0;
    at_each_await(0, |at| {
        let mut goes_on = false;
        for is_tried_at_once in [true, false] {
            number += 1;
            let lock = all.lock(&store, &format!("release-{number}"));
            let release = all.executor.calls.release(held(&all, &lock));
            let polled = all.executor.drops(at, PATIENCE, release);
            goes_on = polled.goes_on();
            if let Polled::Ended(Err(error)) = polled {
                let case = &all.case;
                broken!(
                    case,
                    "a lock with half an hour left was not released: {error}"
                );
            }
            let since = format!("the release of a lock was {at}");
            if is_tried_at_once {
                all.works_at_once(&lock, &since);
            } else {
                all.is_free(&lock, &since);
            }
        }
        goes_on
    });
    Verdict::Kept
}

/// A guard that is dropped, inside a runtime or outside of it, is released.
pub fn a_guard_is_released(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let store = all.store(true);
    for (place, is_task) in [("outside of a runtime", false), ("in a task", true)] {
        for is_tried_at_once in [true, false] {
            let lock = all.lock(&store, &format!("guard-{is_task}-{is_tried_at_once}"));
            let guard = held(&all, &lock);
            let calls = Arc::clone(&all.executor.calls);
            match is_task {
                false => calls.drop_guard(guard),
                true => {
                    let task = all.executor.runtime.spawn(async move {
                        calls.drop_guard(guard);
                    });
                    drop(all.executor.wait_for(task));
                }
            }
            let since = format!("the guard of a lock was dropped {place}");
            if is_tried_at_once {
                all.works_at_once(&lock, &since);
            } else {
                all.is_free(&lock, &since);
            }
        }
    }
    Verdict::Kept
}

/// When `locked` is dropped the job's future is dropped and the lock released.
pub fn a_locked_job_is_ended(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let case = &all.case;
    let store = all.store(true);
    let mut number = 0;
    at_each_await(1, |at| {
        number += 1;
        let lock = all.lock(&store, &format!("locked-{number}"));
        let (began, ended) = (Flag::default(), Flag::default());
        let job = {
            let (began, ended) = (began.clone(), ended.clone());
            async move {
                let _ended = ended.on_drop();
                began.set();
                pending().await
            }
        };
        let (calls, bare) = (Arc::clone(&all.executor.calls), lock.bare.clone());
        let locked = Box::pin(async move { calls.locked(&bare, Box::pin(job)).await });
        let polled = all.executor.drops(at, all.rest(), locked);
        if let Polled::Ended(_) = polled {
            broken!(case, "a job goes on for ever, but `locked` had ended");
        }
        check!(
            case,
            ended.is_set() || !began.is_set(),
            "`locked` was {at}, but the future of its job was not dropped"
        );
        all.works_at_once(&lock, &format!("`locked` was {at}"));
        all.is_free(&lock, &format!("`locked` was {at}"));
        polled.goes_on()
    });
    Verdict::Kept
}

fn held(all: &AsyncCase<'_>, lock: &TwoFaced) -> dlock_core::aio::LockGuard {
    match all.executor.acquire(&lock.bare, &Wait::within(PATIENCE)) {
        Ok(guard) => guard,
        Err(error) => {
            let case = &all.case;
            broken!(
                case,
                "nobody held the lock, but it was not acquired: {error}"
            )
        }
    }
}

/// Something that has happened.
#[derive(Clone, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Sets the flag when the result is dropped.
    pub(super) fn on_drop(self) -> impl Drop + Send {
        struct OnDrop(Flag);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.set();
            }
        }
        OnDrop(self)
    }
}
