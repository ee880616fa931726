//! The connections of a multiplexer, and those that are being opened.

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use super::connection::{Connection, Keeps};
use super::driver;
use super::process::{Alarm, Process};
use super::protocol::{Open, Opened};
use crate::deadline_in;

/// An opener limits itself; this one is for one that does not.
const OPENS_WITHIN: Duration = Duration::from_secs(60);

pub(super) type Shares<O> = Connection<<O as Open>::Writer, <O as Open>::Replies>;

/// The connections, by the runtime that drives them.
pub(super) struct Table<O: Open> {
    open: Arc<O>,
    /// Itself, for the connections.
    this: Weak<Table<O>>,
    connections: RwLock<Vec<(Id, Entry<O>)>>,
    opening: Mutex<Opening<O>>,
}

/// What there is for a runtime.
pub(super) enum Entry<O: Open> {
    Open(Arc<Shares<O>>),
    /// The runtime was built without I/O. It lives as long as a task of it that waits for this.
    NoIo(Arc<oneshot::Sender<()>>),
}

impl<O: Open> Clone for Entry<O> {
    fn clone(&self) -> Self {
        match self {
            Entry::Open(connection) => Entry::Open(Arc::clone(connection)),
            Entry::NoIo(lives) => Entry::NoIo(Arc::clone(lives)),
        }
    }
}

impl<O: Open> Entry<O> {
    /// What there is for a runtime on which no connection can be.
    fn without_io(runtime: &Handle) -> Self {
        let (lives, gone) = oneshot::channel();
        runtime.spawn(async move {
            // Until the table has forgotten the entry.
            let _ = gone.await;
        });
        Entry::NoIo(Arc::new(lives))
    }

    /// Whether its runtime is known to have ended.
    fn is_over(&self) -> bool {
        match self {
            Entry::Open(_) => false,
            Entry::NoIo(lives) => lives.is_closed(),
        }
    }
}

struct Opening<O: Open> {
    /// The callers that wait, by the runtime for which a connection is being opened.
    waiting: Vec<(Id, Vec<Waiter<O>>)>,
    closed: bool,
}

struct Waiter<O: Open> {
    deadline: Time,
    to: oneshot::Sender<Result<Entry<O>, DatastoreError>>,
}

impl<O: Open> Table<O> {
    pub(super) fn new(open: Arc<O>) -> Arc<Self> {
        Arc::new_cyclic(|this| Table {
            open,
            this: Weak::clone(this),
            connections: RwLock::default(),
            opening: Mutex::new(Opening {
                waiting: Vec::new(),
                closed: false,
            }),
        })
    }

    /// Takes no more calls; connections end with the last of those under way.
    pub(super) fn close(&self) {
        self.opening().closed = true;
        let mut connections = self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let all = mem::take(&mut *connections);
        drop(connections);
        for (_, entry) in all {
            retire(Some(entry));
        }
    }

    /// What there is for a runtime already.
    pub(super) fn known(&self, id: Id) -> Option<Entry<O>> {
        let connections = self
            .connections
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let known = connections.iter().find(|(of, _)| *of == id);
        let entry = known.map(|(_, entry)| entry.clone())?;
        drop(connections);
        if let Entry::Open(connection) = &entry
            && !self.open.is_current(connection.peer())
        {
            connection.retire();
            return None;
        }
        Some(entry)
    }

    /// The connection on this runtime, opened if need be.
    pub(super) async fn entry(
        &self,
        runtime: &Handle,
        is_own: bool,
        deadline: Time,
    ) -> Result<Entry<O>, DatastoreError> {
        let id = runtime.id();
        if let Some(entry) = self.known(id) {
            return Ok(entry);
        }
        // First: no connection may be kept whose calls nothing would end.
        let process = Process::current();
        process.start_alarms().map_err(refused)?;
        let outcome = match self.wait_for(id, deadline) {
            Waits::Known(entry) => return Ok(entry),
            Waits::First(outcome) => {
                self.start_opening(runtime, is_own)?;
                outcome
            }
            Waits::Behind(outcome) => outcome,
        };
        process.ring_at(deadline, Weak::clone(&self.this) as Weak<dyn Alarm>);
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    fn wait_for(&self, id: Id, deadline: Time) -> Waits<O> {
        let mut opening = self.opening();
        // It may have been opened since.
        if let Some(entry) = self.known(id) {
            return Waits::Known(entry);
        }
        let (to, outcome) = oneshot::channel();
        let waiter = Waiter { deadline, to };
        match opening.waiting.iter_mut().find(|(of, _)| *of == id) {
            Some((_, waiters)) => {
                waiters.push(waiter);
                Waits::Behind(outcome)
            }
            None => {
                opening.waiting.push((id, vec![waiter]));
                Waits::First(outcome)
            }
        }
    }

    /// Opens a connection on a thread of its own. Each caller waits for it until its own deadline.
    fn start_opening(&self, runtime: &Handle, is_own: bool) -> Result<(), DatastoreError> {
        let attempt = Attempt {
            table: Weak::clone(&self.this),
            id: runtime.id(),
            result: None,
        };
        let (open, runtime) = (Arc::clone(&self.open), runtime.clone());
        thread::Builder::new()
            .name("dlock-connect".to_owned())
            .spawn(move || attempt.run(&*open, &runtime, is_own))
            .map(drop)
            .map_err(refused)
    }

    fn opening(&self) -> MutexGuard<'_, Opening<O>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Waits<O: Open> {
    Known(Entry<O>),
    /// The caller opens the connection.
    First(oneshot::Receiver<Result<Entry<O>, DatastoreError>>),
    /// Another caller does.
    Behind(oneshot::Receiver<Result<Entry<O>, DatastoreError>>),
}

/// An attempt to open a connection. Dropping it reports the result to the callers that wait.
struct Attempt<O: Open> {
    table: Weak<Table<O>>,
    id: Id,
    result: Option<Result<Entry<O>, DatastoreError>>,
}

impl<O: Open> Attempt<O> {
    fn run(mut self, open: &O, runtime: &Handle, is_own: bool) {
        let opened = open.open(deadline_in(OPENS_WITHIN));
        self.result = Some(opened.and_then(|opened| self.start(opened, runtime, is_own)));
    }

    fn start(
        &self,
        opened: Opened<O::Writer, O::Replies>,
        runtime: &Handle,
        is_own: bool,
    ) -> Result<Entry<O>, DatastoreError> {
        let keeper: Weak<dyn Keeps<O::Writer, O::Replies>> = self.table.clone();
        // Tokio panics if the runtime was built without I/O.
        let started = catch_unwind(AssertUnwindSafe(|| {
            driver::start(opened, runtime, is_own, keeper)
        }));
        match started {
            Ok(Ok(connection)) => Ok(Entry::Open(connection)),
            Ok(Err(error)) => Err(DatastoreError::not_executed(ErrorKind::Unreachable, error)),
            Err(_) => Ok(Entry::without_io(runtime)),
        }
    }
}

impl<O: Open> Drop for Attempt<O> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(closed()));
        let Some(table) = self.table.upgrade() else {
            retire(result.ok());
            return;
        };
        let mut opening = table.opening();
        let place = opening.waiting.iter().position(|(id, _)| *id == self.id);
        let waiters = place.map_or_else(Vec::new, |at| opening.waiting.swap_remove(at).1);
        if opening.closed {
            drop(opening);
            retire(result.ok());
            return;
        }
        if let Ok(entry) = &result {
            let mut connections = table
                .connections
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            // Connections end with their runtimes; what was noted of the others is forgotten here.
            connections.retain(|(_, entry)| !entry.is_over());
            connections.push((self.id, entry.clone()));
        }
        drop(opening);
        // It may have ended before it was kept.
        if let Ok(Entry::Open(connection)) = &result
            && connection.is_closed()
        {
            table.forget(connection);
        }
        for waiter in waiters {
            // The caller may have left.
            let _ = waiter.to.send(result.clone());
        }
    }
}

fn retire<O: Open>(entry: Option<Entry<O>>) {
    if let Some(Entry::Open(connection)) = entry {
        connection.retire();
    }
}

impl<O: Open> Keeps<O::Writer, O::Replies> for Table<O> {
    fn forget(&self, connection: &Arc<Shares<O>>) {
        let mut connections = self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        connections.retain(|(_, entry)| match entry {
            Entry::Open(kept) => !Arc::ptr_eq(kept, connection),
            Entry::NoIo(_) => true,
        });
    }
}

/// Ends the waits whose time is over.
impl<O: Open> Alarm for Table<O> {
    fn ring(self: Arc<Self>, _: Time) {
        let now = Clock::BOOTTIME.now();
        let mut over = Vec::new();
        for (_, waiters) in &mut self.opening().waiting {
            over.extend(waiters.extract_if(.., |waiter| waiter.deadline <= now));
        }
        for waiter in over {
            let error = "no connection was opened by the end of the call";
            let _ = waiter
                .to
                .send(Err(DatastoreError::not_executed(ErrorKind::Timeout, error)));
        }
    }
}

fn refused(error: io::Error) -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Refused, error)
}

pub(super) fn closed() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unreachable, "the connection could not be opened")
}

#[cfg(test)]
mod tests;
