//! What a URL says, and a builder for what it does not.

mod cluster;
mod sentinels;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dlock_core::duration;
#[cfg(feature = "tls")]
use dlock_net::tls::CertificatesError;
use dlock_net::{CertificateFiles, Endpoint, EndpointError, Limits, UrlParts, percent_decoded};
use thiserror::Error;

use crate::replicas::Replicas;
use crate::{ConnectionManager, RedisDatastore};
use cluster::ClusterPlace;
pub(crate) use sentinels::SentinelPlace;

const DEFAULT_PORT: u16 = 6379;

/// Makes a [`RedisDatastore`] with other limits than the usual ones; from
/// [`RedisDatastore::builder`].
#[derive(Debug, Clone)]
#[must_use = "it only collects what `build` uses"]
pub struct RedisBuilder {
    manager: ConnectionManager,
    /// The nodes of a cluster that the URL names; none if it is that of one server.
    nodes: Vec<Endpoint>,
    limits: Limits,
}

dlock_net::impl_limit_setters!(RedisBuilder);

impl RedisBuilder {
    pub(crate) fn new(url: &str) -> Result<Self, UrlError> {
        let (place, nodes) = match ClusterPlace::read(url)? {
            Some(cluster) => (cluster.place, cluster.nodes),
            None => (url.parse()?, Vec::new()),
        };
        let limits = Limits::default();
        if let Some(replicas) = place.replicas {
            replicas
                .fit(limits.call_timeout)
                .map_err(UrlError::Replicas)?;
        }
        Ok(RedisBuilder {
            manager: ConnectionManager::to(place)?,
            nodes,
            limits,
        })
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.manager.endpoint()
    }

    /// Believes the certificates of these authorities (PEM), and of no others, instead of those
    /// that the system trusts.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or the URL is not `rediss://`.
    #[cfg(feature = "tls")]
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.manager = self.manager.with_ca_pem(pem)?;
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
    pub fn client_certificate_pem(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, UrlError> {
        self.manager = self.manager.with_client_certificate_pem(certificate, key)?;
        Ok(self)
    }

    /// The login at the sentinels, which have users of their own: `None` for their default user.
    ///
    /// # Errors
    ///
    /// If the URL is not `redis+sentinel://`.
    pub fn sentinel_login(mut self, user: Option<&str>, password: &str) -> Result<Self, UrlError> {
        self.manager = self.manager.with_sentinel_login(user, password)?;
        Ok(self)
    }

    /// Grants and extends a lock only if this many replicas have acknowledged it `within` this
    /// time; otherwise the call fails, and what was written is taken back. `1` and 100 ms protect a
    /// lock from the loss of the primary, and cost one exchange between the primary and a replica.
    /// Default: no replica is waited for.
    ///
    /// It is sent along with the call: no round trip is added. The time ends earlier if the call
    /// does.
    ///
    /// # Errors
    ///
    /// If `count` or `within` is zero, or `within` is more than a third of the call timeout that
    /// was set before.
    pub fn wait_replicas(mut self, count: u32, within: Duration) -> Result<Self, UrlError> {
        let replicas = Replicas::fitting(count, within, self.limits.call_timeout);
        self.manager.replicas = Some(replicas.map_err(UrlError::Replicas)?);
        Ok(self)
    }

    /// Keeps a key's fence, which has the highest fencing token so far, for this long after the
    /// last claim of the key, from a minute to ten years. Default seven days. In a URL:
    /// `?fence_keep=1d`. A claim for longer than half of that keeps it for twice its time to live.
    ///
    /// Each key that was ever locked has some 100 bytes in the server for this long. What is lost
    /// by shortening it: tokens go on from the server's clock when the fence is gone. If that was
    /// set back meanwhile, they can fall. So the time must be longer than any step of the server's
    /// clock backwards, and than the time by which the clock of a replica that takes over may be
    /// behind. Give all users of a lock the same.
    ///
    /// # Errors
    ///
    /// A shorter or a longer time.
    pub fn fence_keep(mut self, time: Duration) -> Result<Self, UrlError> {
        self.manager = self.manager.with_fence_keep(time)?;
        Ok(self)
    }

    /// The store. Opens no connection: the first call does.
    pub fn build(self) -> RedisDatastore {
        RedisDatastore::new(self.manager, &self.nodes, self.limits)
    }
}

/// A URL, or something that it points to, that cannot be used. It never repeats a part that may be
/// a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// No scheme of ours.
    #[error(
        "a Redis URL starts with redis://, rediss://, redis+sentinel://, redis+cluster:// or unix://"
    )]
    Scheme,
    /// The host or the port.
    #[error("the address in the Redis URL: {0}")]
    Address(#[from] EndpointError),
    /// No path to a Unix socket.
    #[error("a URL of a Unix socket is written like unix:///run/redis/redis.sock")]
    SocketPath,
    /// A user without a password, or a broken escape.
    #[error(
        "the login in the Redis URL: write redis://:password@host or redis://user:password@host, with special characters as %40"
    )]
    Login,
    /// An `@` after the place of the login: in the path, or with a host before the path of a Unix
    /// socket.
    #[error(
        "a login in the wrong place of the Redis URL: write unix://:password@/path or redis://:password@host, and an @ in a path or a password as %40"
    )]
    LoginPlace,
    /// Another database than 0 in the URL of a cluster, which has no other.
    #[error("a Redis Cluster has database 0 alone; leave the database out of the URL")]
    ClusterDatabase,
    /// No number of a database.
    #[error("the database in the Redis URL is not a number; write redis://host/0")]
    Database,
    /// An option after the `?` that does not exist, or stands there twice or without value.
    #[error(
        "the options in the Redis URL: only db, user, pass, wait_replicas, wait_within, fence_keep, (for rediss) \
         ca, cert and key, and (for sentinels) sentinel_username and sentinel_password exist, each once, like ?db=1"
    )]
    Query,
    /// No name of a primary in a URL of sentinels, or no URL of sentinels.
    #[error(
        "the name by which the sentinels know the primary is missing; write redis+sentinel://host:26379/name"
    )]
    Service,
    /// A login at sentinels, for a URL that has none.
    #[error("a login at the sentinels is for redis+sentinel:// URLs only, and has a password")]
    SentinelLogin,
    /// A number of replicas, or a time for their acknowledgements, that makes no sense.
    #[error("waiting for replicas: {0}")]
    Replicas(&'static str),
    /// A time for which fences are kept that is none, or is too short or too long.
    #[error(
        "fences are kept for a minute at least and ten years at most; write it like fence_keep=7d"
    )]
    FenceKeep,
    /// `rediss://` without the Cargo feature `tls`.
    #[error("rediss:// needs the Cargo feature `tls` of dlock-redis")]
    NoTls,
    /// A client's certificate without its key, or the reverse.
    #[error(
        "a client's certificate needs its key: ?cert=/path/to/client.crt&key=/path/to/client.key"
    )]
    ClientCertificate,
    /// Certificates that cannot be used.
    #[error("certificates: {0}")]
    Certificates(String),
}

/// What a URL says.
///
/// `redis::ConnectionInfo` is less strict: of the 23 URLs that the tests below refuse it takes 12,
/// among them some with a password in the place of a user or of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: bool,
    pub(crate) certificates: CertificateFiles,
    pub(crate) fence_keep: Option<Duration>,
    pub(crate) login: Login,
    /// The sentinels that know the server; the first of them is the endpoint.
    pub(crate) sentinels: Option<SentinelPlace>,
    pub(crate) replicas: Option<Replicas>,
}

/// Who we are, and where we go from there.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
    /// Whether they go over TLS.
    pub(crate) over_tls: bool,
}

/// By hand, for the password must not be in it.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .finish()
    }
}

#[cfg(feature = "tls")]
impl From<CertificatesError> for UrlError {
    fn from(error: CertificatesError) -> Self {
        UrlError::Certificates(error.to_string())
    }
}

impl FromStr for Place {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let parts = UrlParts::of(url).ok_or(UrlError::Scheme)?;
        let (base, has_sentinels) = match parts.scheme.strip_suffix("+sentinel") {
            Some(base) => (base, true),
            None => (parts.scheme, false),
        };
        let (unix, tls) = match base {
            "redis" | "valkey" => (false, false),
            "rediss" | "valkeys" => (false, true),
            "unix" | "redis+unix" | "valkey+unix" if cfg!(unix) && !has_sentinels => (true, false),
            _ => return Err(UrlError::Scheme),
        };
        if tls && !cfg!(feature = "tls") {
            return Err(UrlError::NoTls);
        }
        // Otherwise a password becomes part of a path, which messages show.
        let has_host = unix && parts.login.is_some() && !parts.host.is_empty();
        if parts.path.contains('@') || has_host {
            return Err(UrlError::LoginPlace);
        }
        let login = parts.login.map(Login::read).transpose()?;
        let mut path = parts.path;
        let sentinels = match has_sentinels {
            true => Some(SentinelPlace::read(parts.host, &mut path, tls)?),
            false => None,
        };
        let endpoint = match (unix, &sentinels) {
            (true, _) => parts.socket().ok_or(UrlError::SocketPath)?,
            (false, Some(sentinels)) => sentinels.hosts[0].clone(),
            (false, None) => Endpoint::parse(parts.host, Some(DEFAULT_PORT))?,
        };
        let place = Place::at(endpoint, tls, login.unwrap_or_default(), path)?;
        let place = Place { sentinels, ..place };
        place.with_options(&parts)
    }
}

impl Place {
    /// The place at `endpoint`, with the database that the path names.
    fn at(endpoint: Endpoint, tls: bool, login: Login, path: &str) -> Result<Self, UrlError> {
        let mut place = Place {
            endpoint,
            tls,
            certificates: CertificateFiles::default(),
            fence_keep: None,
            login,
            sentinels: None,
            replicas: None,
        };
        place.login.over_tls = tls;
        let is_socket = !matches!(place.endpoint, Endpoint::Tcp { .. });
        if !is_socket && path.len() > 1 {
            place.login.database = database(&path[1..])?;
        }
        Ok(place)
    }

    /// With what the options say.
    fn with_options(mut self, parts: &UrlParts<'_>) -> Result<Self, UrlError> {
        self.read_options(parts)?;
        Ok(self)
    }

    fn read_options(&mut self, parts: &UrlParts<'_>) -> Result<(), UrlError> {
        let mut seen = Vec::new();
        let (mut count, mut within) = (None, None);
        for option in parts.options() {
            let (name, value) = option.ok_or(UrlError::Query)?;
            if seen.contains(&name) {
                return Err(UrlError::Query);
            }
            seen.push(name);
            match name {
                "db" => self.login.database = database(&value)?,
                "user" => self.login.user = Some(value),
                "pass" => self.login.password = Some(value),
                "fence_keep" => {
                    let time = duration::parse(&value).map_err(|_| UrlError::FenceKeep)?;
                    self.fence_keep = Some(fence_keep(time)?);
                }
                "wait_replicas" => count = Some(value),
                "wait_within" => within = Some(value),
                _ => match (self.certificates.option(name), &mut self.sentinels) {
                    (Some(file), _) if self.tls => *file = Some(value),
                    (_, Some(sentinels)) => sentinels.read_option(name, value)?,
                    (_, None) => return Err(UrlError::Query),
                },
            }
        }
        if self.certificates.is_half() {
            return Err(UrlError::ClientCertificate);
        }
        if count.is_some() || within.is_some() {
            let replicas = Replicas::read(count.as_deref(), within.as_deref());
            self.replicas = Some(replicas.map_err(UrlError::Replicas)?);
        }
        if let Some(sentinels) = &self.sentinels {
            sentinels.check()?;
        }
        self.login.checked()
    }
}

impl Login {
    fn read(text: &str) -> Result<Self, UrlError> {
        let part = |text| percent_decoded(text).ok_or(UrlError::Login);
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (part(user)?, Some(part(password)?)),
            None => (part(text)?, None),
        };
        let login = Login {
            password: password.filter(|password| !password.is_empty() || !user.is_empty()),
            user: Some(user).filter(|user| !user.is_empty()),
            ..Login::default()
        };
        login.checked()?;
        Ok(login)
    }

    fn checked(&self) -> Result<(), UrlError> {
        if self.user.is_some() && self.password.is_none() {
            return Err(UrlError::Login);
        }
        Ok(())
    }
}

/// A time for which fences may be kept. A shorter one would not outlast a correction of the
/// server's clock, a longer one would outlast the key's users.
pub(crate) fn fence_keep(time: Duration) -> Result<Duration, UrlError> {
    const DAY: Duration = Duration::from_secs(86_400);
    match time >= Duration::from_secs(60) && time <= DAY * 3650 {
        true => Ok(time),
        false => Err(UrlError::FenceKeep),
    }
}

fn database(text: &str) -> Result<u32, UrlError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Database);
    }
    text.parse().map_err(|_| UrlError::Database)
}

#[cfg(test)]
mod tests;
