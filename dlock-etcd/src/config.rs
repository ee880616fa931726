//! The builder of a store, from a URL and options, and what can be wrong with them.

use std::fmt;

use dlock_net::{Endpoint, EndpointError, Limits, Pool, UrlParts, percent_decoded};
use thiserror::Error;

use crate::{ConnectionManager, EtcdDatastore};

/// The port on which etcd serves clients.
const PORT: u16 = 2379;

/// Builds an [`EtcdDatastore`] with other limits than the defaults.
///
/// ```
/// use dlock_etcd::EtcdDatastore;
/// use std::time::Duration;
///
/// let store = EtcdDatastore::builder("etcd://10.0.0.1,10.0.0.2,10.0.0.3")?
///     .call_timeout(Duration::from_secs(5))
///     .max_connections(4)
///     .build();
/// # Ok::<(), dlock_etcd::UrlError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "build() creates the store"]
pub struct EtcdBuilder {
    manager: ConnectionManager,
    limits: Limits,
}

dlock_net::impl_limit_setters!(EtcdBuilder);

impl EtcdBuilder {
    pub(crate) fn new(url: &str) -> Result<Self, UrlError> {
        Ok(EtcdBuilder {
            manager: ConnectionManager::new(url)?,
            limits: Limits::default(),
        })
    }

    /// Creates the store. It connects when it is first used.
    pub fn build(self) -> EtcdDatastore {
        let pool = Pool::new(self.manager, self.limits.pool);
        EtcdDatastore::over(pool, self.limits)
    }
}

/// What is wrong with the URL of an etcd cluster. The text does not repeat the URL, which may
/// contain a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL of an etcd cluster starts with etcd://")]
    Scheme,
    /// TLS, which this version cannot speak.
    #[error(
        "this version of dlock-etcd does not speak TLS; write etcd:// and let a proxy on this host, or the network, encrypt"
    )]
    NoTls,
    /// A host or a port is invalid.
    #[error("etcd URL: {0}")]
    Endpoint(#[from] EndpointError),
    /// A user without a password, or a broken escape.
    #[error(
        "the login in the etcd URL: write etcd://user:password@host, with special characters as %40"
    )]
    Login,
    /// A path, a query or a fragment.
    #[error("an etcd URL ends after the hosts, like etcd://10.0.0.1:2379,10.0.0.2:2379")]
    Trailing,
}

/// What a URL says.
pub(crate) struct Place {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) login: Option<Login>,
}

/// A user of etcd.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// By hand, for the password must not be in it.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut login = f.debug_struct("Login");
        login.field("user", &self.user).finish_non_exhaustive()
    }
}

/// `etcd://[user:password@]host[:port][,host[:port]…]`.
pub(crate) fn place(url: &str) -> Result<Place, UrlError> {
    let parts = UrlParts::of(url).ok_or(UrlError::Scheme)?;
    match parts.scheme {
        "etcd" => {}
        "etcds" | "etcd+tls" => return Err(UrlError::NoTls),
        _ => return Err(UrlError::Scheme),
    }
    // Otherwise a password becomes part of a path, which messages show.
    if parts.path.contains('@') {
        return Err(UrlError::Login);
    }
    let login = parts.login.map(login).transpose()?;
    if !matches!(parts.path, "" | "/") || parts.query.is_some() || parts.host.contains('#') {
        return Err(UrlError::Trailing);
    }
    let endpoints = Endpoint::parse_list(parts.host, Some(PORT))?;
    Ok(Place { endpoints, login })
}

fn login(text: &str) -> Result<Login, UrlError> {
    let (user, password) = text.split_once(':').ok_or(UrlError::Login)?;
    let decoded = |text| percent_decoded(text).filter(|text| !text.is_empty());
    match (decoded(user), decoded(password)) {
        (Some(user), Some(password)) => Ok(Login { user, password }),
        _ => Err(UrlError::Login),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (url, shown) in [
            ("etcd://localhost", "localhost:2379"),
            ("etcd://10.0.0.1:1234/", "10.0.0.1:1234"),
            ("etcd://a,b:1,[::1]", "a:2379 b:1 [::1]:2379"),
        ] {
            let place = place(url).unwrap();
            let endpoints: Vec<_> = place.endpoints.iter().map(ToString::to_string).collect();
            assert_eq!(endpoints.join(" "), shown);
            assert!(place.login.is_none());
        }
        let login = place("etcd://app:s%40cret@a,b").unwrap().login.unwrap();
        assert_eq!((&*login.user, &*login.password), ("app", "s@cret"));
        assert!(!format!("{login:?}").contains("cret"));
    }

    #[test]
    fn wrong_urls_are_refused_with_the_reason_and_without_a_secret() {
        for (url, reason) in [
            ("", "starts with etcd://"),
            ("localhost:2379", "starts with etcd://"),
            ("http://localhost:2379", "starts with etcd://"),
            ("etcds://localhost", "does not speak TLS"),
            ("etcd://", "the host is missing"),
            ("etcd://a,", "the host is missing"),
            ("etcd://a,a", "twice"),
            ("etcd://a:0", "the port is not a number"),
            ("etcd://a b", "not a name or an address"),
            ("etcd://a/path", "ends after the hosts"),
            ("etcd://a?timeout=1", "ends after the hosts"),
            ("etcd://a#b", "ends after the hosts"),
            ("etcd://s3cret@a", "user:password"),
            ("etcd://:s3cret@a", "user:password"),
            ("etcd://user:@a", "user:password"),
            ("etcd://user:s3cret%zz@a", "user:password"),
            ("etcd://user:s3/cret@a", "user:password"),
            ("etcd://user:s3cret", "the port is not a number"),
        ] {
            let error = EtcdDatastore::open(url).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(reason), "{url}: {text}");
            assert!(!format!("{error:?} {text}").contains("cret"));
        }
    }
}
