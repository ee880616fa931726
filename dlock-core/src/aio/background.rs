//! The runtime that dlock runs for a store, on a thread of its own.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

use super::pending::Pending;
use crate::engine::renewal::Keeper;
use crate::time::clock::Clock;
use crate::time::fake::Enlisted;

/// The most threads on which a store may block at a time, with `tokio::task::spawn_blocking`.
const MOST_BLOCKING: usize = 16;

/// What a store has in one process: what keeps its leases, and a runtime for renewals and for what
/// goes on after its future was dropped.
pub(super) struct Background {
    keeper: Keeper,
    runtime: OnceLock<Runtime>,
    /// Locked while the threads are started.
    starting: Mutex<()>,
    pending: Arc<Pending>,
}

struct Runtime {
    handle: Handle,
    stop: Arc<Notify>,
}

impl Background {
    pub(super) fn new(clock: &Clock) -> Self {
        Background {
            keeper: Keeper::new(clock),
            runtime: OnceLock::new(),
            starting: Mutex::default(),
            pending: Arc::default(),
        }
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// What goes on in the background.
    pub(super) fn pending(&self) -> &Arc<Pending> {
        &self.pending
    }

    /// The runtime, if it was [started](Self::start).
    pub(super) fn handle(&self) -> Option<&Handle> {
        self.runtime.get().map(|runtime| &runtime.handle)
    }

    /// Starts all threads that the store needs. A failure is not remembered: the next call tries
    /// again.
    ///
    /// # Errors
    ///
    /// If a thread, or the runtime on it, cannot be started.
    pub(super) fn start(&self, observed: bool) -> io::Result<&Handle> {
        if let Some(handle) = self.handle() {
            return Ok(handle);
        }
        let starting = self.starting.lock();
        let _starting = starting.unwrap_or_else(PoisonError::into_inner);
        if self.handle().is_none() {
            self.keeper.start(observed)?;
            let runtime = Runtime::start()?;
            let _ = self.runtime.set(runtime);
        }
        self.handle().ok_or_else(|| io::Error::other("not started"))
    }

    /// Ends the threads.
    pub(super) fn stop(&self) {
        self.keeper.stop();
        if let Some(runtime) = self.runtime.get() {
            runtime.stop.notify_one();
        }
    }
}

impl Runtime {
    /// The runtime is built, owned and dropped by its thread: so a forked child, which lacks that
    /// thread, never drops it. That would end the I/O of the parent, with which it shares the
    /// kernel's list of sockets.
    fn start() -> io::Result<Self> {
        let (sender, started) = mpsc::sync_channel(1);
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let run = move || {
            Enlisted::mark_thread();
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(MOST_BLOCKING)
                .thread_name("dlock-blocking")
                .build();
            match runtime {
                Ok(runtime) => {
                    let _ = sender.send(Ok(runtime.handle().clone()));
                    runtime.block_on(stopped.notified());
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            }
        };
        let thread = thread::Builder::new().name("dlock-async".to_owned());
        thread.spawn(run)?;
        let handle = started.recv().map_err(io::Error::other)??;
        Ok(Runtime { handle, stop })
    }
}
