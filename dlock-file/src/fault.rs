//! Places where a test can end the process or make the system refuse. Outside this crate's own tests there is nothing here.

use std::io;

/// What was just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Step {
    /// The shard file was opened, and is about to be locked.
    Found,
    /// The shard was locked, and the record is about to be read.
    Entered,
    /// The file for the new record was opened.
    Opened,
    /// The new record was written, but not yet put in place.
    Written,
    /// The new record was brought to the disk, since it must outlive the process.
    Synced,
    /// The new record is about to be put in place.
    Ready,
    /// The new record was put in place.
    Replaced,
}

#[cfg(not(test))]
#[inline]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn reached(_: Step) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use testing::reached;

#[cfg(test)]
pub(crate) mod testing {
    use std::cell::RefCell;

    use super::{Step, io};

    type Plan = Box<dyn FnMut(Step) -> io::Result<()>>;

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    pub(crate) fn reached(step: Step) -> io::Result<()> {
        PLAN.with_borrow_mut(|plan| plan.as_mut().map_or(Ok(()), |plan| plan(step)))
    }

    /// Runs `body` with `plan` asked at each step that this thread reaches.
    pub(crate) fn with_plan<R>(
        plan: impl FnMut(Step) -> io::Result<()> + 'static,
        body: impl FnOnce() -> R,
    ) -> R {
        PLAN.set(Some(Box::new(plan)));
        let result = body();
        PLAN.set(None);
        result
    }
}
