//! From a URL to a store.

use dlock_core::Store;
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_redis::RedisDatastore;

use crate::Outcome;

/// The store that a URL names: a folder of this host, a Redis or a memcached.
///
/// # Errors
///
/// A URL of another kind, or a store that cannot be used.
pub fn open(url: &str) -> Outcome<Store> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    Ok(match scheme {
        "file" => FileDatastore::from_url(url)?.into(),
        "redis" | "rediss" | "unix" => RedisDatastore::connect(url)?.into(),
        "memcache" => MemcacheDatastore::connect(url)?.into(),
        _ => {
            let known = "file:/some/folder, redis://host/ or memcache://host";
            return Err(format!("`{url}` is no store; write {known}").into());
        }
    })
}
