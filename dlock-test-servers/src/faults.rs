//! A TCP proxy that misbehaves on demand.
//!
//! ```no_run
//! use dlock_test_servers::faults::{Fault, Proxy};
//! use dlock_test_servers::RedisServer;
//!
//! let server = RedisServer::start();
//! let proxy = Proxy::to(server.address());
//! let url = format!("redis://{}/", proxy.address());
//! // … open a store at `url`, then:
//! proxy.replies(Fault::Cut { after: 0 }); // the server carries the request out, its answer is lost, the connection dies
//! // … claim …
//! proxy.heal();
//! assert_eq!(proxy.counts().round_trips, 1);
//! ```
//!
//! A fault is set for one direction, [`requests`](Proxy::requests) or [`replies`](Proxy::replies),
//! and holds for all connections, those that exist and those to come, from the next byte on until
//! it is changed. Nothing is left to chance: the same calls give the same faults.

mod proxy;
mod pump;

pub use proxy::{Counts, Proxy};
pub use pump::Fault;

#[cfg(test)]
mod tests;
