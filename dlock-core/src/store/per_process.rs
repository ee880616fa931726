//! What belongs to one process, and not to its forked children.

use std::sync::OnceLock;

use crate::ProcessId;

/// One value for each process that has this memory.
///
/// A forked child has none of its parent's threads, and a mutex of its parent may have been locked
/// at the fork by a thread that the child lacks. So the child gets a value of its own and never
/// touches the other. The list grows only by forks of forks.
pub(crate) struct PerProcess<T> {
    process: ProcessId,
    value: T,
    child: OnceLock<Box<PerProcess<T>>>,
}

impl<T> PerProcess<T> {
    /// With the value of the calling process.
    pub(crate) fn new(value: T) -> Self {
        PerProcess {
            process: ProcessId::current(),
            value,
            child: OnceLock::new(),
        }
    }

    /// The value of `process`, which calls; `make` makes it in a forked child.
    pub(crate) fn of(&self, process: ProcessId, make: impl Fn() -> T) -> &T {
        let mut this = self;
        while this.process != process {
            this = this.child.get_or_init(|| Box::new(PerProcess::new(make())));
        }
        &this.value
    }

    /// The value of the calling process, if it was made.
    pub(crate) fn current(&self) -> Option<&T> {
        let process = ProcessId::current();
        let mut this = self;
        while this.process != process {
            this = this.child.get()?;
        }
        Some(&this.value)
    }

    /// Whether the calling process made this, and did not inherit it.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_own(&self) -> bool {
        self.process == ProcessId::current()
    }
}
