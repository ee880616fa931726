//! The waiters of this process, and the thread that wakes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use dlock_core::{Claim, OwnerToken, ProcessId, Signal};

use crate::folder::Folder;
use crate::pipe::Pipe;

/// The waiters of one store. In a forked child there are none: it polls.
#[derive(Debug)]
pub(crate) struct Waiters {
    process: ProcessId,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    waiters: HashMap<OwnerToken, Waiter>,
    /// Made by the first waiter and closed by the last one. So a job that a holder starts cannot
    /// keep it open.
    pipe: Option<Arc<Pipe>>,
}

#[derive(Debug)]
struct Waiter {
    signal: Signal,
    is_granted: bool,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Waiters {
            process: ProcessId::current(),
            state: Arc::default(),
        }
    }

    /// Adds a waiter. Returns whether it will be woken: not in a forked child, nor where no pipe
    /// can be made or no thread started.
    pub(crate) fn enter(&self, folder: &Folder, claim: &Claim, signal: &Signal) -> bool {
        let Some(mut state) = self.state() else {
            return false;
        };
        if state.pipe.is_none() {
            state.pipe = self.listen(folder);
        }
        if state.pipe.is_none() {
            return false;
        }
        let waiter = Waiter {
            signal: signal.clone(),
            is_granted: false,
        };
        state.waiters.insert(claim.owner(), waiter);
        true
    }

    /// Makes a pipe, and starts the thread that reads it.
    fn listen(&self, folder: &Folder) -> Option<Arc<Pipe>> {
        let pipe = Arc::new(Pipe::make(folder).ok()?);
        let (state, read) = (Arc::clone(&self.state), Arc::clone(&pipe));
        let thread = thread::Builder::new().name("dlock-wake".to_owned());
        match thread.spawn(move || serve(&state, &read)) {
            Ok(_) => Some(pipe),
            Err(_) => {
                pipe.close();
                None
            }
        }
    }

    /// The name of the pipe by which the claim is woken, if it waits.
    pub(crate) fn pipe_of(&self, claim: &Claim) -> Option<String> {
        // A claim that only tries has nothing to look for.
        claim.deadline()?;
        let state = self.state()?;
        state.waiters.get(&claim.owner())?;
        state.pipe.as_ref().map(|pipe| pipe.name().to_owned())
    }

    /// Notes the answer to a claim that waits.
    pub(crate) fn answered(&self, owner: OwnerToken, is_granted: bool) {
        if let Some(mut state) = self.state()
            && let Some(waiter) = state.waiters.get_mut(&owner)
        {
            waiter.is_granted = is_granted;
        }
    }

    /// Returns whether the waiter ends its wait without a grant. In a forked child it is the parent
    /// that waits.
    pub(crate) fn gives_up(&self, owner: OwnerToken) -> bool {
        let state = self.state();
        state.is_some_and(|state| {
            let waiter = state.waiters.get(&owner);
            waiter.is_some_and(|waiter| !waiter.is_granted)
        })
    }

    /// Removes a waiter; the last one closes the pipe.
    pub(crate) fn leave(&self, owner: OwnerToken) {
        let Some(mut state) = self.state() else {
            return;
        };
        state.waiters.remove(&owner);
        if state.waiters.is_empty()
            && let Some(pipe) = state.pipe.take()
        {
            drop(state);
            pipe.close();
        }
    }

    /// `None` in a forked child, in which a thread that it lacks may have locked the mutex.
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        (self.process == ProcessId::current()).then(|| lock(&self.state))
    }
}

/// Wakes the waiters that are notified through the pipe, until the pipe is closed.
fn serve(state: &Mutex<State>, pipe: &Arc<Pipe>) {
    loop {
        let messages = pipe.read();
        let state = lock(state);
        if !state
            .pipe
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(open, pipe))
        {
            return;
        }
        let mut woken = Vec::new();
        for owner in messages.owners() {
            match owner {
                Some(owner) => woken.extend(state.waiters.get(&owner)),
                // Somebody else has written into the pipe or read from it.
                None => woken.extend(state.waiters.values()),
            }
        }
        let woken: Vec<_> = woken.iter().map(|waiter| waiter.signal.clone()).collect();
        // A woken waiter needs the state.
        drop(state);
        woken.iter().for_each(Signal::notify);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No foreign code runs under this mutex, so the state is consistent even if it is poisoned.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
