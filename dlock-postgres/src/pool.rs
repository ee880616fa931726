//! Opens connections, for r2d2.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use dlock_net::{Connect, Dialer, Link, Transport, Wire, deadline_in};

use crate::config::{Address, Login};
use crate::connection::Connection;
use crate::error::UrlError;
use crate::tls::{Channel, ChannelBinding, Security, SslMode};

/// Opens connections to a PostgreSQL server: the manager of an [`r2d2::Pool`](crate::r2d2::Pool)
/// for [`PostgresDatastore::from_pool`](crate::PostgresDatastore::from_pool).
///
/// With several hosts it opens a connection to the first that takes writes, beginning with the one
/// that did so last. They share the time for opening a connection.
///
/// r2d2 keeps places for connections. The call that first uses a place opens its connection, within
/// its own deadline, and a call that finds it dead replaces it. So the pool needs no idle
/// connections and no test at checkout:
///
/// ```
/// use dlock_postgres::{PostgresDatastore, ConnectionManager, r2d2};
///
/// let pool = r2d2::Pool::builder()
///     .max_size(4)
///     .min_idle(Some(0))
///     .test_on_check_out(false)
///     .build_unchecked(ConnectionManager::new("postgres://app@127.0.0.1/app")?);
/// let store = PostgresDatastore::from_pool(pool);
/// # Ok::<(), dlock_postgres::UrlError>(())
/// ```
#[derive(Clone)]
pub struct ConnectionManager {
    address: Arc<Address>,
    /// The number of the host that took writes last.
    primary: Arc<AtomicUsize>,
    dialer: Dialer,
    security: Security,
}

impl ConnectionManager {
    /// A manager for the server at `url`, see
    /// [`PostgresDatastore::open`](crate::PostgresDatastore::open).
    ///
    /// # Errors
    ///
    /// If the URL cannot be used.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let address = Address::of(url)?;
        let first = address.hosts.first().ok_or(UrlError::Host)?;
        Ok(ConnectionManager {
            dialer: Dialer::new(first.clone()),
            security: address.security.clone(),
            address: Arc::new(address),
            primary: Arc::default(),
        })
    }

    /// With connections over TCP that are protected like this, see
    /// [`PostgresBuilder::ssl_mode`](crate::PostgresBuilder::ssl_mode).
    ///
    /// # Errors
    ///
    /// More than [`SslMode::Prefer`], if the crate is built without its feature `tls`.
    pub fn with_ssl_mode(mut self, mode: SslMode) -> Result<Self, UrlError> {
        if mode > SslMode::Prefer && !cfg!(feature = "tls") {
            return Err(UrlError::NoTls);
        }
        self.security = self.security.with_mode(mode);
        Ok(self)
    }

    /// With logins that are bound to the server's certificate like this, see
    /// [`PostgresBuilder::channel_binding`](crate::PostgresBuilder::channel_binding).
    ///
    /// # Errors
    ///
    /// [`ChannelBinding::Require`], if the crate is built without its feature `tls`.
    pub fn with_channel_binding(mut self, binding: ChannelBinding) -> Result<Self, UrlError> {
        if binding == ChannelBinding::Require && !cfg!(feature = "tls") {
            return Err(UrlError::NoTls);
        }
        self.security = self.security.with_binding(binding);
        Ok(self)
    }

    /// Believes the certificates of these authorities (PEM), and of no others.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it.
    #[cfg(feature = "tls")]
    pub fn with_ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.security = self.security.with_authorities(pem)?;
        Ok(self)
    }

    /// Shows this certificate (PEM) to a server that asks for one, and proves with the key (PEM)
    /// that it is ours.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key in the texts, or the key is of another certificate.
    #[cfg(feature = "tls")]
    pub fn with_client_certificate_pem(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, UrlError> {
        self.security = self.security.with_identity(certificate, key)?;
        Ok(self)
    }

    /// Creates the schema `dlock`, or brings it up to date, by `timeout` from now. It may be called
    /// at each start of a program, by several at a time; the user needs the right to create a
    /// schema in the database, or to be the owner of the one that is there.
    /// [`MIGRATION`](crate::MIGRATION) is for other means.
    ///
    /// # Errors
    ///
    /// Any error of the server: of kind [`ErrorKind::Refused`] without the right.
    pub fn migrate(&self, timeout: Duration) -> Result<(), DatastoreError> {
        let deadline = deadline_in(timeout);
        let mut connection = self.connect_by(deadline, Connection::logged_in)?;
        connection.set_deadline(deadline);
        connection.run(crate::MIGRATION)
    }

    /// Opens a connection with `handshake` to the first host with which it succeeds.
    pub(crate) fn connect_by(
        &self,
        deadline: Time,
        handshake: impl Fn(
            Wire<Box<dyn Transport>>,
            &Login,
            Channel,
        ) -> Result<Connection, DatastoreError>,
    ) -> Result<Connection, DatastoreError> {
        let hosts = &self.address.hosts;
        let deadline = deadline.min(deadline_in(self.dialer.connect_timeout));
        let first = self.primary.load(Ordering::Relaxed);
        let attempt = |at: usize, remaining: usize| {
            let host = &hosts[at];
            let left = Clock::BOOTTIME.now().until(deadline);
            let share = left / u32::try_from(remaining).unwrap_or(u32::MAX).max(1);
            let opened = self.security.open(&self.dialer, host, deadline_in(share))?;
            let wire = Wire::new(opened.stream, host);
            handshake(wire, &self.address.login, opened.channel)
        };
        let mut failure = None;
        for tried in 0..hosts.len() {
            let at = (first + tried) % hosts.len();
            match attempt(at, hosts.len() - tried) {
                Ok(connection) => {
                    self.primary.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                // That of the host which was the primary says the most.
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or_else(no_host))
    }
}

/// A manager has a host at least.
fn no_host() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Invalid, UrlError::Host)
}

impl Connect for ConnectionManager {
    type Link = Connection;

    fn connect(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        self.connect_by(deadline, Connection::ready)
    }
}

dlock_net::impl_manage_connection!(ConnectionManager);
dlock_net::impl_dialer_setters!(ConnectionManager);

impl fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionManager({:?})", self.address.hosts)
    }
}
