//! A pool that keeps deadlines and survives a fork, with places of its own or over an r2d2 pool of
//! the caller's.

use std::fmt;
use std::mem;
use std::sync::{Mutex, OnceLock, TryLockError};
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, ProcessId, Time};
use r2d2::{ManageConnection, PooledConnection};

use crate::places::{Places, Urgency};
use crate::repeat::Silence;
use crate::{Connect, Earlier, Lazy, deadline_in};

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

            /// Never: a broken connection is closed by the call that finds it so, and its place
            /// stays in the pool. Only a panic leaves one.
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
    /// The most connections at a time, at least 1. Default 10. [Urgent](Pool::call_urgent) calls
    /// may open as many again while all are in use; those are closed afterwards.
    pub max_size: u32,
    /// The most that a call waits while all connections are in use; never longer than the call.
    /// Default: as long as the call.
    pub checkout_timeout: Option<Duration>,
    /// After how long without use one is closed, by the next call of the pool. Default 10 minutes.
    pub idle_timeout: Option<Duration>,
    /// After how long one is closed, by the next call of the pool. Default 30 minutes.
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
/// It needs no thread. In a forked child a pool of its own takes over: the inherited connections
/// are the parent's.
pub struct Pool<M: PoolManager> {
    /// The pool's own places; those of urgent calls only if the caller gave a pool.
    places: Places<M>,
    // An option only so that a forked child can forget it.
    callers: Option<r2d2::Pool<M>>,
    settings: PoolSettings,
    // Known from the start, or from the first checkout: r2d2 does not give its manager back.
    manager: OnceLock<M>,
    dedicated: Mutex<Option<Lazy<M>>>,
    pid: ProcessId,
    child: OnceLock<Box<Pool<M>>>,
}

impl<M: PoolManager> Pool<M> {
    /// A pool without a connection yet.
    pub fn new(manager: M, settings: PoolSettings) -> Self {
        let most = settings.max_size.max(1);
        let places = Places::new(most, most.saturating_mul(2), &settings);
        let known = OnceLock::new();
        let _ = known.set(manager);
        Self::over(places, None, settings, known)
    }

    /// A pool over one that the caller made, and may use besides. A call waits for a connection as
    /// long as that pool's connection timeout says, and never longer than the call may take.
    pub fn from_r2d2(pool: r2d2::Pool<M>) -> Self {
        let settings = PoolSettings::default()
            .with_max_size(pool.max_size())
            .with_checkout_timeout(Some(pool.connection_timeout()))
            .with_idle_timeout(pool.idle_timeout())
            .with_max_lifetime(pool.max_lifetime());
        let places = Places::new(0, settings.max_size, &settings);
        Self::over(places, Some(pool), settings, OnceLock::new())
    }

    fn over(
        places: Places<M>,
        callers: Option<r2d2::Pool<M>>,
        settings: PoolSettings,
        manager: OnceLock<M>,
    ) -> Self {
        Pool {
            places,
            callers,
            settings,
            manager,
            dedicated: Mutex::new(None),
            pid: ProcessId::current(),
            child: OnceLock::new(),
        }
    }

    /// Runs one call on a connection of the pool by `deadline`, on [`Clock::BOOTTIME`]; see
    /// [`Lazy::call`]. If a connection that was unused for five seconds or more does not answer
    /// within half of the time, the call runs again on a fresh one.
    ///
    /// # Errors
    ///
    /// That of the call or of opening a connection. [`ErrorKind::Timeout`], not executed, if all
    /// connections were in use until the deadline.
    pub fn call<T>(
        &self,
        deadline: Time,
        call: impl FnMut(&mut M::Link, Earlier) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        if self.pid != ProcessId::current() {
            return self.child()?.call(deadline, call);
        }
        self.call_on(Urgency::Usual, deadline, call)
    }

    /// Runs a call for whose effect others wait: a release, an extend. It comes before calls that
    /// wait for a connection, has [`max_size`](PoolSettings::max_size) connections more when all
    /// are in use, and if a connection that was used before does not answer within half of the
    /// time, the call runs again on a fresh one.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_urgent<T>(
        &self,
        deadline: Time,
        call: impl FnMut(&mut M::Link, Earlier) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        if self.pid != ProcessId::current() {
            return self.child()?.call_urgent(deadline, call);
        }
        self.call_on(Urgency::Urgent, deadline, call)
    }

    /// Runs one call on a connection outside of the pool, so that a worker is not held up by busy
    /// users; as an [urgent](Self::call_urgent) one of the pool if that connection is in use.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_dedicated<T>(
        &self,
        deadline: Time,
        call: impl FnMut(&mut M::Link, Earlier) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        if self.pid != ProcessId::current() {
            return self.child()?.call_dedicated(deadline, call);
        }
        let mut place = match self.dedicated.try_lock() {
            Ok(place) => place,
            // A panic in a call leaves a connection that says itself that it cannot be used.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.call_urgent(deadline, call),
        };
        if place.is_none() {
            *place = Some(Lazy::new(self.manager(deadline)?.clone()));
        }
        match &mut *place {
            // The worker's calls are short and are repeated by itself.
            Some(place) => place.call_in(self.pid, deadline, Silence::Fails, call),
            None => self.call_urgent(deadline, call),
        }
    }

    /// Opens a connection that is the caller's, not the pool's.
    ///
    /// # Errors
    ///
    /// Not executed, with the reason.
    pub fn open(&self, deadline: Time) -> Result<M::Link, DatastoreError> {
        if self.pid != ProcessId::current() {
            return self.child()?.open(deadline);
        }
        Connect::connect(self.manager(deadline)?, deadline)
    }

    /// What opens its connections.
    ///
    /// # Errors
    ///
    /// Not executed: the pool is the caller's, and could not be asked for it by `deadline`.
    pub fn connector(&self, deadline: Time) -> Result<&M, DatastoreError> {
        if self.pid != ProcessId::current() {
            return self.child()?.connector(deadline);
        }
        self.manager(deadline)
    }

    /// How many connections the pool has at most.
    pub fn max_size(&self) -> u32 {
        self.settings.max_size
    }

    fn call_on<T>(
        &self,
        urgency: Urgency,
        deadline: Time,
        call: impl FnMut(&mut M::Link, Earlier) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        if let Some(pool) = &self.callers {
            let spare = match urgency {
                Urgency::Urgent => pool.try_get(),
                Urgency::Usual => None,
            };
            // Without the manager there is no other place.
            let must_wait = urgency == Urgency::Usual || self.manager.get().is_none();
            let place = match spare {
                None if must_wait => Some(self.callers_place(pool, deadline)?),
                spare => spare,
            };
            if let Some(mut place) = place {
                let silence = match urgency {
                    Urgency::Urgent => Silence::RunsAgain,
                    Urgency::Usual => Silence::Fails,
                };
                return place.call_in(self.pid, deadline, silence, call);
            }
        }
        let manager = self.manager(deadline)?;
        let mut place = self
            .places
            .take(urgency, self.end_of_wait(deadline))
            .ok_or_else(|| all_in_use(self.places.limit(urgency)))?;
        let silence = place.silence();
        place
            .lazy(manager)
            .call_in(self.pid, deadline, silence, call)
    }

    /// A place of the pool that the caller made. r2d2 makes places in no time, so the only thing to
    /// wait for is another call's end.
    fn callers_place(
        &self,
        pool: &r2d2::Pool<M>,
        deadline: Time,
    ) -> Result<PooledConnection<M>, DatastoreError> {
        let left = Clock::BOOTTIME.now().until(self.end_of_wait(deadline));
        // r2d2 adds it to its clock, which overflows for "never".
        let left = left.min(LONGEST_WAIT);
        let place = pool
            .get_timeout(left)
            .map_err(|_| all_in_use(self.settings.max_size))?;
        let _ = self.manager.set(place.manager().clone());
        Ok(place)
    }

    /// Until when a call waits for a connection.
    fn end_of_wait(&self, deadline: Time) -> Time {
        match self.settings.checkout_timeout {
            Some(most) => deadline.min(deadline_in(most)),
            None => deadline,
        }
    }

    fn manager(&self, deadline: Time) -> Result<&M, DatastoreError> {
        if let (None, Some(pool)) = (self.manager.get(), &self.callers) {
            drop(self.callers_place(pool, deadline)?);
        }
        self.manager.get().ok_or_else(never_used)
    }

    fn child(&self) -> Result<&Self, DatastoreError> {
        let manager = self.manager.get().ok_or_else(never_used)?;
        Ok(self
            .child
            .get_or_init(|| Box::new(Pool::new(manager.clone(), self.settings))))
    }
}

fn all_in_use(count: u32) -> DatastoreError {
    let busy = format!("all {count} connections of the pool were in use");
    DatastoreError::not_executed(ErrorKind::Timeout, busy)
}

fn never_used() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Unsupported,
        "the pool was made before this process was forked off, and never used; make one here",
    )
}

impl<M: PoolManager> Drop for Pool<M> {
    fn drop(&mut self) {
        if self.pid != ProcessId::current() {
            // Ending the inherited pool would wait on locks and threads that only the parent has.
            mem::forget(self.callers.take());
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
