//! The builder of a store, from a URL and options, and what can be wrong with them.

use dlock_net::{Endpoint, EndpointError, Limits, Pool, UrlParts};
use thiserror::Error;

use crate::{ConnectionManager, MemcacheDatastore};

/// The default port of memcached.
const PORT: u16 = 11211;

/// Builds a [`MemcacheDatastore`] with other limits than the defaults.
///
/// ```
/// use dlock_memcache::MemcacheDatastore;
/// use std::time::Duration;
///
/// let store = MemcacheDatastore::builder("memcache://127.0.0.1:11211")?
///     .connect_timeout(Duration::from_millis(300))
///     .max_connections(4)
///     .verify_before_grant(true)
///     .build();
/// # Ok::<(), dlock_memcache::UrlError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "build() creates the store"]
pub struct MemcacheBuilder {
    manager: ConnectionManager,
    limits: Limits,
    verify_before_grant: bool,
}

dlock_net::impl_limit_setters!(MemcacheBuilder);

impl MemcacheBuilder {
    pub(crate) fn new(url: &str) -> Result<Self, UrlError> {
        Ok(MemcacheBuilder {
            manager: ConnectionManager::new(url)?,
            limits: Limits::default(),
            verify_before_grant: false,
        })
    }

    /// Whether a claim waits 0.2 s and then checks how long the server really keeps the key before
    /// it is granted. Default no: the renewal worker checks after the grant. See the section on
    /// stalls in [`MemcacheDatastore`].
    pub fn verify_before_grant(mut self, verify: bool) -> Self {
        self.verify_before_grant = verify;
        self
    }

    /// Creates the store. It connects when it is first used.
    pub fn build(self) -> MemcacheDatastore {
        let pool = Pool::new(self.manager, self.limits.pool);
        MemcacheDatastore::over(pool, self.limits)
            .with_verify_before_grant(self.verify_before_grant)
    }
}

/// What is wrong with the URL of a memcached server. The text does not repeat the URL, which may
/// contain a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL of a memcached server starts with memcache:// or memcache+unix://")]
    Scheme,
    /// The host or the port is invalid.
    #[error("memcache URL: {0}")]
    Endpoint(#[from] EndpointError),
    /// More than one server.
    #[error(
        "a lock is kept by one memcached server: with several, every client would have to map every key to the same one; write one host"
    )]
    SeveralServers,
    /// A user or a password.
    #[error(
        "memcached is used without user and password; remove the part before the @ (in the path of a socket write an @ as %40)"
    )]
    Credentials,
    /// A path, a query or a fragment.
    #[error("a memcache URL ends after the port, like memcache://127.0.0.1:11211")]
    Trailing,
    /// A relative path to a Unix socket, or one on a system without them.
    #[error("the path of a Unix socket is absolute: memcache+unix:///run/memcached.sock")]
    Path,
}

/// `memcache://host`, `memcache://host:port`, `memcache+unix:///path`.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint, UrlError> {
    let parts = UrlParts::of(url).ok_or(UrlError::Scheme)?;
    let is_socket = match parts.scheme {
        "memcache" => false,
        "memcache+unix" => true,
        _ => return Err(UrlError::Scheme),
    };
    // Otherwise a password becomes part of a path, which messages show.
    if url.contains('@') {
        return Err(UrlError::Credentials);
    }
    if is_socket {
        let socket = parts.socket().filter(|_| parts.query.is_none());
        return socket.ok_or(UrlError::Path);
    }
    if url.contains(',') {
        return Err(UrlError::SeveralServers);
    }
    if !matches!(parts.path, "" | "/") || parts.query.is_some() || parts.host.contains('#') {
        return Err(UrlError::Trailing);
    }
    Ok(Endpoint::parse(parts.host, Some(PORT))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (url, shown) in [
            ("memcache://localhost", "localhost:11211"),
            ("memcache://10.0.0.1:1234", "10.0.0.1:1234"),
            ("memcache://cache/", "cache:11211"),
            ("memcache://[::1]:1234", "[::1]:1234"),
            ("memcache+unix:///run/mem%20cached", "/run/mem cached"),
        ] {
            assert_eq!(endpoint(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn wrong_urls_are_refused_with_the_reason_and_without_a_secret() {
        for (url, reason) in [
            ("", "starts with memcache://"),
            ("localhost:11211", "starts with memcache://"),
            ("redis://localhost", "starts with memcache://"),
            ("memcache://", "the host is missing"),
            ("memcache://:11211", "the host is missing"),
            ("memcache://a:0", "the port is not a number"),
            ("memcache://a:port", "the port is not a number"),
            ("memcache://::1", "in brackets"),
            ("memcache://a b", "not a name or an address"),
            ("memcache://a,b", "kept by one memcached server"),
            ("memcache://a:1,b:2", "kept by one memcached server"),
            ("memcache://user:s3cret@a", "without user and password"),
            ("memcache://a/path", "ends after the port"),
            ("memcache://a?timeout=1", "ends after the port"),
            ("memcache://app:s3cret", "the port is not a number"),
            ("memcache+unix://:s3cret@/x", "without user and password"),
            ("memcache+unix:///:s3cret@/x", "without user and password"),
            ("memcache+unix:///u:s3cret@x/y", "without user and password"),
            ("memcache+unix://run", "is absolute"),
            ("memcache+unix://", "is absolute"),
            ("memcache+unix:///a%00", "is absolute"),
            ("memcache+unix:///a?b", "is absolute"),
        ] {
            let error = MemcacheDatastore::open(url).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(reason), "{url}: {text}");
            assert!(!format!("{error:?} {text}").contains("s3cret"));
        }
    }
}
