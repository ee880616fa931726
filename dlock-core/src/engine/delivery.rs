//! The threads that run callbacks and the observer.
//!
//! The first of them start with the keeper, before a lock is acquired, so that the end of a lease
//! needs no new thread. The threads that declare a loss only put functions into a list.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use crate::engine::callback::{Callback, Callbacks, Kind};

/// The most threads of one store that run callbacks.
pub(crate) const MOST_THREADS: usize = 8;
/// How many events may wait for the observer before renewals are left out.
const MOST_EVENTS: usize = 1024;

/// Runs callbacks and events of one store in one process.
pub(crate) struct Delivery(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    callbacks: Callbacks,
    events: Callbacks,
    threads: usize,
    /// Threads that wait for a callback, or were started to.
    idle: usize,
    has_event_thread: bool,
    stopped: bool,
}

impl Delivery {
    pub(crate) fn new() -> Self {
        Delivery(Arc::new(Inner {
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Starts the first thread, and one for the observer if there is one. One caller at a time.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub(crate) fn start(&self, observed: bool) -> io::Result<()> {
        let (threads, has_event_thread) = {
            let state = self.0.state();
            (state.threads, state.has_event_thread)
        };
        if threads == 0 {
            self.0.add_thread()?;
        }
        if observed && !has_event_thread {
            let inner = Arc::clone(&self.0);
            spawn("dlock-observer", move || inner.run_events())?;
            self.0.state().has_event_thread = true;
        }
        Ok(())
    }

    /// Hands over what is to be called. Never blocks, starts no thread and allocates nothing.
    pub(crate) fn deliver(&self, mut callbacks: Callbacks) {
        if callbacks.is_empty() {
            return;
        }
        #[cfg(feature = "tokio")]
        let mut prompt = Callbacks::default();
        let mut state = self.0.state();
        while let Some(callback) = callbacks.pop() {
            match callback.kind() {
                Kind::User => state.callbacks.push(callback),
                Kind::Event => state.events.push(callback),
                #[cfg(feature = "tokio")]
                Kind::Prompt => prompt.push(callback),
            }
        }
        drop(state);
        #[cfg(feature = "tokio")]
        while let Some(callback) = prompt.pop() {
            callback.call();
        }
        self.0.changed.notify_all();
    }

    /// Hands over an event that may be left out if the observer is far behind.
    pub(crate) fn deliver_if_room(&self, event: impl FnOnce() + Send + 'static) {
        if self.0.state().events.len() < MOST_EVENTS {
            self.deliver(Callback::event(event).into());
        }
    }

    /// Ends the threads when nothing waits any more.
    pub(crate) fn stop(&self) {
        self.0.state().stopped = true;
        self.0.changed.notify_all();
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.state().callbacks.len()
    }
}

impl Inner {
    /// Not under the lock: a thread that declares a loss may want it.
    fn add_thread(self: &Arc<Self>) -> io::Result<()> {
        let counted = |by: fn(&mut usize)| {
            let mut state = self.state();
            by(&mut state.threads);
            by(&mut state.idle);
        };
        counted(|count| *count += 1);
        let inner = Arc::clone(self);
        spawn("dlock-callback", move || inner.run_callbacks())
            .inspect_err(|_| counted(|count| *count -= 1))
    }

    fn run_callbacks(self: &Arc<Self>) {
        let mut state = self.state();
        loop {
            if let Some(callback) = state.callbacks.pop() {
                state.idle -= 1;
                let grow = state.idle == 0 && state.threads < MOST_THREADS;
                drop(state);
                if grow {
                    // Another thread that waits, in case this one blocks. If none can be started,
                    // the next callback waits for this one.
                    let _ = self.add_thread();
                }
                callback.call();
                state = self.state();
                state.idle += 1;
            } else if state.stopped || state.idle > 1 {
                state.idle -= 1;
                state.threads -= 1;
                return;
            } else {
                state = self.wait(state);
            }
        }
    }

    /// One thread runs all events, so those of one lock stay in order.
    fn run_events(&self) {
        let mut state = self.state();
        loop {
            if let Some(event) = state.events.pop() {
                drop(state);
                event.call();
                state = self.state();
            } else if state.stopped {
                return;
            } else {
                state = self.wait(state);
            }
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop)
}
