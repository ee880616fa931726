//! Opens the store of a URL.

use dlock_core::Store;
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_postgres::PostgresDatastore;
use dlock_redis::RedisDatastore;

use crate::Outcome;

/// Opens the store of a URL: a folder on this host, a Redis, a memcached or a
/// PostgreSQL.
///
/// # Errors
///
/// If the URL is of another kind, or the store cannot be used.
pub fn open(url: &str) -> Outcome<Store> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    Ok(match scheme {
        "file" => FileDatastore::from_url(url)?.into(),
        "redis" | "rediss" | "unix" | "redis+cluster" | "rediss+cluster" => {
            RedisDatastore::open(url)?.into()
        }
        "memcache" => MemcacheDatastore::open(url)?.into(),
        "postgres" | "postgresql" => PostgresDatastore::open(url)?.into(),
        _ => {
            let known = "file:/some/folder, redis://host/, memcache://host or \
                         postgres://user@host/database";
            return Err(format!("`{url}` is not a store; write {known}").into());
        }
    })
}
