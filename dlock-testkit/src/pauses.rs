//! Whether this process ran on time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(5);
/// A thread that is later than this was not run on time. The cases allow for twice as much.
const LATE: Duration = Duration::from_millis(25);

/// Runs `f`. Returns also whether a thread that sleeps again and again meanwhile was ever late.
pub(crate) fn during<R>(f: impl FnOnce() -> R) -> (R, bool) {
    let (stop, is_late) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut last = Instant::now();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let now = Instant::now();
                if now.duration_since(last) > TICK + LATE {
                    is_late.store(true, Ordering::SeqCst);
                }
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                last = now;
                thread::sleep(TICK);
            }
        });
        let _stops = Stops(&stop);
        f()
    });
    // The thread has ended, so a pause at the very beginning or end counts too.
    (result, is_late.into_inner())
}

/// Ends the thread, also if `f` panics.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
