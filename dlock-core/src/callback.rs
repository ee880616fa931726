//! What a user wants called when a lease is lost or at risk: each on a thread of its own, so that one that blocks or panics
//! disturbs nobody.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A function to be called once.
#[derive(Clone)]
pub(crate) struct Callback(Arc<Mutex<Option<Function>>>);

type Function = Box<dyn FnOnce() + Send>;

impl Callback {
    pub(crate) fn new(function: impl FnOnce() + Send + 'static) -> Self {
        Callback(Arc::new(Mutex::new(Some(Box::new(function)))))
    }

    /// Calls it on a new thread; `false` if there is no thread to be had now, to be tried again.
    pub(crate) fn spawn(&self) -> bool {
        let callback = self.clone();
        thread::Builder::new()
            .name("dlock-callback".to_owned())
            .spawn(move || {
                let function = callback
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                if let Some(function) = function {
                    function();
                }
            })
            .is_ok()
    }
}
