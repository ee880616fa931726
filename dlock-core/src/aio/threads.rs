//! The threads on which the calls of a blocking store run.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::time::user_code::contained;

/// The most threads of one store.
const MOST: usize = 16;
/// The most of them that run claims, which may wait: so renewals and releases find a thread when
/// the store does not answer.
const MOST_FOR_CLAIMS: usize = 12;
/// How long a thread waits for a call before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It may wait behind the others.
    Claim,
    /// Others wait for what it does.
    Urgent,
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that are started when there are calls, up to a bound, and end when there are none.
pub(super) struct Threads(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    urgent: VecDeque<Job>,
    claims: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a call, or were started to run one.
    idle: usize,
    running_claims: usize,
    stopped: bool,
}

impl Threads {
    pub(super) fn new() -> Self {
        Threads(Arc::default())
    }

    /// Runs `job` as soon as a thread is free.
    ///
    /// # Errors
    ///
    /// If there is no thread and none can be started; the job is not run then.
    pub(super) fn run(&self, kind: Kind, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.0.state();
        let waiting = state.urgent.len() + state.claims.len();
        if waiting >= state.idle && state.threads < MOST {
            let inner = Arc::clone(&self.0);
            let thread = thread::Builder::new().name("dlock-blocking".to_owned());
            match thread.spawn(move || inner.work()) {
                Ok(_) => {
                    state.threads += 1;
                    state.idle += 1;
                }
                // The threads that there are will come to it.
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        match kind {
            Kind::Claim => state.claims.push_back(Box::new(job)),
            Kind::Urgent => state.urgent.push_back(Box::new(job)),
        }
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Ends the threads that have nothing to do.
    pub(super) fn stop(&self) {
        self.0.state().stopped = true;
        self.0.changed.notify_all();
    }
}

impl State {
    fn next(&mut self) -> Option<(Kind, Job)> {
        if let Some(job) = self.urgent.pop_front() {
            return Some((Kind::Urgent, job));
        }
        if self.running_claims == MOST_FOR_CLAIMS {
            return None;
        }
        self.claims.pop_front().map(|job| (Kind::Claim, job))
    }
}

impl Inner {
    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some((kind, job)) = state.next() {
                let claims = usize::from(kind == Kind::Claim);
                state.idle -= 1;
                state.running_claims += claims;
                drop(state);
                contained(job);
                state = self.state();
                state.idle += 1;
                state.running_claims -= claims;
                continue;
            }
            if state.stopped {
                break;
            }
            let woken = self.changed.wait_timeout(state, IDLE);
            let (after, wait) = woken.unwrap_or_else(PoisonError::into_inner);
            state = after;
            if wait.timed_out() && state.urgent.is_empty() && state.claims.is_empty() {
                break;
            }
        }
        state.idle -= 1;
        state.threads -= 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
