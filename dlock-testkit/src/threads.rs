//! Threads of a case. Their panics are passed on to the case.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `work` in `count` threads at once. Returns the results in order. A panic of a thread is
/// resumed here with its message.
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

/// Runs `work` for each item in `lanes` threads. Returns the results in the order of the items. A
/// panic of a thread is resumed here with its message.
pub(crate) fn in_lanes<T: Sync, R: Send>(
    lanes: usize,
    items: &[T],
    work: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    if lanes <= 1 {
        return items
            .iter()
            .enumerate()
            .map(|(n, item)| work(n, item))
            .collect();
    }
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, R)> = together(lanes.min(items.len()), |_| {
        let indices = std::iter::from_fn(|| {
            let index = next.fetch_add(1, Ordering::Relaxed);
            (index < items.len()).then_some(index)
        });
        indices
            .map(|index| (index, work(index, &items[index])))
            .collect::<Vec<_>>()
    })
    .into_iter()
    .flatten()
    .collect();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs `work` in a thread of its own. Returns `None` if it is not done after `bound`, and leaves
/// the thread behind.
pub(crate) fn within<R: Send + 'static>(
    bound: Duration,
    work: impl FnOnce() -> R + Send + 'static,
) -> Option<thread::Result<R>> {
    let (done, result) = mpsc::channel();
    let runner = thread::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // There is no receiver any more if the bound has passed.
        let _ = done.send(result);
    });
    let result = result.recv_timeout(bound).ok()?;
    // The thread has nothing left to do.
    let _ = runner.join();
    Some(result)
}
