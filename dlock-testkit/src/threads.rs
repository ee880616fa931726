//! Threads of a case, whose failures must reach the case in their own words.

use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `work` in `count` threads at once; what each gave, in order. A panic of one goes on here, with its message.
pub(crate) fn together<R: Send>(count: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                let work = &work;
                scope.spawn(move || work(index))
            })
            .collect();
        let ended: Vec<_> = threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        ended
            .into_iter()
            .map(|end| end.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// Runs `work` in a thread of its own; `None` if it is not done after `bound`. The thread is left behind then.
pub(crate) fn within<R: Send + 'static>(
    bound: Duration,
    work: impl FnOnce() -> R + Send + 'static,
) -> Option<thread::Result<R>> {
    let (done, result) = mpsc::channel();
    let runner = thread::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // Nobody listens any more if the bound has passed.
        let _ = done.send(result);
    });
    let result = result.recv_timeout(bound).ok()?;
    // It has nothing left to do but to end.
    let _ = runner.join();
    Some(result)
}
