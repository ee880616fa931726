//! From a URL and options to a store.

use std::time::Duration;

use dlock_net::{Endpoint, Pool, PoolSettings};

use crate::error::UrlError;
use crate::{ConnectionManager, MemcacheDatastore};

/// The port that memcached listens on if nobody says otherwise.
const PORT: u16 = 11211;
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How a [`MemcacheDatastore`] is made, with other limits than the default ones.
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
#[must_use = "build() makes the store"]
pub struct MemcacheBuilder {
    manager: ConnectionManager,
    pool: PoolSettings,
    calls: Calls,
}

/// What concerns each call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) timeout: Duration,
    pub(crate) verify_before_grant: bool,
}

impl Default for Calls {
    fn default() -> Self {
        Calls {
            timeout: CALL_TIMEOUT,
            verify_before_grant: false,
        }
    }
}

impl MemcacheBuilder {
    pub(crate) fn new(url: &str) -> Result<Self, UrlError> {
        Ok(MemcacheBuilder {
            manager: ConnectionManager::new(url)?,
            pool: PoolSettings::default(),
            calls: Calls::default(),
        })
    }

    /// The most that opening a connection takes, the server's greeting included; never longer than the call that needs it. Default
    /// 1 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.manager = self.manager.with_connect_timeout(timeout);
        self
    }

    /// The most that one call takes, whatever its caller's deadline. Default 2 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.calls.timeout = timeout;
        self
    }

    /// The most that a call waits while all connections are in use. Default: as long as the call.
    pub fn checkout_timeout(mut self, timeout: Duration) -> Self {
        self.pool = self.pool.with_checkout_timeout(Some(timeout));
        self
    }

    /// How many connections there may be at a time, besides the one that renews; 0 means 1. Default 10.
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

    /// Whether a claim waits 0.2 s longer and looks whether the server really keeps the key for as long as it said, before it is
    /// granted. Default no: the renewal worker looks after the grant. See the section on stalls in [`MemcacheDatastore`].
    pub fn verify_before_grant(mut self, verify: bool) -> Self {
        self.calls.verify_before_grant = verify;
        self
    }

    /// The store. It connects when it is first used.
    pub fn build(self) -> MemcacheDatastore {
        MemcacheDatastore::over(Pool::new(self.manager, self.pool), self.calls)
    }
}

/// `memcache://host`, `memcache://host:port`, `memcache+unix:///path`.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint, UrlError> {
    if let Some(path) = url.strip_prefix("memcache+unix://") {
        return unix(path);
    }
    let rest = url.strip_prefix("memcache://").ok_or(UrlError::Scheme)?;
    if rest.contains('@') {
        return Err(UrlError::Credentials);
    }
    if rest.contains(',') {
        return Err(UrlError::SeveralServers);
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(UrlError::Trailing);
    }
    Ok(Endpoint::parse(authority, Some(PORT))?)
}

#[cfg(unix)]
fn unix(path: &str) -> Result<Endpoint, UrlError> {
    dlock_net::percent_decoded(path)
        .filter(|path| path.starts_with('/') && !path.ends_with('/') && !path.contains('\0'))
        .map(|path| Endpoint::Unix(path.into()))
        .ok_or(UrlError::Path)
}

#[cfg(not(unix))]
fn unix(_: &str) -> Result<Endpoint, UrlError> {
    Err(UrlError::Path)
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
            ("memcache+unix://run", "is absolute"),
            ("memcache+unix://", "is absolute"),
            ("memcache+unix:///a%00", "is absolute"),
        ] {
            let error = MemcacheDatastore::connect(url).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(reason), "{url}: {text}");
            assert!(!format!("{error:?} {text}").contains("s3cret"));
        }
    }
}
