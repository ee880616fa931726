//! How connections are opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{DatastoreError, Time};
use dlock_net::{Connect, Socket, deadline_in};

use crate::config::{CONNECT_TIMEOUT, Place, UrlError};
use crate::connection::Connection;
use crate::stream::Stream;
#[cfg(feature = "tls")]
use crate::tls::Trust;

/// Opens connections to one server, for an [`r2d2`](crate::r2d2) pool.
///
/// ```
/// use dlock_redis::{ConnectionManager, RedisDatastore, r2d2};
///
/// let manager = ConnectionManager::new("redis://127.0.0.1/")?;
/// let pool = r2d2::Pool::builder()
///     .max_size(20)
///     .min_idle(Some(0))
///     .test_on_check_out(false)
///     .build_unchecked(manager);
/// let store = RedisDatastore::from_pool(pool);
/// # Ok::<(), dlock_redis::UrlError>(())
/// ```
///
/// What r2d2 pools are *places* for connections. The thread that has got a place opens its connection, within the deadline of its own call,
/// and learns the reason if it fails. So a server that is down costs nobody the pool's `connection_timeout`.
#[derive(Clone)]
pub struct ConnectionManager {
    place: Arc<Place>,
    connect_timeout: Duration,
    #[cfg(feature = "tls")]
    trust: Trust,
}

dlock_net::impl_manage_connection!(ConnectionManager);

impl ConnectionManager {
    /// For the server at `url`:
    ///
    /// | form | |
    /// | --- | --- |
    /// | `redis://[[user]:password@]host[:port][/database]` | TCP; port 6379 and database 0 unless given |
    /// | `rediss://…[?ca=/path/to/authorities.pem]` | the same with TLS; without `ca` the system's authorities are believed |
    /// | `unix://[[user]:password@]/path[?db=1]` | a Unix socket; `redis+unix://` is the same |
    ///
    /// `valkey` stands for `redis` in any of them. Special characters in a password are percent-encoded.
    ///
    /// # Errors
    ///
    /// A URL of another form; authorities that cannot be read.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let place: Place = url.parse()?;
        let manager = ConnectionManager {
            place: Arc::new(place),
            connect_timeout: CONNECT_TIMEOUT,
            #[cfg(feature = "tls")]
            trust: Trust::default(),
        };
        #[cfg(feature = "tls")]
        if let Some(file) = &manager.place.ca {
            let pem = std::fs::read(file)
                .map_err(|error| UrlError::Certificates(format!("{file}: {error}")))?;
            return manager.clone().with_ca_pem(&pem);
        }
        Ok(manager)
    }

    /// With this limit for opening a connection, login included; the call's own deadline may be sooner. Default 1 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Believes the certificates of these authorities (PEM), and of no others, instead of those that the system trusts.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or the URL is not `rediss://`.
    #[cfg(feature = "tls")]
    pub fn with_ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        if !self.place.tls {
            return Err(UrlError::Certificates(
                "they are for rediss:// URLs only".to_owned(),
            ));
        }
        self.trust = Trust::only(pem)?;
        Ok(self)
    }

    fn stream(&self, socket: Socket) -> Result<Stream, DatastoreError> {
        #[cfg(feature = "tls")]
        if self.place.tls {
            let tls = self.trust.shake_hands(socket, &self.place.endpoint)?;
            return Ok(Stream::Tls(Box::new(tls)));
        }
        Ok(Stream::Plain(socket))
    }
}

impl Connect for ConnectionManager {
    type Link = Connection;

    fn connect(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        let deadline = deadline.min(deadline_in(self.connect_timeout));
        let socket = Socket::connect(&self.place.endpoint, deadline)?;
        let stream = self.stream(socket)?;
        Connection::open(stream, &self.place.endpoint, &self.place.login)
    }
}

/// By hand, for a password must not be in it.
impl fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionManager")
            .field("endpoint", &self.place.endpoint)
            .field("tls", &self.place.tls)
            .field("login", &self.place.login)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}
