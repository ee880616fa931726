//! Jobs that run once, whose futures are dropped.

use std::future::pending;
use std::sync::Arc;

use dlock_core::Wait;

use super::dropped_release::Flag;
use super::once::{expect, tried, well};
use crate::case::{Law, broken};
use crate::client::PATIENCE;
use crate::dropping::{AsyncCase, Polled, TwoFaced, at_each_await};
use crate::executor::{Job, Once};
use crate::{Subject, Verdict};

/// When `once` is dropped before the job has ended, the job runs again at once.
pub fn frees_a_job_that_has_not_ended(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let (store, other) = (all.store(true), all.store(false));
    let mut number = 0;
    at_each_await(1, |at| {
        let mut goes_on = false;
        for is_tried_at_once in [true, false] {
            number += 1;
            let [lock, elsewhere] =
                [&store, &other].map(|store| all.lock(store, &format!("unfinished-{number}")));
            let polled = all
                .executor
                .drops(at, all.rest(), once(&all, &lock, Box::pin(pending())));
            if let Polled::Ended(_) = polled {
                let case = &all.case;
                broken!(case, "a job goes on for ever, but `once` had ended");
            }
            goes_on = polled.goes_on();
            let next = match is_tried_at_once {
                true => &lock,
                false => {
                    all.executor.wait_for(store.settled());
                    &elsewhere
                }
            };
            let outcome = tried(&next.lock, &Wait::none(), all.case.long(), well);
            let since = format!("a job had not ended when its `once` was {at}");
            expect(&all.case, &outcome, "ran", &since);
        }
        goes_on
    });
    Verdict::Kept
}

/// When `once` is dropped after the job has succeeded, the job is done.
pub fn marks_a_job_that_has_ended(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let (store, other) = (all.store(true), all.store(false));
    let mut number = 0;
    at_each_await(1, |at| {
        number += 1;
        let [lock, elsewhere] =
            [&store, &other].map(|store| all.lock(store, &format!("finished-{number}")));
        let ended = Flag::default();
        let job = {
            let ended = ended.clone();
            async move {
                ended.set();
                Ok(())
            }
        };
        let polled = all
            .executor
            .drops(at, PATIENCE, once(&all, &lock, Box::pin(job)));
        if let Polled::Ended(Err(error)) = &polled {
            let case = &all.case;
            broken!(case, "the job was new, but `once` failed: {error}");
        }
        all.executor.wait_for(store.settled());
        let (expected, what) = match ended.is_set() {
            true => ("already done", "had ended"),
            false => ("ran", "had not begun"),
        };
        let outcome = tried(&elsewhere.lock, &Wait::none(), all.case.long(), well);
        let since = format!("a job {what} when its `once` was {at}");
        expect(&all.case, &outcome, expected, &since);
        polled.goes_on()
    });
    Verdict::Kept
}

fn once(all: &AsyncCase<'_>, lock: &TwoFaced, job: Job<'static>) -> Once<'static> {
    let (calls, bare) = (Arc::clone(&all.executor.calls), lock.bare.clone());
    let keep = all.case.long();
    Box::pin(async move { calls.once(&bare, keep, job).await })
}
