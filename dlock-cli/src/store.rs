//! Opens the store of a URL.

use dlock_core::Datastore;
use dlock_file::FileDatastore;
use dlock_url::redacted;

use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::{report, with_causes};

/// An opened store.
pub(crate) struct Opened {
    pub(crate) datastore: Box<dyn Datastore>,
    /// The URL without its secrets, for messages.
    pub(crate) redacted_url: String,
    /// The URL as it was given; `None` if none was.
    pub(crate) url: Option<String>,
}

/// Why the store could not be opened. The text says what to do.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The URL is wrong.
    Usage(String),
    /// The URL is right, but the store cannot be used.
    Unusable(String),
}

impl From<OpenError> for ExitReason {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Usage(message) => ExitReason::new(exit_code::USAGE, message),
            OpenError::Unusable(message) => ExitReason::new(exit_code::UNREACHABLE, message),
        }
    }
}

/// Opens the store at the URL, or else the default folder on this host.
pub(crate) fn open(url: Option<&str>) -> Result<Opened, OpenError> {
    let Some(url) = url else {
        let datastore = file("file:")?;
        // Cron drops the environment. Without a message nobody would notice that each host now
        // locks only itself.
        report(format_args!(
            "no --store and no DLOCK_STORE: this lock excludes processes of this user on this host only \
             (if that is what you want, write --store file:)"
        ));
        return Ok(Opened {
            datastore,
            redacted_url: "file:".to_owned(),
            url: None,
        });
    };
    Ok(Opened {
        datastore: connect(url)?,
        redacted_url: redacted(url),
        url: Some(url.to_owned()),
    })
}

fn connect(url: &str) -> Result<Box<dyn Datastore>, OpenError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("file") => file(url),
        #[cfg(feature = "redis")]
        Some(
            "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix"
            | "redis+sentinel" | "rediss+sentinel" | "valkey+sentinel" | "valkeys+sentinel"
            | "redis+cluster" | "rediss+cluster" | "valkey+cluster" | "valkeys+cluster",
        ) => server(dlock_redis::RedisDatastore::open(url), url),
        #[cfg(feature = "memcache")]
        Some("memcache" | "memcache+unix") => {
            server(dlock_memcache::MemcacheDatastore::open(url), url)
        }
        #[cfg(feature = "etcd")]
        Some("etcd" | "etcds") => server(dlock_etcd::EtcdDatastore::open(url), url),
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            server(dlock_postgres::PostgresDatastore::open(url), url)
        }
        _ => Err(OpenError::Usage(format!(
            "`{}` is not a store that this dlock knows; write {}",
            redacted(url),
            KNOWN.join(" or ")
        ))),
    }
}

/// Examples of URLs.
const KNOWN: &[&str] = &[
    "file:/path/to/folder",
    #[cfg(feature = "redis")]
    "redis://host/",
    #[cfg(feature = "redis")]
    "redis+sentinel://host,host/name",
    #[cfg(feature = "redis")]
    "redis+cluster://host,host",
    #[cfg(feature = "memcache")]
    "memcache://host/",
    #[cfg(feature = "etcd")]
    "etcd://host,host,host",
    #[cfg(feature = "postgres")]
    "postgres://user@host/database",
];

/// A server is contacted by the first call, so only its URL can be wrong here.
#[cfg(any(
    feature = "redis",
    feature = "memcache",
    feature = "etcd",
    feature = "postgres"
))]
fn server<D: Datastore + 'static, E: std::error::Error>(
    store: Result<D, E>,
    url: &str,
) -> Result<Box<dyn Datastore>, OpenError> {
    match store {
        Ok(store) => Ok(Box::new(store)),
        Err(error) => Err(OpenError::Usage(format!(
            "cannot use the store {}: {}",
            redacted(url),
            with_causes(&error)
        ))),
    }
}

fn file(url: &str) -> Result<Box<dyn Datastore>, OpenError> {
    match FileDatastore::from_url(url) {
        Ok(store) => Ok(Box::new(store)),
        // The error's text says what to do.
        Err(error @ dlock_file::OpenError::Url { .. }) => {
            Err(OpenError::Usage(with_causes(&error)))
        }
        Err(error) => Err(OpenError::Unusable(with_causes(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_no_secrets() {
        for (url, text) in [
            ("redis://user:secret@host:1/2", "redis://***@host:1/2"),
            ("redis://app:secret", "redis://***"),
            ("redis://:se/cret@host", "redis://***"),
            ("redis://:se@cret@host", "redis://***@host"),
            ("redis:/:secret@host:1/", "***"),
            ("user:secret://x@host", "***"),
            ("unix:///:secret@/run/redis.sock", "unix://***"),
            (
                "unix:///run/redis.sock?pass=secret",
                "unix:///run/redis.sock?***",
            ),
            ("postgres://app:secret@db/shop", "postgres://***@db/***"),
            ("memcache://host:11211", "memcache://host:11211"),
            ("etcd://app:secret@a,b:1", "etcd://***@a,b:1"),
            (
                "etcds://app:secret@a,b:1?key=/secret",
                "etcds://***@a,b:1?***",
            ),
            ("file:/home/me@work/locks", "file:/home/me@work/locks"),
            ("file:", "file:"),
            ("\u{1b}[2J", "***"),
        ] {
            assert_eq!(redacted(url), text, "{url}");
        }
    }
}
