//! The runtimes on which async code has to work.

use tokio::runtime::{Builder, Runtime};

/// Both kinds of runtime: one thread, and two worker threads.
///
/// # Panics
///
/// If the system gives them no threads.
#[must_use]
pub fn runtimes() -> [Runtime; 2] {
    let many = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    [current_thread(), many.expect("it has threads")]
}

/// A runtime of one thread.
///
/// # Panics
///
/// If the system gives it no event queue.
#[must_use]
pub fn current_thread() -> Runtime {
    let one = Builder::new_current_thread().enable_all().build();
    one.expect("it has an event queue")
}
