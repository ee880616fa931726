//! How connections are opened: to the node that answered last, or else to the next one that does.

use std::fmt;
use std::sync::Arc;

use dlock_core::{Clock, DatastoreError, Time};
#[cfg(feature = "tls")]
use dlock_net::tls::{Trust, Wording};
use dlock_net::{Connect, Dialer, Endpoint, Link as _, Streams, Wire, deadline_in};

use crate::config::{self, Login, UrlError};
use crate::connection::Connection;
use crate::endpoints::Endpoints;
use crate::error::perhaps_tls;
use crate::handshake;

/// How the URL says what an error of TLS advises.
#[cfg(feature = "tls")]
const WORDING: Wording = Wording {
    authorities: "?ca=/path/to/authorities.pem",
    client_certificate: "?cert=/path/to/client.crt&key=/path/to/client.key",
    without_tls: "write etcd:// in place of etcds://",
};

/// Opens connections to the nodes of one etcd cluster: the manager of an
/// [`r2d2::Pool`](crate::r2d2::Pool) for
/// [`EtcdDatastore::from_pool`](crate::EtcdDatastore::from_pool).
///
/// r2d2 keeps places for connections. The call that first uses a place opens its connection, within
/// its own deadline, and a call that finds it dead replaces it. So the pool needs no idle
/// connections and no test at checkout:
///
/// ```
/// use dlock_etcd::{ConnectionManager, EtcdDatastore, r2d2};
///
/// let pool = r2d2::Pool::builder()
///     .max_size(4)
///     .min_idle(Some(0))
///     .test_on_check_out(false)
///     .build_unchecked(ConnectionManager::new("etcd://10.0.0.1,10.0.0.2,10.0.0.3")?);
/// let store = EtcdDatastore::from_pool(pool);
/// # Ok::<(), dlock_etcd::UrlError>(())
/// ```
#[derive(Clone)]
pub struct ConnectionManager {
    /// Its endpoint is the first of the nodes.
    dialer: Dialer,
    endpoints: Arc<Endpoints>,
    login: Option<Login>,
    speaks_tls: bool,
    /// What is believed of the nodes, if they speak TLS.
    #[cfg(feature = "tls")]
    trust: Option<Trust>,
}

dlock_net::impl_manage_connection!(ConnectionManager);
dlock_net::impl_dialer_setters!(ConnectionManager);

impl ConnectionManager {
    /// A manager for the cluster at `url`, see
    /// [`EtcdDatastore::open`](crate::EtcdDatastore::open).
    ///
    /// # Errors
    ///
    /// If the URL does not name the nodes of an etcd cluster.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let place = config::place(url)?;
        #[cfg(feature = "tls")]
        let trust = match place.tls {
            true => Some(Trust::new(WORDING).with_files(&place.certificates)?),
            false => None,
        };
        Ok(ConnectionManager {
            dialer: Dialer::new(place.endpoints[0].clone()),
            endpoints: Arc::new(Endpoints::new(place.endpoints)),
            login: place.login,
            speaks_tls: place.tls,
            #[cfg(feature = "tls")]
            trust,
        })
    }

    /// Believes the certificates of these authorities (PEM), and of no others.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or the URL is not `etcds://`.
    #[cfg(feature = "tls")]
    pub fn with_ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.trust = Some(self.trust()?.with_authorities(pem)?);
        Ok(self)
    }

    /// Shows this certificate (PEM) to nodes that require one, and proves with the key (PEM) that
    /// it is ours.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key in the texts, the key is of another certificate, or the
    /// URL is not `etcds://`.
    #[cfg(feature = "tls")]
    pub fn with_client_certificate_pem(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, UrlError> {
        self.trust = Some(self.trust()?.with_identity(certificate, key)?);
        Ok(self)
    }

    #[cfg(feature = "tls")]
    fn trust(&self) -> Result<Trust, UrlError> {
        let plain = || UrlError::Certificates("they are for etcds:// URLs only".to_owned());
        self.trust.clone().ok_or_else(plain)
    }

    fn streams(&self) -> Streams {
        let streams = Streams::new(self.dialer.clone());
        #[cfg(feature = "tls")]
        let streams = streams.with_tls(self.trust.clone());
        streams
    }

    /// Connects to one node, which must show by `node_deadline` that it has a leader.
    fn open(
        &self,
        node: (usize, &Endpoint),
        node_deadline: Time,
        deadline: Time,
    ) -> Result<Connection, DatastoreError> {
        let mut connection = self.dial(node, node_deadline)?;
        let checked = handshake::check_node(&mut connection, self.has_login());
        let is_checked = match self.speaks_tls {
            true => checked,
            false => checked.map_err(perhaps_tls),
        }?;
        connection.set_deadline(deadline);
        self.log_in(&mut connection)?;
        if !is_checked {
            handshake::check_node(&mut connection, false)?;
        }
        Ok(connection)
    }

    /// Connects to one node, whatever it says of itself.
    pub(crate) fn open_unchecked(
        &self,
        node: (usize, &Endpoint),
        deadline: Time,
    ) -> Result<Connection, DatastoreError> {
        let mut connection = self.dial(node, deadline)?;
        self.log_in(&mut connection)?;
        Ok(connection)
    }

    fn dial(
        &self,
        (number, endpoint): (usize, &Endpoint),
        deadline: Time,
    ) -> Result<Connection, DatastoreError> {
        let wire = Wire::new(self.streams().open(endpoint, deadline)?, endpoint);
        Ok(Connection::new(wire, number, Arc::clone(&self.endpoints)))
    }

    fn log_in(&self, connection: &mut Connection) -> Result<(), DatastoreError> {
        match &self.login {
            Some(login) => handshake::log_in(connection, login),
            None => Ok(()),
        }
    }

    pub(crate) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// The nodes with their numbers, in the order of the URL.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        self.endpoints.all().iter().enumerate()
    }
}

impl Connect for ConnectionManager {
    type Link = Connection;

    /// Tries the nodes in turn. A node that does not answer has its share of the time.
    fn connect(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        let deadline = deadline.min(deadline_in(self.dialer.connect_timeout));
        let mut nodes_left = u32::try_from(self.endpoints.all().len()).unwrap_or(u32::MAX);
        let mut first_error = None;
        for node in self.endpoints.in_turn() {
            let now = Clock::BOOTTIME.now();
            let share = now.until(deadline) / nodes_left;
            nodes_left -= 1;
            match self.open(node, now.saturating_add(share), deadline) {
                Ok(connection) => {
                    self.endpoints.answered(node.0);
                    return Ok(connection);
                }
                // Of several reasons, one that waiting does not mend says the most.
                Err(error) => match &first_error {
                    Some(first) if error.is_transient() || !DatastoreError::is_transient(first) => {
                    }
                    _ => first_error = Some(error),
                },
            }
        }
        Err(first_error.unwrap_or_else(no_nodes))
    }
}

pub(crate) fn no_nodes() -> DatastoreError {
    DatastoreError::not_executed(dlock_core::ErrorKind::Invalid, "the URL names no node")
}

/// By hand, for a password must not be in it.
impl fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionManager")
            .field("nodes", &self.endpoints.all())
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}
