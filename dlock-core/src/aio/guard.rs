//! The value that holds a lock in async code.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;

use super::continued::{Continued, OnDrop, Output, not_acquired_here};
use super::store::Store;
use crate::acquire_error::{AcquireError, ReleaseError};
use crate::contract::grant::FencingToken;
use crate::engine::callback::Callback;
use crate::engine::hold::{Caller, End, Holding};
use crate::engine::run_once::Guard;
use crate::trace::ReleaseSpan;

/// Holds a lock for as long as it lives: the lease is renewed in the background, dropping the guard
/// releases it.
///
/// A guard can outlive its lease: the process may be stopped, the store unreachable, the lock
/// broken by an operator. Then the guard is **lost**, finally. Look at [`is_valid`](Self::is_valid)
/// before a step that must not be done twice, and give [`fencing_token`](Self::fencing_token) to
/// the resource that is guarded: between the look and the step only the token protects.
///
/// - [`lost`](Self::lost) is a future for `select!`: it ends when the lease is lost.
/// - Dropping sends the release and waits for nothing. It goes on in the background, on a thread of
///   dlock, see [`Store::settled`]. What goes wrong is reported to the store's
///   [`Observer`](crate::Observer); a caller that must know calls [`release`](Self::release).
/// - A guard is dropped with its task. If the runtime shuts down, its guards are released all the
///   same.
/// - `std::mem::forget` leaves the lease renewed until [`max_hold`](crate::LockOptions::max_hold)
///   or the end of the process.
/// - In a forked child an inherited guard is lost, and dropping it does nothing.
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard {
    store: Store,
    /// `None` when it was released.
    holding: Option<Holding>,
    /// Notified when the lease is lost; made when somebody waits for that.
    lost: OnceLock<Arc<Notify>>,
}

impl LockGuard {
    /// The key, as the store sees it.
    pub fn key(&self) -> &str {
        self.hold().held().key()
    }

    /// The fencing token, for the guarded resource to check; `None` if the store has none.
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.hold().held().fence()
    }

    /// Whether the lease lasts at this moment. No I/O: it is a look at the clock.
    ///
    /// Once it was `false` it stays `false`.
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long the lease lasts if it is not renewed any more; zero if it is lost. No I/O.
    pub fn remaining(&self) -> Duration {
        self.hold().remaining(&self.store)
    }

    /// Ends when the lease is lost; at once if it is already. For `select!`:
    ///
    /// ```
    /// # use dlock_core::{MemoryDatastore, aio::Lock};
    /// # async fn import() {}
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = Lock::new(MemoryDatastore::new(), "hourly-import").try_acquire().await?;
    /// tokio::select! {
    ///     () = import() => guard.release().await?,
    ///     () = guard.lost() => eprintln!("lost the lock, stopped the import"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The loss is declared in time whatever the runtime does; a task learns of it when it is
    /// polled. Code that blocks its thread cannot be stopped this way: for that time only the
    /// [`fencing_token`](Self::fencing_token) protects.
    pub async fn lost(&self) {
        let lost = self.lost.get_or_init(|| {
            let lost = Arc::new(Notify::new());
            let notify = Arc::clone(&lost);
            let callback = Callback::prompt(move || notify.notify_waiters());
            self.hold().on_lost(&self.store, callback);
            lost
        });
        loop {
            // Before the look, so that no loss after it is missed.
            let notified = lost.notified();
            if !self.is_valid() {
                return;
            }
            notified.await;
        }
    }

    /// Calls `callback` once, on a thread of the store, when the lease is lost; at once if it is
    /// already. Not after a release.
    ///
    /// It may block, and it runs whatever the runtime does. A callback that owns this guard, in an
    /// `Arc` say, keeps it alive and the lock held.
    pub fn on_lost(&self, callback: impl FnOnce() + Send + 'static) {
        self.hold().on_lost(&self.store, Callback::new(callback));
    }

    /// Calls `callback` once, on a thread of the store, when the lease was not renewed for so long
    /// that only [`grace`](crate::LockOptions::grace) of it is left; at once if that is so already.
    /// Not after a release.
    pub fn on_at_risk(&self, callback: impl FnOnce() + Send + 'static) {
        self.hold().on_at_risk(&self.store, Callback::new(callback));
    }

    /// Releases the lock, or leaves it to the end of its
    /// [`min_hold`](crate::LockOptions::min_hold). It makes the calls of the
    /// [blocking form](crate::LockGuard::release).
    ///
    /// The release is carried out even if the future is dropped, before it is polled or half-way;
    /// then it goes on in the background.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] if the lease had ended before: the lock was not exclusive all the
    /// time. [`ReleaseError::NotReleased`] or [`ReleaseError::Unknown`] if the store could not be
    /// reached, or did not answer: then the key may stay taken until the lease ends by itself.
    pub fn release(self) -> Release {
        self.end(Caller::Waits)
    }

    pub(super) fn end(mut self, caller: Caller) -> Release {
        Release(self.ending(End::AsOptionsSay, caller))
    }

    /// Releases a lock under which nothing ran.
    pub(super) fn end_unused(mut self) -> Release {
        Release(self.ending(End::Free, Caller::Waits))
    }

    /// Takes the hold out of the guard.
    fn ending(&mut self, end: End, caller: Caller) -> Option<Continued<Result<(), ReleaseError>>> {
        let mut holding = self.holding.take()?;
        let store = self.store.clone();
        let key = Arc::clone(holding.held().key());
        let flow = async move {
            let span = ReleaseSpan::new(store.name(), holding.held().key());
            let ended = {
                let mut ending = pin!(holding.end(&store, end, caller));
                poll_fn(|context| span.in_scope(|| ending.as_mut().poll(context))).await
            };
            span.end(|| holding.held().held_for(), ended.as_ref().copied());
            ended
        };
        let on_drop = OnDrop::CarryOut { begun: false };
        Some(Continued::new(&self.store, &key, on_drop, flow))
    }

    fn hold(&self) -> &Holding {
        self.holding
            .as_ref()
            .expect("it is there until the guard is released")
    }
}

impl Guard<Store> for LockGuard {
    fn around(store: &Store, holding: Holding) -> Self {
        holding.observe_loss(store);
        LockGuard {
            store: store.clone(),
            holding: Some(holding),
            lost: OnceLock::new(),
        }
    }

    fn holding(&mut self) -> &mut Holding {
        self.holding
            .as_mut()
            .expect("it is there until the guard is released")
    }
}

impl Output for Result<LockGuard, AcquireError> {
    fn of_another_process() -> Self {
        Err(not_acquired_here())
    }
}

impl Output for Result<(), ReleaseError> {
    /// In a forked child an inherited lock is lost.
    fn of_another_process() -> Self {
        Err(ReleaseError::Lost)
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let over = |holding: &Holding| holding.has_ended() || holding.is_inherited(&self.store);
        if self.holding.as_ref().is_none_or(over) {
            return;
        }
        drop(self.ending(End::AsOptionsSay, Caller::Drops));
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", &self.key())
            .field("fencing_token", &self.fencing_token())
            .finish_non_exhaustive()
    }
}

/// The future of [`LockGuard::release`]. If it is dropped the release goes on in the background.
#[must_use = "await it to learn how the release went"]
pub struct Release(Option<Continued<Result<(), ReleaseError>>>);

impl Future for Release {
    type Output = Result<(), ReleaseError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(flow) => Pin::new(flow).poll(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Release").finish_non_exhaustive()
    }
}
