//! Counts what goes on in the background after its future or its guard was dropped.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use crate::engine::renewal::Keeper;
use crate::time::instant::Time;
use crate::time::signal::Signal;
use crate::time::user_code::contained;
use crate::time::wait::Wait;

/// Counts what goes on in the background of a store, in all and by key.
#[derive(Default)]
pub(super) struct Pending {
    count: AtomicUsize,
    settled: Notify,
    keys: Mutex<HashMap<Arc<str>, OfKey>>,
}

#[derive(Default)]
struct OfKey {
    count: usize,
    over: Arc<Notify>,
}

/// Something that goes on, until this is dropped.
pub(super) struct Work {
    pending: Arc<Pending>,
    key: Option<Arc<str>>,
}

impl Pending {
    /// Counts something more, about this key if it is about one.
    pub(super) fn begin(self: &Arc<Self>, key: Option<&Arc<str>>) -> Work {
        self.count.fetch_add(1, Ordering::SeqCst);
        if let Some(key) = key {
            let mut keys = self.keys();
            keys.entry(Arc::clone(key)).or_default().count += 1;
        }
        Work {
            pending: Arc::clone(self),
            key: key.cloned(),
        }
    }

    /// Waits until nothing goes on.
    pub(super) async fn settled(&self) {
        loop {
            // Before the look, so that no end after it is missed.
            let settled = self.settled.notified();
            if self.is_nothing() {
                return;
            }
            settled.await;
        }
    }

    /// Whether nothing goes on.
    pub(super) fn is_nothing(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Waits until nothing goes on that is about `key`: at most until `until`, or until `wait` is
    /// cancelled.
    pub(super) async fn over(&self, key: &str, keeper: &Keeper, wait: &Wait, until: Time) {
        let cancelled = Signal::new();
        let _subscription = wait.subscribe(&cancelled);
        let mut alarm = keeper.alarm(until);
        loop {
            // Made under the lock, so that no end is missed.
            let over = |of: &OfKey| Arc::clone(&of.over).notified_owned();
            let Some(over) = self.keys().get(key).map(over) else {
                return;
            };
            let mut over = pin!(over);
            let ended_early = poll_fn(|context| {
                if over.as_mut().poll(context).is_ready() {
                    return Poll::Ready(false);
                }
                let waker = context.waker();
                if cancelled.is_notified_or_wakes(waker) || alarm.poll(context).is_ready() {
                    return Poll::Ready(true);
                }
                Poll::Pending
            });
            if ended_early.await {
                return;
            }
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<Arc<str>, OfKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            let mut keys = self.pending.keys();
            let over = keys.get_mut(key).and_then(|of| {
                of.count -= 1;
                (of.count == 0).then(|| Arc::clone(&of.over))
            });
            if over.is_some() {
                keys.remove(key);
            }
            drop(keys);
            if let Some(over) = over {
                contained(|| over.notify_waiters());
            }
        }
        if self.pending.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            contained(|| self.pending.settled.notify_waiters());
        }
    }
}
