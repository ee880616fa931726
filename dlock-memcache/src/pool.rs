//! Opening connections, for r2d2.

use std::fmt;
use std::time::Duration;

use dlock_core::{DatastoreError, Time};
use dlock_net::{Connect, Endpoint, Socket, Wire, deadline_in};

use crate::config;
use crate::error::UrlError;
use crate::protocol::Connection;

/// Opens connections to one memcached server: the manager of an [`r2d2::Pool`] for
/// [`MemcacheDatastore::from_pool`](crate::MemcacheDatastore::from_pool).
///
/// What r2d2 keeps are places for connections. The call that first uses a place opens its connection, within its own deadline, and one
/// that finds it dead replaces it. So the pool needs no idle connections and no test at checkout:
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
    endpoint: Endpoint,
    connect_timeout: Duration,
}

impl ConnectionManager {
    /// A manager for the server at `url`, see [`MemcacheDatastore::connect`](crate::MemcacheDatastore::connect).
    ///
    /// # Errors
    ///
    /// A URL that names no memcached server.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        Ok(ConnectionManager {
            endpoint: config::endpoint(url)?,
            connect_timeout: config::CONNECT_TIMEOUT,
        })
    }

    /// The same with another limit for opening a connection; never longer than the call that needs it. Default 1 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }
}

impl Connect for ConnectionManager {
    type Link = Connection;

    fn connect(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        let deadline = deadline.min(deadline_in(self.connect_timeout));
        let socket = Socket::connect(&self.endpoint, deadline)?;
        Connection::handshake(Wire::new(socket, &self.endpoint))
    }
}

dlock_net::impl_manage_connection!(ConnectionManager);

impl fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionManager({})", self.endpoint)
    }
}
