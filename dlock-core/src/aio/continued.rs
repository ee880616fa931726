//! Futures that go on in the background when they are dropped.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::future::Boxed;
use super::store::Store;
use crate::ProcessId;
use crate::acquire_error::AcquireError;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::time::user_code::contained;
use crate::time::wait::Cancel;

/// A flow that goes on in the background of its store when its future is dropped.
///
/// The future is a small handle around a box, so handing the flow over moves nothing, and a call
/// that is under way stays under way: its answer is not lost, and no second set of rules says how
/// to clean up at which await.
///
/// It belongs to the process that made it. A forked child has a copy of it, with the owner token of
/// its parent and parts of a call that the parent still uses. So the child polls nothing: it
/// gets the output for a [refused](Output::of_another_process) future, and leaks the flow.
pub(super) struct Continued<T: Output> {
    store: Store,
    key: Arc<str>,
    /// `None` when it is over.
    flow: Option<Boxed<'static, T>>,
    on_drop: OnDrop,
    process: ProcessId,
}

/// What becomes of a flow whose future is dropped.
pub(super) enum OnDrop {
    /// A flow that was never polled ends. Any other sees this flag and goes on to undo what it did.
    Cancel { dropped: Cancel, begun: bool },
    /// It is carried out, whether it was polled or not.
    CarryOut { begun: bool },
}

/// What a flow results in.
pub(super) trait Output: Send + 'static {
    /// The output of a flow that another process began, and that is not polled in this one.
    fn of_another_process() -> Self;
}

impl<T: Output> Continued<T> {
    /// A flow about `key` that starts when it is polled.
    pub(super) fn new(
        store: &Store,
        key: &Arc<str>,
        on_drop: OnDrop,
        flow: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        Continued {
            store: store.clone(),
            key: Arc::clone(key),
            flow: Some(Box::pin(flow)),
            on_drop,
            process: ProcessId::current(),
        }
    }
}

impl<T: Output> Future for Continued<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        if this.process != ProcessId::current() {
            return Poll::Ready(T::of_another_process());
        }
        let (OnDrop::Cancel { begun, .. } | OnDrop::CarryOut { begun }) = &mut this.on_drop;
        *begun = true;
        // Taken out while it is polled: a flow that panics is dropped and never goes on.
        let mut flow = this.flow.take().expect("polled after it was ready");
        let polled = flow.as_mut().poll(context);
        if polled.is_pending() {
            this.flow = Some(flow);
        }
        polled
    }
}

impl<T: Output> Drop for Continued<T> {
    fn drop(&mut self) {
        let Some(mut flow) = self.flow.take() else {
            return;
        };
        if self.process != ProcessId::current() {
            // In a forked child: a call under way has parts that the parent still uses.
            std::mem::forget(flow);
            return;
        }
        match &self.on_drop {
            OnDrop::Cancel { begun: false, .. } => return,
            OnDrop::Cancel { dropped, .. } => dropped.cancel(),
            OnDrop::CarryOut { begun: true } => {}
            // The call is sent before the drop returns, where the store takes it at once.
            OnDrop::CarryOut { begun: false } => match polled_once(flow) {
                Some(rest) => flow = rest,
                None => return,
            },
        }
        self.store.go_on(&self.key, flow);
    }
}

/// The error of an acquire that another process began.
pub(super) fn not_acquired_here() -> AcquireError {
    let text = "the future belongs to the process that forked this one; acquire the lock anew in \
                the child";
    let error = DatastoreError::not_executed(ErrorKind::Unsupported, text);
    error.during("acquire").into()
}

/// Polls a flow once, in a drop, which must not panic. Returns the flow if there is more to do.
fn polled_once<T>(mut flow: Boxed<'static, T>) -> Option<Boxed<'static, T>> {
    let mut rest = None;
    let before = BY_DROP.replace(true);
    contained(|| {
        let mut context = Context::from_waker(Waker::noop());
        if flow.as_mut().poll(&mut context).is_pending() {
            rest = Some(flow);
        }
    });
    BY_DROP.set(before);
    rest
}

thread_local! {
    static BY_DROP: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the call that is polled now is the release of a guard that is being dropped. For
/// async stores: the runtime and the program may end as soon as this poll returns, so a store that
/// can sends the request in it, and leaves it to no other task.
pub fn is_polled_by_drop() -> bool {
    BY_DROP.get()
}
