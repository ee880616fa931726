//! What a process has once for all its multiplexers: a thread that rings alarms, and a runtime.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, ProcessId, Time};
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

/// The condition variable's clock stops while the machine sleeps; that of deadlines does not.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Something that wants to be called at a time.
pub(super) trait Alarm: Send + Sync {
    /// It is `at`, or later.
    fn ring(self: Arc<Self>, at: Time);
}

/// The alarms and the runtime of one process.
pub(super) struct Process {
    pid: ProcessId,
    alarms: Mutex<Alarms>,
    changed: Condvar,
    runtime: Mutex<Option<Handle>>,
    /// Those of a child that is forked off. A lock of its parent may be held for ever there.
    child: OnceLock<Box<Process>>,
}

#[derive(Default)]
struct Alarms {
    due: BTreeMap<(Time, u64), Weak<dyn Alarm>>,
    count: u64,
    runs: bool,
}

static FIRST: OnceLock<Process> = OnceLock::new();

impl Process {
    /// Those of the process that calls.
    pub(super) fn current() -> &'static Process {
        let pid = ProcessId::current();
        let mut process = FIRST.get_or_init(|| Process::new(pid));
        while process.pid != pid {
            process = process.child.get_or_init(|| Box::new(Process::new(pid)));
        }
        process
    }

    fn new(pid: ProcessId) -> Self {
        Process {
            pid,
            alarms: Mutex::default(),
            changed: Condvar::new(),
            runtime: Mutex::default(),
            child: OnceLock::new(),
        }
    }

    /// Makes sure that alarms ring.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(super) fn start_alarms(&'static self) -> io::Result<()> {
        let mut alarms = self.alarms();
        if !alarms.runs {
            thread::Builder::new()
                .name("dlock-alarms".to_owned())
                .spawn(move || self.ring_alarms())?;
            alarms.runs = true;
        }
        Ok(())
    }

    /// Rings `alarm` at `time`, if it still exists then.
    pub(super) fn ring_at(&self, time: Time, alarm: Weak<dyn Alarm>) {
        let mut alarms = self.alarms();
        alarms.count += 1;
        let number = alarms.count;
        let is_next = alarms
            .due
            .first_key_value()
            .is_none_or(|(first, _)| time < first.0);
        alarms.due.insert((time, number), alarm);
        if is_next {
            self.changed.notify_all();
        }
    }

    fn ring_alarms(&self) {
        let mut alarms = self.alarms();
        loop {
            let now = Clock::BOOTTIME.now();
            let pause = match alarms.due.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let ((at, _), alarm) = first.remove_entry();
                    drop(alarms);
                    if let Some(alarm) = alarm.upgrade() {
                        // A waker that panics must not end the alarms of all calls.
                        let _ = catch_unwind(AssertUnwindSafe(|| alarm.ring(at)));
                    }
                    alarms = self.alarms();
                    continue;
                }
                Some(first) => now.until(first.key().0).min(LONGEST_SLEEP),
                None => Duration::MAX,
            };
            alarms = self
                .changed
                .wait_timeout(alarms, pause)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn alarms(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime that drives connections where the caller's does not.
    ///
    /// # Errors
    ///
    /// If the system gives no thread or no event queue; the next call tries again.
    pub(super) fn runtime(&self) -> io::Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*runtime {
            return Ok(handle.clone());
        }
        // Built on its own thread: tokio panics if a runtime is dropped while a task is polled, as
        // it would be here if there is no thread to be had.
        let (sender, built) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("dlock-net".to_owned())
            .spawn(
                move || match Builder::new_current_thread().enable_io().build() {
                    Ok(new) => {
                        let _ = sender.send(Ok(new.handle().clone()));
                        new.block_on(pending::<()>());
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error));
                    }
                },
            )?;
        let handle = built.recv().map_err(io::Error::other)??;
        Ok(runtime.insert(handle).clone())
    }
}

/// Waits until `time` on [`Clock::BOOTTIME`], whatever the runtime's own clock does.
///
/// # Errors
///
/// If the system gives no thread to keep the time.
pub async fn sleep_until(time: Time) -> io::Result<()> {
    let process = Process::current();
    process.start_alarms()?;
    let sleeper = Arc::new(Sleeper::default());
    let alarm: Weak<Sleeper> = Arc::downgrade(&sleeper);
    process.ring_at(time, alarm);
    Sleep(sleeper).await;
    Ok(())
}

/// Returns the outcome of `future`, or `None` if it is not ready at `time`, whatever the runtime's
/// own clock does.
///
/// # Errors
///
/// If the system gives no thread to keep the time.
pub async fn ready_by<T>(time: Time, future: impl Future<Output = T>) -> io::Result<Option<T>> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep_until(time));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(Some(done))),
        Poll::Pending => sleep.as_mut().poll(cx).map_ok(|()| None),
    })
    .await
}

/// Looks, and again after each change that `changed` is notified of, until there is something.
/// Returns what there is.
pub async fn until<T>(changed: &Notify, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut next = pin!(changed.notified());
        // Before the look, so that no change is missed.
        next.as_mut().enable();
        if let Some(found) = look() {
            return found;
        }
        next.await;
    }
}

#[derive(Default)]
struct Sleeper(Mutex<(bool, Option<Waker>)>);

impl Sleeper {
    fn state(&self) -> MutexGuard<'_, (bool, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alarm for Sleeper {
    fn ring(self: Arc<Self>, _: Time) {
        let mut state = self.state();
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Sleep(Arc<Sleeper>);

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
