//! Opens connections, for r2d2.

use std::fmt;

use dlock_core::{DatastoreError, Time};
use dlock_net::{Connect, Dialer, Wire};

use crate::config;
use crate::config::UrlError;
use crate::connection::Connection;
use crate::incarnations::Incarnations;

/// Opens connections to one memcached server: the manager of an [`r2d2::Pool`] for
/// [`MemcacheDatastore::from_pool`](crate::MemcacheDatastore::from_pool).
///
/// r2d2 keeps places for connections. The call that first uses a place opens its connection, within
/// its own deadline, and a call that finds it dead replaces it. So the pool needs no idle
/// connections and no test at checkout:
///
/// ```
/// use dlock_memcache::{MemcacheDatastore, ConnectionManager, r2d2};
///
/// let pool = r2d2::Pool::builder()
///     .max_size(4)
///     .min_idle(Some(0))
///     .test_on_check_out(false)
///     .build_unchecked(ConnectionManager::new("memcache://127.0.0.1:11211")?);
/// let store = MemcacheDatastore::from_pool(pool);
/// # Ok::<(), dlock_memcache::UrlError>(())
/// ```
#[derive(Clone)]
pub struct ConnectionManager {
    dialer: Dialer,
    incarnations: Incarnations,
}

impl ConnectionManager {
    /// A manager for the server at `url`, see
    /// [`MemcacheDatastore::open`](crate::MemcacheDatastore::open).
    ///
    /// # Errors
    ///
    /// If the URL does not name a memcached server.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        Ok(ConnectionManager {
            dialer: Dialer::new(config::endpoint(url)?),
            incarnations: Incarnations::default(),
        })
    }
}

impl Connect for ConnectionManager {
    type Link = Connection;

    fn connect(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        let socket = self.dialer.connect(deadline)?;
        let wire = Wire::new(socket, &self.dialer.endpoint);
        Connection::handshake(wire, self.incarnations.clone())
    }
}

dlock_net::impl_manage_connection!(ConnectionManager);
dlock_net::impl_dialer_setters!(ConnectionManager);

impl fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionManager({})", self.dialer.endpoint)
    }
}
