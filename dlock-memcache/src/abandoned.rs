//! Claims that this process gave up while their requests may still be with the server.

use std::collections::VecDeque;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use dlock_core::OwnerToken;

/// How many are remembered; the oldest make room.
const MOST: usize = 256;

/// The owner tokens of claims that were given up.
///
/// memcached cannot be told until when a request is worth carrying out. One that a stopped server carries out when it goes on leaves a lock that
/// nobody believes to hold; the next claim of the same process knows it by its token.
#[derive(Debug)]
pub(crate) struct Abandoned {
    pid: u32,
    /// Whether there ever was one: the usual claim has nothing to look for.
    any: AtomicBool,
    tokens: Mutex<VecDeque<OwnerToken>>,
}

impl Default for Abandoned {
    fn default() -> Self {
        Abandoned {
            pid: process::id(),
            any: AtomicBool::new(false),
            tokens: Mutex::default(),
        }
    }
}

impl Abandoned {
    pub(crate) fn remember(&self, owner: OwnerToken) {
        self.any.store(true, Ordering::SeqCst);
        self.with(|tokens| {
            tokens.truncate(MOST - 1);
            tokens.push_front(owner);
        });
    }

    /// The claim is made again after all.
    pub(crate) fn forget(&self, owner: OwnerToken) {
        self.with(|tokens| tokens.retain(|token| *token != owner));
    }

    pub(crate) fn contains(&self, owner: OwnerToken) -> bool {
        self.with(|tokens| tokens.contains(&owner)).unwrap_or(false)
    }

    /// Does nothing in a forked child: what it inherited is its parent's to clean up, and the mutex may be locked for ever.
    fn with<T>(&self, f: impl FnOnce(&mut VecDeque<OwnerToken>) -> T) -> Option<T> {
        (self.any.load(Ordering::SeqCst) && self.pid == process::id())
            .then(|| f(&mut self.tokens.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_touches_nothing_that_it_inherited() {
        let inherited = Abandoned {
            pid: process::id() + 1,
            ..Abandoned::default()
        };
        let owner = OwnerToken::random().unwrap();
        inherited.remember(owner);
        assert!(!inherited.contains(owner));
        assert!(inherited.tokens.lock().unwrap().is_empty());
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let abandoned = Abandoned::default();
        let tokens: Vec<_> = (0..=MOST).map(|_| OwnerToken::random().unwrap()).collect();
        for token in &tokens {
            abandoned.remember(*token);
        }
        assert!(!abandoned.contains(tokens[0]));
        assert!(tokens[1..].iter().all(|token| abandoned.contains(*token)));
        abandoned.forget(tokens[1]);
        assert!(!abandoned.contains(tokens[1]));
    }
}
