//! An r2d2 pool that keeps deadlines and survives a fork.

use std::fmt;
use std::mem;
use std::process;
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use r2d2::{ManageConnection, NopErrorHandler, PooledConnection};
use scheduled_thread_pool::{OnPoolDropBehavior, ScheduledThreadPool};

use crate::{Connect, Lazy};

const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// A backend's public connection manager: [`Connect`], and r2d2's [`ManageConnection`] through
/// [`impl_manage_connection!`](crate::impl_manage_connection).
pub trait PoolManager:
    Connect + ManageConnection<Connection = Lazy<Self>, Error = DatastoreError>
{
}

impl<M> PoolManager for M where
    M: Connect + ManageConnection<Connection = Lazy<Self>, Error = DatastoreError>
{
}

/// Makes a [`Connect`] type an r2d2 connection manager.
#[macro_export]
macro_rules! impl_manage_connection {
    ($manager:ty) => {
        impl $crate::r2d2::ManageConnection for $manager {
            type Connection = $crate::Lazy<$manager>;
            type Error = ::dlock_core::DatastoreError;

            /// A place for a connection; the first call opens it.
            fn connect(&self) -> ::std::result::Result<Self::Connection, Self::Error> {
                ::std::result::Result::Ok($crate::Lazy::new(::std::clone::Clone::clone(self)))
            }

            /// Always: a dead connection is replaced by the call that finds it so.
            fn is_valid(&self, _: &mut Self::Connection) -> ::std::result::Result<(), Self::Error> {
                ::std::result::Result::Ok(())
            }

            /// Never: a broken connection is closed by the call that finds it so, and its place stays in the pool. Only a panic leaves one.
            fn has_broken(&self, place: &mut Self::Connection) -> bool {
                if ::std::thread::panicking() {
                    place.discard_unusable();
                }
                false
            }
        }
    };
}

/// How many connections a [`Pool`] keeps, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolSettings {
    /// The most connections at a time, at least 1. Default 10.
    pub max_size: u32,
    /// The most that a call waits while all connections are in use; never longer than the call. Default: as long as the call.
    pub checkout_timeout: Option<Duration>,
    /// After how long without use one is closed. Default 10 minutes.
    pub idle_timeout: Option<Duration>,
    /// After how long one is closed. Default 30 minutes.
    pub max_lifetime: Option<Duration>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings {
            max_size: 10,
            checkout_timeout: None,
            idle_timeout: Some(Duration::from_secs(600)),
            max_lifetime: Some(Duration::from_secs(1800)),
        }
    }
}

impl PoolSettings {
    /// With at most this many connections; 0 means 1.
    #[must_use]
    pub fn with_max_size(mut self, connections: u32) -> Self {
        self.max_size = connections.max(1);
        self
    }

    /// With this [`checkout_timeout`](Self::checkout_timeout).
    #[must_use]
    pub fn with_checkout_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.checkout_timeout = timeout;
        self
    }

    /// With this [`idle_timeout`](Self::idle_timeout); zero means none.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.idle_timeout = timeout.filter(|time| !time.is_zero());
        self
    }

    /// With this [`max_lifetime`](Self::max_lifetime); zero means none.
    #[must_use]
    pub fn with_max_lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.max_lifetime = lifetime.filter(|time| !time.is_zero());
        self
    }
}

/// Connections to one server.
///
/// In a forked child a pool of its own takes over: the inherited connections are the parent's, and r2d2's thread did not come along.
pub struct Pool<M: PoolManager> {
    // An option only so that a forked child can forget it.
    pool: Option<r2d2::Pool<M>>,
    settings: PoolSettings,
    // Known from the start, or from the first checkout: r2d2 does not give its manager back.
    manager: OnceLock<M>,
    dedicated: Mutex<Option<Lazy<M>>>,
    pid: u32,
    child: OnceLock<Box<Pool<M>>>,
}

impl<M: PoolManager> Pool<M> {
    /// A pool without a connection yet.
    pub fn new(manager: M, settings: PoolSettings) -> Self {
        // It makes empty places and closes idle connections: one thread is enough, r2d2's default are three.
        let thread = ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("dlock-pool-{}")
            // Else the thread stays until the next look at idle connections.
            .on_drop_behavior(OnPoolDropBehavior::DiscardPendingScheduled)
            .build();
        let pool = r2d2::Pool::builder()
            .max_size(settings.max_size)
            .min_idle(Some(0))
            .idle_timeout(settings.idle_timeout)
            .max_lifetime(settings.max_lifetime)
            .test_on_check_out(false)
            .error_handler(Box::new(NopErrorHandler))
            .thread_pool(Arc::new(thread))
            .build_unchecked(manager.clone());
        let known = OnceLock::new();
        let _ = known.set(manager);
        Self::over(pool, settings, known)
    }

    /// A pool over one that the caller made, and may use besides. A call waits for a connection as long as that pool's
    /// connection timeout says, and never longer than the call may take.
    pub fn from_r2d2(pool: r2d2::Pool<M>) -> Self {
        let settings = PoolSettings::default()
            .with_max_size(pool.max_size())
            .with_checkout_timeout(Some(pool.connection_timeout()))
            .with_idle_timeout(pool.idle_timeout())
            .with_max_lifetime(pool.max_lifetime());
        Self::over(pool, settings, OnceLock::new())
    }

    fn over(pool: r2d2::Pool<M>, settings: PoolSettings, manager: OnceLock<M>) -> Self {
        Pool {
            pool: Some(pool),
            settings,
            manager,
            dedicated: Mutex::new(None),
            pid: process::id(),
            child: OnceLock::new(),
        }
    }

    /// Runs one call on a connection of the pool by `deadline`, on [`Clock::BOOTTIME`]; see [`Lazy::call`].
    ///
    /// # Errors
    ///
    /// That of the call or of opening a connection. [`ErrorKind::Timeout`], not executed, if all connections were in use until the
    /// deadline.
    pub fn call<T>(
        &self,
        deadline: Time,
        call: impl FnMut(&mut M::Link) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        if self.pid != process::id() {
            return self.child()?.call(deadline, call);
        }
        self.checkout(deadline)?.call_in(self.pid, deadline, call)
    }

    /// Runs one call on a connection outside of the pool, so that a worker is not held up by busy users; on one of the pool
    /// if that connection is in use.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_dedicated<T>(
        &self,
        deadline: Time,
        call: impl FnMut(&mut M::Link) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        if self.pid != process::id() {
            return self.child()?.call_dedicated(deadline, call);
        }
        let mut place = match self.dedicated.try_lock() {
            Ok(place) => place,
            // A panic in a call leaves a connection that says itself that it cannot be used.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.call(deadline, call),
        };
        if place.is_none() {
            let manager = match self.manager.get() {
                Some(manager) => manager.clone(),
                None => self.checkout(deadline)?.manager().clone(),
            };
            *place = Some(Lazy::new(manager));
        }
        match &mut *place {
            Some(place) => place.call_in(self.pid, deadline, call),
            None => self.call(deadline, call),
        }
    }

    /// Opens a connection that is the caller's, not the pool's.
    ///
    /// # Errors
    ///
    /// Not executed, with the reason.
    pub fn open(&self, deadline: Time) -> Result<M::Link, DatastoreError> {
        if self.pid != process::id() {
            return self.child()?.open(deadline);
        }
        match self.manager.get() {
            Some(manager) => Connect::connect(manager, deadline),
            None => Connect::connect(self.checkout(deadline)?.manager(), deadline),
        }
    }

    /// How many connections the pool has at most.
    pub fn max_size(&self) -> u32 {
        self.settings.max_size
    }

    fn checkout(&self, deadline: Time) -> Result<PooledConnection<M>, DatastoreError> {
        // r2d2 adds it to its clock, which overflows for "never".
        let most = self.settings.checkout_timeout.unwrap_or(LONGEST_WAIT);
        let left = Clock::BOOTTIME
            .now()
            .until(deadline)
            .min(most.min(LONGEST_WAIT));
        // A place is made in no time, so the only thing to wait for is another call's end.
        let place = self
            .pool
            .as_ref()
            .and_then(|pool| pool.get_timeout(left).ok())
            .ok_or_else(|| {
                let busy = format!(
                    "all {} connections of the pool were in use",
                    self.settings.max_size
                );
                DatastoreError::not_executed(ErrorKind::Timeout, busy)
            })?;
        if self.manager.get().is_none() {
            let _ = self.manager.set(place.manager().clone());
        }
        Ok(place)
    }

    fn child(&self) -> Result<&Self, DatastoreError> {
        let manager = self.manager.get().ok_or_else(|| {
            DatastoreError::not_executed(
                ErrorKind::Unsupported,
                "the pool was made before this process was forked off, and never used; make one here",
            )
        })?;
        Ok(self
            .child
            .get_or_init(|| Box::new(Pool::new(manager.clone(), self.settings))))
    }
}

impl<M: PoolManager> Drop for Pool<M> {
    fn drop(&mut self) {
        if self.pid != process::id() {
            // Ending the inherited pool would wait on locks and threads that only the parent has.
            mem::forget(self.pool.take());
        }
    }
}

impl<M: PoolManager> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
