//! Futures that are dropped: after each number of polls, before and after their answer came, on the
//! runtime and outside of it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use dlock_core::aio::Boxed;

use crate::Subject;
use crate::case::{Case, Law, broken};
use crate::executor::{AsyncHandle, Executor};
use crate::form::{Handle, Lock, Store};

/// More polls than any call of a store needs.
const MOST_POLLS: usize = 40;

/// How often a waiter that polls the store is woken at the most before it counts as waiting.
const OFTEN: usize = 40;

/// When and where a future is dropped.
#[derive(Clone, Copy)]
pub(crate) struct DropAt {
    /// How often it is polled before.
    pub(crate) polls: usize,
    /// Whether it is dropped when it is woken again. Otherwise it is dropped when the last poll
    /// returns, while its call is under way.
    is_woken: bool,
    /// Whether it is polled and dropped in a task of the runtime. Otherwise the thread of the case
    /// does both.
    is_task: bool,
}

impl DropAt {
    /// After further polls, when it is woken.
    pub(crate) fn when_woken(polls: usize, is_task: bool) -> Self {
        DropAt {
            polls,
            is_woken: true,
            is_task,
        }
    }

    /// The same point in a task of the runtime.
    pub(crate) fn in_task(self) -> Self {
        DropAt {
            is_task: true,
            ..self
        }
    }
}

impl fmt::Display for DropAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.is_woken {
            true => "and one wake-up",
            false => "under way",
        };
        let place = match self.is_task {
            true => "in a task",
            false => "outside of the runtime",
        };
        write!(f, "dropped {place} after {} polls {when}", self.polls)
    }
}

/// What became of a future.
pub(crate) enum Polled<T> {
    /// It was ready before it could be dropped.
    Ended(T),
    Dropped,
    /// It was not woken for a while, and dropped then: it waits for something else.
    AtRest,
}

impl<T> Polled<T> {
    /// Whether a later drop shows more.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Polled::Dropped)
    }
}

/// Runs `round` for each point at which a future may be dropped, until it returns `false`.
pub(crate) fn at_each_await(first: usize, mut round: impl FnMut(DropAt) -> bool) {
    for (is_woken, is_task) in [(false, false), (false, true), (true, false), (true, true)] {
        for polls in first..MOST_POLLS {
            let at = DropAt {
                polls,
                is_woken,
                is_task,
            };
            if !round(at) {
                break;
            }
        }
    }
}

impl Executor {
    /// Polls a future and drops it.
    ///
    /// With `rest`, a future that is not woken for so long is dropped then.
    pub(crate) fn drops<T: Send + 'static>(
        &self,
        at: DropAt,
        rest: Duration,
        future: Boxed<'static, T>,
    ) -> Polled<T> {
        if !at.is_task {
            return self.wait_for(polled(future, at, rest));
        }
        match self.wait_for(self.runtime.spawn(polled(future, at, rest))) {
            Ok(polled) => polled,
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    /// Polls a future until it waits for something else; `None` then. A waiter that polls a store
    /// never rests for long if that is slow: it waits when it was woken often.
    pub(crate) fn until_rest<T>(&self, future: &mut Boxed<'_, T>, rest: Duration) -> Option<T> {
        self.wait_for(async {
            for _ in 0..OFTEN {
                let mut polls = 0;
                let woken = poll_fn(|context| {
                    polls += 1;
                    match future.as_mut().poll(context) {
                        Poll::Ready(value) => Poll::Ready(Some(value)),
                        Poll::Pending if polls > 1 => Poll::Ready(None),
                        Poll::Pending => Poll::Pending,
                    }
                });
                match before(rest, woken).await {
                    Some(Some(value)) => return Some(value),
                    Some(None) => {}
                    None => return None,
                }
            }
            None
        })
    }
}

/// Polls a future as often as `at` says, and drops it.
async fn polled<T>(mut future: Boxed<'_, T>, at: DropAt, rest: Duration) -> Polled<T> {
    let mut polls = 0;
    let dropped = poll_fn(|context| {
        if polls >= at.polls {
            return Poll::Ready(Polled::Dropped);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Polled::Ended(value)),
            Poll::Pending if polls == at.polls && !at.is_woken => Poll::Ready(Polled::Dropped),
            Poll::Pending => Poll::Pending,
        }
    });
    before(rest, dropped).await.unwrap_or(Polled::AtRest)
}

/// Waits for a future, `None` if it is not ready after `rest`. The future is not polled by then:
/// that the time is over must not look like a wake-up.
async fn before<T>(rest: Duration, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut over) = (pin!(future), pin!(tokio::time::sleep(rest)));
    poll_fn(|context| match over.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(context).map(Some),
    })
    .await
}

/// A case of the async form.
pub(crate) struct AsyncCase<'c> {
    pub(crate) case: Case<'c>,
    pub(crate) executor: Executor,
}

impl<'c> AsyncCase<'c> {
    pub(crate) fn new(subject: &'c Subject, law: Law) -> Self {
        let case = Case::new(subject, law);
        let executor = case.asynchronous(subject.first()).executor;
        AsyncCase { case, executor }
    }

    /// A store of its own over the first handle, or over another one.
    pub(crate) fn store(&self, is_first: bool) -> dlock_core::aio::Store {
        let handle = match is_first {
            true => self.case.subject.first(),
            false => self.case.subject.another(),
        };
        dlock_core::aio::Store::new(self.case.asynchronous(handle).store)
    }

    /// A lock of this store, with a time to live that does not end during the case.
    pub(crate) fn lock(&self, store: &dlock_core::aio::Store, id: &str) -> TwoFaced {
        self.lock_for(store, id, self.case.long())
    }

    /// A lock whose lease is not renewed if `ttl` is not the case's longest.
    pub(crate) fn lock_for(
        &self,
        store: &dlock_core::aio::Store,
        id: &str,
        ttl: Duration,
    ) -> TwoFaced {
        let store = Store::Async(store.clone(), self.executor.clone());
        let renewed = ttl == self.case.long();
        let lock = self
            .case
            .lock(&store, id, |options| options.ttl(ttl).renew(renewed));
        match &lock {
            Lock::Async(bare, _) => TwoFaced {
                bare: bare.clone(),
                lock,
            },
            Lock::Blocking(_) => unreachable!("its store is async"),
        }
    }

    /// A future is at rest if it is not woken for this long.
    pub(crate) fn rest(&self) -> Duration {
        Duration::from_millis(100) + self.case.latency() * 8
    }

    /// Waits for what goes on in the background, and checks that nothing holds the key or waits
    /// for it.
    pub(crate) fn is_free(&self, lock: &TwoFaced, since: &str) {
        self.executor.wait_for(lock.bare.store().settled());
        let stranger = self
            .case
            .client_on(&self.case.subject.another(), lock.bare.key());
        let holding = stranger.take(self.case.long(), since);
        stranger.frees(&holding.lease, "the lease had half an hour left");
    }

    /// Checks that the next try of the same lock in the same store works at once.
    pub(crate) fn works_at_once(&self, lock: &TwoFaced, since: &str) {
        let guard = self.case.acquired(&lock.lock, since);
        self.case.released(guard);
    }
}

impl Case<'_> {
    fn asynchronous(&self, handle: Handle) -> AsyncHandle {
        match handle.asynchronous {
            Some(asynchronous) => asynchronous,
            None => broken!(
                self,
                "not shown: the store is not async (make the subject by `Subject::of_async`)"
            ),
        }
    }
}

/// An async lock: bare, and as cases of both forms use it.
pub(crate) struct TwoFaced {
    pub(crate) bare: dlock_core::aio::Lock,
    pub(crate) lock: Lock,
}
