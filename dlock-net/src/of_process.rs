//! What the waiters of a store share in one process.

use std::sync::{Arc, OnceLock};

use dlock_core::{Leaving, ProcessId, Watch};

/// What all waiters of a store share, made by the first of them.
///
/// A child that was forked off has nothing of it: its parent's threads do not run in it, and a
/// mutex may be locked there for ever. So waiters poll in a child.
#[derive(Debug)]
pub struct OfProcess<T> {
    pid: ProcessId,
    made: OnceLock<Arc<T>>,
}

impl<T> Default for OfProcess<T> {
    fn default() -> Self {
        OfProcess {
            pid: ProcessId::current(),
            made: OnceLock::new(),
        }
    }
}

impl<T> OfProcess<T> {
    /// What was made; `None` if nothing was, or in a forked child.
    pub fn get(&self) -> Option<&Arc<T>> {
        let made = self.made.get()?;
        (self.pid == ProcessId::current()).then_some(made)
    }

    /// What was made, or is by `make`; `None` in a forked child. If several make it at the same
    /// time, what one of them made is used, and the rest is dropped.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub fn get_or_make<E>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Option<&Arc<T>>, E> {
        if self.pid != ProcessId::current() {
            return Ok(None);
        }
        if let Some(made) = self.made.get() {
            return Ok(Some(made));
        }
        let new = Arc::new(make()?);
        Ok(Some(self.made.get_or_init(|| new)))
    }

    /// A watch that calls `leave` when it ends; not in a child that is forked off meanwhile, where
    /// it is the parent that waits.
    pub fn watch(&self, leave: impl FnOnce(Leaving) + Send + 'static) -> Watch {
        let pid = self.pid;
        Watch::leaving(move |leaving| {
            if pid == ProcessId::current() {
                leave(leaving);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_when_it_is_wanted() {
        let shared = OfProcess::default();
        assert!(shared.get().is_none());
        let failed: Result<_, &str> = shared.get_or_make(|| Err("no thread"));
        assert_eq!(failed.unwrap_err(), "no thread");
        assert!(shared.get().is_none());
        for made in [7, 8] {
            let got = shared.get_or_make(|| Ok::<_, ()>(made)).unwrap();
            assert_eq!(got.map(|made| **made), Some(7));
        }
        assert_eq!(shared.get().map(|made| **made), Some(7));
    }

    #[test]
    fn a_watch_ends_in_the_process_that_waits() {
        let (shared, left) = (OfProcess::<()>::default(), Arc::new(OnceLock::new()));
        let leave = Arc::clone(&left);
        let watch = shared.watch(move |_| leave.set(()).unwrap());
        assert!(left.get().is_none(), "it has not ended");
        drop(watch);
        assert!(left.get().is_some());
    }
}
