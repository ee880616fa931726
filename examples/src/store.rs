//! Opens the store of a URL.

use std::time::Duration;

use dlock_core::Store;
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_postgres::PostgresDatastore;
use dlock_redis::RedisDatastore;

use crate::Outcome;

/// The most that one call takes: more than usual, since an example starts many servers on one
/// machine at once.
const CALL: Duration = Duration::from_secs(10);

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
            let builder = RedisDatastore::builder(url)?.call_timeout(CALL);
            builder.connect_timeout(CALL).build().into()
        }
        "memcache" => {
            let builder = MemcacheDatastore::builder(url)?.call_timeout(CALL);
            builder.connect_timeout(CALL).build().into()
        }
        "postgres" | "postgresql" => PostgresDatastore::open(url)?.into(),
        _ => {
            let known = "file:/some/folder, redis://host/, memcache://host or \
                         postgres://user@host/database";
            return Err(format!("`{url}` is not a store; write {known}").into());
        }
    })
}
