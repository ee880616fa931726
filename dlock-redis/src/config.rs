//! What a URL says, and a builder for what it does not.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dlock_net::{Endpoint, EndpointError, PoolSettings, percent_decoded};
use thiserror::Error;

use crate::{ConnectionManager, RedisDatastore};

const DEFAULT_PORT: u16 = 6379;
/// The most that one call takes by default.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// The most that opening a connection takes by default.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a [`RedisDatastore`] with other limits than the usual ones; from [`RedisDatastore::builder`].
#[derive(Debug, Clone)]
#[must_use = "it only collects what `build` uses"]
pub struct RedisBuilder {
    manager: ConnectionManager,
    pool: PoolSettings,
    call_timeout: Duration,
}

impl RedisBuilder {
    pub(crate) fn new(url: &str) -> Result<Self, UrlError> {
        Ok(RedisBuilder {
            manager: ConnectionManager::new(url)?,
            pool: PoolSettings::default(),
            call_timeout: CALL_TIMEOUT,
        })
    }

    /// The most that one call may take, whatever its caller's deadline: waiting for a connection of the pool, connecting,
    /// sending and the whole reply. Default 2 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// The most of it that opening a connection may take, login included. Default 1 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.manager = self.manager.with_connect_timeout(timeout);
        self
    }

    /// How many connections there may be at a time; 0 means 1. Default 10. One more is opened for renewals when a lock is renewed.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.pool = self.pool.with_max_size(connections);
        self
    }

    /// After how long without use a connection is closed; `None` for never. Default 10 minutes.
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.pool = self.pool.with_idle_timeout(timeout);
        self
    }

    /// After how long a connection is closed, used or not; `None` for never. Default 30 minutes.
    pub fn max_lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.pool = self.pool.with_max_lifetime(lifetime);
        self
    }

    /// Believes the certificates of these authorities (PEM), and of no others, instead of those that the system trusts.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or the URL is not `rediss://`.
    #[cfg(feature = "tls")]
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.manager = self.manager.with_ca_pem(pem)?;
        Ok(self)
    }

    /// The store. Opens no connection: the first call does.
    pub fn build(self) -> RedisDatastore {
        RedisDatastore::new(self.manager, self.pool, self.call_timeout)
    }
}

/// A URL, or something that it points to, that cannot be used. It never repeats a part that may be a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// No scheme of ours.
    #[error("a Redis URL starts with redis://, rediss:// or unix://")]
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
    /// No number of a database.
    #[error("the database in the Redis URL is not a number; write redis://host/0")]
    Database,
    /// An option after the `?` that does not exist, or stands there twice or without value.
    #[error(
        "the options in the Redis URL: only db, user, pass and (for rediss) ca exist, each once, like ?db=1"
    )]
    Query,
    /// `rediss://` without the Cargo feature `tls`.
    #[error("rediss:// needs the Cargo feature `tls` of dlock-redis")]
    NoTls,
    /// Certificates that cannot be used.
    #[error("certificates: {0}")]
    Certificates(String),
}

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: bool,
    /// A file with the authorities to believe.
    pub(crate) ca: Option<String>,
    pub(crate) login: Login,
}

/// Who we are, and where we go from there.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
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

impl FromStr for Place {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let (unix, tls) = match scheme {
            "redis" | "valkey" => (false, false),
            "rediss" | "valkeys" => (false, true),
            "unix" | "redis+unix" | "valkey+unix" => (true, false),
            _ => return Err(UrlError::Scheme),
        };
        if tls && !cfg!(feature = "tls") {
            return Err(UrlError::NoTls);
        }
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Login::read(login)?, address),
            None => (Login::default(), authority),
        };
        let endpoint = match unix {
            true => socket(address, path)?,
            false => Endpoint::parse(address, Some(DEFAULT_PORT))?,
        };
        let mut place = Place {
            tls,
            ca: None,
            login,
            endpoint,
        };
        if !unix && path.len() > 1 {
            place.login.database = database(&path[1..])?;
        }
        if let Some(query) = query {
            place.options(query)?;
        }
        Ok(place)
    }
}

impl Place {
    fn options(&mut self, query: &str) -> Result<(), UrlError> {
        let mut seen = Vec::new();
        for option in query.split('&') {
            let (name, value) = option.split_once('=').ok_or(UrlError::Query)?;
            if seen.contains(&name) {
                return Err(UrlError::Query);
            }
            seen.push(name);
            let value = percent_decoded(value).ok_or(UrlError::Query)?;
            match name {
                "db" => self.login.database = database(&value)?,
                "user" => self.login.user = Some(value),
                "pass" => self.login.password = Some(value),
                "ca" if self.tls => self.ca = Some(value),
                _ => return Err(UrlError::Query),
            }
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
            database: 0,
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

fn database(text: &str) -> Result<u32, UrlError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Database);
    }
    text.parse().map_err(|_| UrlError::Database)
}

#[cfg(unix)]
fn socket(address: &str, path: &str) -> Result<Endpoint, UrlError> {
    match percent_decoded(path) {
        Some(path) if address.is_empty() && path.len() > 1 => Ok(Endpoint::Unix(path.into())),
        _ => Err(UrlError::SocketPath),
    }
}

#[cfg(not(unix))]
fn socket(_: &str, _: &str) -> Result<Endpoint, UrlError> {
    Err(UrlError::Scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn login(url: &str) -> (Option<String>, Option<String>, u32) {
        let login = place(url).login;
        (login.user, login.password, login.database)
    }

    #[test]
    fn urls_are_read_as_people_write_them() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(place("redis://db").endpoint.to_string(), "db:6379");
        assert_eq!(place("redis://[::1]:7/").endpoint.to_string(), "[::1]:7");
        assert_eq!(login("redis://db"), (None, None, 0));
        assert_eq!(login("redis://:pw@db:7000/3"), (None, some("pw"), 3));
        assert_eq!(
            login("valkey://app:p%40%2Fw@db/"),
            (some("app"), some("p@/w"), 0)
        );
        assert_eq!(login("redis://app:@db"), (some("app"), some(""), 0));
        assert_eq!(login("redis://:@db"), (None, None, 0));
        assert_eq!(
            login("redis://db?db=2&user=a&pass=b"),
            (some("a"), some("b"), 2)
        );
        assert!(!place("redis://db").tls);
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_is_a_path() {
        for url in [
            "unix:///run/a%20b.sock?db=4",
            "redis+unix:///run/a%20b.sock?db=4",
        ] {
            assert_eq!(place(url).endpoint, Endpoint::Unix("/run/a b.sock".into()));
            assert_eq!(place(url).login.database, 4);
        }
        assert_eq!(
            place("unix://:pw@/run/s").login.password.as_deref(),
            Some("pw")
        );
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_asked_for_by_the_scheme() {
        let place = place("rediss://db/1?ca=/etc/ca.pem");
        assert!(place.tls);
        assert_eq!(place.ca.as_deref(), Some("/etc/ca.pem"));
    }

    #[test]
    fn what_is_no_url_is_refused_with_the_reason_and_without_the_secret() {
        for (url, error) in [
            ("s3cret", UrlError::Scheme),
            ("http://s3cret@db", UrlError::Scheme),
            ("redis://s3cret@db", UrlError::Login),
            ("redis://u:s3cret%zz@db", UrlError::Login),
            (
                "redis://u:s3cret@",
                UrlError::Address(EndpointError::NoHost),
            ),
            (
                "redis://u:s3cret@db:x",
                UrlError::Address(EndpointError::Port),
            ),
            ("redis://u:s3cret@db/x", UrlError::Database),
            ("redis://u:s3cret@db/-1", UrlError::Database),
            ("redis://u:s3cret@db/4294967296", UrlError::Database),
            ("redis://db?password=s3cret", UrlError::Query),
            ("redis://db?pass=s3cret&pass=b", UrlError::Query),
            ("redis://db?ca=/x", UrlError::Query),
            ("redis://db?user=s3cret", UrlError::Login),
            ("redis://db#s3cret", UrlError::Address(EndpointError::Host)),
            ("unix://host/s3cret", UrlError::SocketPath),
            ("unix://", UrlError::SocketPath),
        ] {
            let refused = url.parse::<Place>().unwrap_err();
            assert_eq!(refused, error, "{url}");
            assert!(
                !format!("{refused} {refused:?}").contains("s3cret"),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn debug_does_not_show_the_password() {
        let shown = format!("{:?}", RedisBuilder::new("redis://app:s3cret@db").unwrap());
        assert!(
            !shown.contains("s3cret") && shown.contains("app"),
            "{shown}"
        );
    }
}
