//! Points at which a test can end the process or make a system call fail. Outside this crate's own
//! tests they do nothing.

use std::io;

/// A point in a call: what was just done, or is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Failpoint {
    /// The rights in the folder are about to be checked.
    CheckingRights,
    /// The shard file was opened; it is about to be locked.
    ShardOpened,
    /// The shard was locked; the record is about to be read.
    ShardLocked,
    /// The spare file, for the new record, was opened.
    SpareOpened,
    /// The new record was written to the spare file.
    SpareWritten,
    /// The spare file was truncated to the length of the new record.
    SpareTruncated,
    /// The disk is full; the new record is about to be written over the old one.
    Overwriting,
    /// The new record was written over the old one.
    RecordOverwritten,
    /// The spare file was synced to the disk, since the new record must outlive the process.
    SpareSynced,
    /// The new record is about to be put in place.
    Replacing,
    /// The new record was put in place.
    Replaced,
    /// The token of an old record was kept; the record is about to be deleted.
    TokenKept,
    /// A named pipe was made; it is about to be opened.
    PipeMade,
    /// The pipe was opened.
    PipeOpened,
    /// The queue is about to be read.
    ReadingQueue,
    /// A pipe is about to be opened, to find out whether a process reads it.
    Probing,
    /// The line of a new waiter is about to be written to the queue.
    Queuing,
    /// The line was written; it does not count yet.
    LineWritten,
    /// The waiter is in the queue.
    Queued,
    /// A line of the queue is about to be crossed out.
    CrossingOut,
    /// A line was crossed out.
    CrossedOut,
    /// The queue without its dead lines was put in place; its length is about to be set.
    QueueReplaced,
    /// The last waiter has left, and the queue was emptied.
    QueueEmptied,
    /// The shard was unlocked; a waiter is about to be notified.
    Notifying,
}

#[cfg(not(test))]
#[inline]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn reached(_: Failpoint) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use testing::reached;

#[cfg(test)]
pub(crate) mod testing {
    use std::cell::RefCell;

    use super::{Failpoint, io};

    type Plan = Box<dyn FnMut(Failpoint) -> io::Result<()>>;

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    pub(crate) fn reached(step: Failpoint) -> io::Result<()> {
        PLAN.with_borrow_mut(|plan| plan.as_mut().map_or(Ok(()), |plan| plan(step)))
    }

    /// Runs `body` and calls `plan` at each failpoint that this thread reaches.
    pub(crate) fn with_plan<R>(
        plan: impl FnMut(Failpoint) -> io::Result<()> + 'static,
        body: impl FnOnce() -> R,
    ) -> R {
        PLAN.set(Some(Box::new(plan)));
        let result = body();
        PLAN.set(None);
        result
    }
}
