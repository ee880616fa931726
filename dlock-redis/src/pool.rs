//! How connections are opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{DatastoreError, Time};
#[cfg(feature = "tls")]
use dlock_net::tls::{Trust, Wording};
use dlock_net::{Connect, Dialer, Endpoint, Streams, deadline_in};

use crate::config::{Place, UrlError, fence_keep};
use crate::connection::Connection;
use crate::handshake::Wanted;
use crate::operations::FENCE_KEEP;
use crate::replicas::Replicas;
use crate::sentinel::Sentinels;

/// How the URL says what an error of TLS advises.
#[cfg(feature = "tls")]
const WORDING: Wording = Wording {
    authorities: "?ca=/path/to/authorities.pem",
    client_certificate: "?cert=/path/to/client.crt&key=/path/to/client.key",
    without_tls: "write redis:// in place of rediss://",
};

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
/// What r2d2 pools are *places* for connections. The thread that has got a place opens its
/// connection, within the deadline of its own call, and learns the reason if it fails. So a server
/// that is down costs nobody the pool's `connection_timeout`.
#[derive(Clone)]
pub struct ConnectionManager {
    place: Arc<Place>,
    sentinels: Option<Arc<Sentinels>>,
    dialer: Dialer,
    in_cluster: bool,
    fence_keep: Duration,
    pub(crate) replicas: Option<Replicas>,
    #[cfg(feature = "tls")]
    trust: Trust,
}

dlock_net::impl_manage_connection!(ConnectionManager);
dlock_net::impl_dialer_setters!(ConnectionManager);

impl ConnectionManager {
    /// For the server at `url`:
    ///
    /// | form | |
    /// | --- | --- |
    /// | `redis://[[user]:password@]host[:port][/database]` | TCP; port 6379 and database 0 unless given |
    /// | `rediss://…[?ca=/path/to/authorities.pem]` | the same with TLS; without `ca` the system's authorities are believed. A server's own self-signed certificate is an authority too |
    /// | `rediss://…?cert=/path/to/client.crt&key=/path/to/client.key` | the same for a server that requires a certificate of its clients |
    /// | `unix://[[user]:password@]/path[?db=1]` | a Unix socket; `redis+unix://` is the same |
    /// | `redis+sentinel://[[user]:password@]host[:port],…/name[/database]` | the primary that the sentinels at these hosts know by this name; port 26379 unless given |
    /// | `rediss+sentinel://…[?ca=/path/to/authorities.pem]` | the same with TLS to sentinels and nodes |
    ///
    /// The login is that at the nodes. Sentinels have users of their own: `?sentinel_username=…`
    /// and `&sentinel_password=…`. `valkey` stands for `redis` in any of them. `?fence_keep=1d` is
    /// [`with_fence_keep`](Self::with_fence_keep). Special characters in a password are
    /// percent-encoded.
    ///
    /// # Errors
    ///
    /// A URL of another form; authorities that cannot be read.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let place: Place = url.parse()?;
        if place.replicas.is_some() {
            return Err(UrlError::Replicas(
                "it is an option of the store: with a pool of your own, call with_wait_replicas",
            ));
        }
        Self::to(place)
    }

    pub(crate) fn to(mut place: Place) -> Result<Self, UrlError> {
        let sentinels = place.sentinels.take().map(Sentinels::new).map(Arc::new);
        #[cfg(feature = "tls")]
        let trust = Trust::new(WORDING).with_files(&place.certificates)?;
        Ok(ConnectionManager {
            dialer: Dialer::new(place.endpoint.clone()),
            fence_keep: place.fence_keep.unwrap_or(FENCE_KEEP),
            replicas: place.replicas,
            place: Arc::new(place),
            sentinels,
            in_cluster: false,
            #[cfg(feature = "tls")]
            trust,
        })
    }

    /// Believes the certificates of these authorities (PEM), and of no others, instead of those
    /// that the system trusts.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or the URL is not `rediss://`.
    #[cfg(feature = "tls")]
    pub fn with_ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.check_tls()?;
        self.trust = self.trust.with_authorities(pem)?;
        Ok(self)
    }

    /// Shows this certificate (PEM; with those between it and its authority, if there are any) to a
    /// server that requires one of its clients, and proves with the key (PEM) that it is ours.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key in the texts, the key is of another certificate, or the
    /// URL is not `rediss://`.
    #[cfg(feature = "tls")]
    pub fn with_client_certificate_pem(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, UrlError> {
        self.check_tls()?;
        self.trust = self.trust.with_identity(certificate, key)?;
        Ok(self)
    }

    #[cfg(feature = "tls")]
    fn check_tls(&self) -> Result<(), UrlError> {
        match self.place.tls {
            true => Ok(()),
            false => Err(UrlError::Certificates(
                "they are for rediss:// URLs only".to_owned(),
            )),
        }
    }

    /// With this login at the sentinels, which have users of their own: `None` for their default
    /// user.
    ///
    /// # Errors
    ///
    /// If the URL is not `redis+sentinel://`.
    pub fn with_sentinel_login(
        mut self,
        user: Option<&str>,
        password: &str,
    ) -> Result<Self, UrlError> {
        let sentinels = self.sentinels.take().ok_or(UrlError::SentinelLogin)?;
        let mut place = sentinels.place().clone();
        place.login.user = user.map(str::to_owned);
        place.login.password = Some(password.to_owned());
        self.sentinels = Some(Arc::new(Sentinels::new(place)));
        Ok(self)
    }

    /// Keeps a key's fence for this long after the last claim of the key, from a minute to ten
    /// years, instead of seven days; see [`RedisBuilder::fence_keep`](crate::RedisBuilder).
    ///
    /// # Errors
    ///
    /// A shorter or a longer time.
    pub fn with_fence_keep(mut self, time: Duration) -> Result<Self, UrlError> {
        self.fence_keep = fence_keep(time)?;
        Ok(self)
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.dialer.endpoint
    }

    /// For another node of the same cluster, with the same login and limits.
    pub(crate) fn for_node(&self, endpoint: Endpoint) -> Self {
        let mut node = self.clone();
        node.dialer.endpoint = endpoint;
        node.in_cluster = true;
        node
    }

    fn open(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        let streams = self.streams();
        let login = &self.place.login;
        let Some(sentinels) = &self.sentinels else {
            let server = &self.dialer.endpoint;
            let stream = streams.open(server, deadline)?;
            return Connection::open(stream, server, login, Wanted::Any);
        };
        let deadline = deadline.min(deadline_in(self.dialer.connect_timeout));
        let open = |node: &Endpoint, deadline| {
            let stream = streams.open(node, deadline)?;
            Connection::open(stream, node, login, Wanted::Primary)
        };
        let (connection, named) = sentinels.open(&streams, deadline, open)?;
        Ok(connection.of_sentinels(named))
    }

    fn streams(&self) -> Streams {
        let streams = Streams::new(self.dialer.clone());
        #[cfg(feature = "tls")]
        let streams = streams.with_tls(self.place.tls.then(|| self.trust.clone()));
        streams
    }
}

impl Connect for ConnectionManager {
    type Link = Connection;

    fn connect(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        let mut connection = self.open(deadline)?;
        connection.keep_fences_for(self.fence_keep);
        Ok(match self.in_cluster {
            true => connection.in_cluster(),
            false => connection,
        })
    }
}

/// By hand, for a password must not be in it.
impl fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionManager")
            .field("dialer", &self.dialer)
            .field("tls", &self.place.tls)
            .field("login", &self.place.login)
            .field(
                "sentinels",
                &self.sentinels.as_deref().map(Sentinels::place),
            )
            .finish()
    }
}
