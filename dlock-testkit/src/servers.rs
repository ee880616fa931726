//! Real servers as values: private processes on addresses of their own, which end when the value is dropped.
//!
//! A test that needs a server starts one and throws it away. Nothing is shared, so it may stop it, kill it, fill it or empty it:
//!
//! ```no_run
//! use dlock_testkit::servers::RedisServer;
//!
//! let mut server = RedisServer::start();
//! server.command(["SET", "k", "v"]);
//! server.pause(); // accepts connections, answers nothing
//! server.resume();
//! server.restart_with_data();
//! server.restart_empty();
//! println!("{}", server.url());
//! ```
//!
//! What goes wrong here panics: a test cannot go on without its server. A missing binary is such a failure, never a skip, and says
//! what installs it. Another binary (a Valkey, another version) is chosen by environment: `DLOCK_REDIS_SERVER`, `DLOCK_MEMCACHED`.
//!
//! A server does not outlive the test process, even when that is killed.

mod memcached;
mod process;
mod redis;
mod redis_builder;
mod resp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(target_os = "linux")]
mod wall_clock;

pub use memcached::MemcachedServer;
pub use redis::RedisServer;
pub use redis_builder::RedisBuilder;
pub use resp::Reply;

#[cfg(test)]
mod tests;
