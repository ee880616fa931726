//! From a URL to a store.

use std::env;

use dlock_core::Datastore;
use dlock_file::FileDatastore;

use crate::say::{chain, plain, say};

/// A store that was opened.
pub(crate) struct Opened {
    pub(crate) datastore: Box<dyn Datastore>,
    /// The URL without its secrets, for messages.
    pub(crate) shown: String,
    /// The URL as it was given; `None` if none was.
    pub(crate) url: Option<String>,
}

/// Why there is no store; the text says what to do.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The URL cannot be understood.
    Usage(String),
    /// The URL is understood, and the store cannot be used.
    Unusable(String),
}

/// The environment variable with the URL of the store.
const VARIABLE: &str = "DLOCK_STORE";

/// Opens the store that the flag names, or else the environment, or else the folder for this host.
pub(crate) fn open(flag: Option<&str>) -> Result<Opened, OpenError> {
    let url = match flag {
        Some(url) => Some(url.to_owned()),
        None => match env::var(VARIABLE) {
            Ok(url) => Some(url).filter(|url| !url.is_empty()),
            Err(env::VarError::NotPresent) => None,
            Err(env::VarError::NotUnicode(_)) => {
                return Err(OpenError::Usage(format!("{VARIABLE} is no UTF-8 text")));
            }
        },
    };
    let Some(url) = url else {
        let datastore = file("file:")?;
        // Cron drops the environment: that each of many hosts now locks only itself must not go unseen.
        say(format_args!(
            "no --store and no {VARIABLE}: the lock keeps apart the processes of this user on this host only \
             (--store file: says so on purpose)"
        ));
        return Ok(Opened {
            datastore,
            shown: "file:".to_owned(),
            url: None,
        });
    };
    Ok(Opened {
        datastore: connect(&url)?,
        shown: shown(&url),
        url: Some(url),
    })
}

fn connect(url: &str) -> Result<Box<dyn Datastore>, OpenError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("file") => file(url),
        #[cfg(feature = "redis")]
        Some("redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix") => {
            server(dlock_redis::RedisDatastore::connect(url), url)
        }
        #[cfg(feature = "memcache")]
        Some("memcache" | "memcache+unix") => {
            server(dlock_memcache::MemcacheDatastore::connect(url), url)
        }
        _ => Err(OpenError::Usage(format!(
            "`{}` is no store that this dlock knows; write {}",
            shown(url),
            KNOWN.join(" or ")
        ))),
    }
}

/// What URLs look like.
const KNOWN: &[&str] = &[
    "file:/path/to/folder",
    #[cfg(feature = "redis")]
    "redis://host/",
    #[cfg(feature = "memcache")]
    "memcache://host/",
];

/// A store that is reached by its first call: only its URL can be wrong by now.
#[cfg(any(feature = "redis", feature = "memcache"))]
fn server<D: Datastore + 'static, E: std::error::Error>(
    store: Result<D, E>,
    url: &str,
) -> Result<Box<dyn Datastore>, OpenError> {
    match store {
        Ok(store) => Ok(Box::new(store)),
        Err(error) => Err(OpenError::Usage(format!(
            "cannot use the store {}: {}",
            shown(url),
            chain(&error)
        ))),
    }
}

fn file(url: &str) -> Result<Box<dyn Datastore>, OpenError> {
    match FileDatastore::from_url(url) {
        Ok(store) => Ok(Box::new(store)),
        // Its text says what to do.
        Err(error @ dlock_file::OpenError::Url { .. }) => Err(OpenError::Usage(chain(&error))),
        Err(error) => Err(OpenError::Unusable(chain(&error))),
    }
}

/// The URL without user, password and query. A path of the file store has none of them.
fn shown(url: &str) -> String {
    if url.starts_with("file:") {
        return plain(url);
    }
    // A password may hold a :// as well, and what stands before that is no scheme.
    let is_scheme = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    let scheme = url
        .find("://")
        .filter(|end| is_scheme(&url[..*end]))
        .map_or("", |end| &url[..end + "://".len()]);
    let rest = &url[scheme.len()..];
    // First the last @, wherever it stands: a password may hold a slash, a question mark or a hash that nobody escaped, and the URL may be
    // one that no store takes.
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let place = place.split(['?', '#']).next().unwrap_or_default();
    plain(&format!("{scheme}{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_no_secrets() {
        for (url, text) in [
            ("redis://user:secret@host:1/2", "redis://host:1/2"),
            ("redis://:se/cret@host", "redis://host"),
            ("redis://:se@cret@host", "redis://host"),
            ("redis://:se#cret@host:1/", "redis://host:1/"),
            ("redis://:se?cret@host:1/", "redis://host:1/"),
            ("redis:/:secret@host:1/", "host:1/"),
            ("redis:secret@host", "host"),
            ("unix:/:secret@/x", "/x"),
            (":secret@host", "host"),
            ("user:secret://x@host", "host"),
            ("redis//:secret@host/", "host/"),
            ("file:/home/me@work/locks", "file:/home/me@work/locks"),
            (
                "unix:///run/redis.sock?pass=secret",
                "unix:///run/redis.sock",
            ),
            ("memcache://host:11211", "memcache://host:11211"),
            ("file:/var/lib/locks", "file:/var/lib/locks"),
            ("file:", "file:"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            assert_eq!(shown(url), text, "{url}");
        }
    }
}
