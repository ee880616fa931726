//! What a user wants called when a lease is lost or at risk, and what the observer is to learn.
//!
//! The list links the functions themselves, so that handing them over at the end of a lease needs
//! no memory that was not there when they were registered.

use crate::time::user_code::contained;

/// A function to be called once.
pub struct Callback(Box<Node>);

struct Node {
    function: Option<Box<dyn FnOnce() + Send>>,
    kind: Kind,
    next: Option<Callback>,
}

/// What a function does, which decides where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is a user's and may block: it runs on a thread for such functions.
    User,
    /// It reports to the observer of the store: it runs on the observer's thread, in order.
    Event,
    /// It wakes a task and does nothing else: it runs on the thread that declares the loss.
    #[cfg(feature = "tokio")]
    Prompt,
}

impl Callback {
    /// What a user gave to a guard.
    pub fn new(function: impl FnOnce() + Send + 'static) -> Self {
        Self::of(Kind::User, function)
    }

    /// An event for the observer of the store.
    pub fn event(function: impl FnOnce() + Send + 'static) -> Self {
        Self::of(Kind::Event, function)
    }

    /// What wakes a task.
    #[cfg(feature = "tokio")]
    pub fn prompt(function: impl FnOnce() + Send + 'static) -> Self {
        Self::of(Kind::Prompt, function)
    }

    fn of(kind: Kind, function: impl FnOnce() + Send + 'static) -> Self {
        Callback(Box::new(Node {
            function: Some(Box::new(function)),
            kind,
            next: None,
        }))
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Calls it. A panic ends here.
    pub fn call(mut self) {
        if let Some(function) = self.0.function.take() {
            contained(function);
        }
    }
}

/// Functions to be called, first in, first out.
#[derive(Default)]
pub struct Callbacks {
    /// The next to leave first.
    leaving: Option<Callback>,
    /// The last that came first.
    coming: Option<Callback>,
    len: usize,
}

impl Callbacks {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, mut callback: Callback) {
        callback.0.next = self.coming.take();
        self.coming = Some(callback);
        self.len += 1;
    }

    pub fn pop(&mut self) -> Option<Callback> {
        if self.leaving.is_none() {
            while let Some(mut callback) = self.coming.take() {
                self.coming = callback.0.next.take();
                callback.0.next = self.leaving.take();
                self.leaving = Some(callback);
            }
        }
        let mut first = self.leaving.take()?;
        self.leaving = first.0.next.take();
        self.len -= 1;
        Some(first)
    }

    /// Moves all that `other` has to the end.
    pub fn append(&mut self, other: &mut Callbacks) {
        if self.is_empty() {
            std::mem::swap(self, other);
        }
        while let Some(callback) = other.pop() {
            self.push(callback);
        }
    }
}

impl From<Callback> for Callbacks {
    fn from(callback: Callback) -> Self {
        let mut callbacks = Callbacks::default();
        callbacks.push(callback);
        callbacks
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        // One by one: dropping a long chain at its head would recurse. What a function owns may do
        // anything when it is dropped: release another guard, panic.
        while let Some(callback) = self.pop() {
            contained(|| drop(callback));
        }
    }
}

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Callbacks({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn callbacks_leave_in_the_order_in_which_they_came() {
        let (sender, called) = mpsc::channel();
        let callback = |number: u32| {
            let sender = sender.clone();
            Callback::new(move || sender.send(number).unwrap())
        };
        let (mut first, mut second) = (Callbacks::default(), Callbacks::default());
        first.push(callback(1));
        first.push(callback(2));
        first.pop().unwrap().call();
        first.push(callback(3));
        second.push(callback(4));
        first.append(&mut second);
        assert_eq!((first.len(), second.is_empty()), (3, true));
        while let Some(callback) = first.pop() {
            callback.call();
        }
        assert_eq!(called.try_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_long_list_is_dropped_without_recursion() {
        let mut callbacks = Callbacks::default();
        for _ in 0..200_000 {
            callbacks.push(Callback::new(|| {}));
        }
        drop(callbacks);
    }
}
