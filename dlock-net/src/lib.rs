//! What the server backends of dlock share, and what an adapter for another server may use.
//!
//! It is an implementation detail of `dlock-redis` and `dlock-memcache`: a user of a lock never sees it. Whoever writes an adapter for
//! a server finds here what a call with a deadline needs:
//!
//! - [`Socket`]: TCP or Unix stream on which nothing takes longer than what is left of the call, however slowly the
//!   server's bytes drip.
//! - [`Wire`]: requests and replies over it, which knows whether a request left and whether the reply was read to its end.
//! - [`Pool`]: an r2d2 pool whose connections are opened by the thread that needs them, within its deadline, with the real reason
//!   when that fails; replaces dead ones; is safe in a forked child.
//!
//! ```
//! use dlock_core::{DatastoreError, Time};
//! use dlock_net::{Connect, Endpoint, Lazy, Link, Pool, PoolSettings, Socket, Wire, deadline_in};
//! use std::time::Duration;
//!
//! /// One connection to a server that answers a line with a line.
//! struct Lines(Wire<Socket>);
//!
//! impl Lines {
//!     fn ask(&mut self, question: &str) -> Result<String, DatastoreError> {
//!         self.0.send(format!("{question}\r\n").as_bytes())?;
//!         let answer = String::from_utf8_lossy(self.0.line(512)?).into_owned();
//!         self.0.finish();
//!         Ok(answer)
//!     }
//! }
//!
//! impl Link for Lines {
//!     fn set_deadline(&mut self, deadline: Time) {
//!         self.0.set_deadline(deadline);
//!     }
//!     fn is_usable(&mut self) -> bool {
//!         self.0.is_usable()
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct LinesManager(Endpoint);
//!
//! impl Connect for LinesManager {
//!     type Link = Lines;
//!     fn connect(&self, deadline: Time) -> Result<Lines, DatastoreError> {
//!         let socket = Socket::connect(&self.0, deadline)?;
//!         Ok(Lines(Wire::new(socket, &self.0)))
//!     }
//! }
//!
//! dlock_net::impl_manage_connection!(LinesManager);
//!
//! let pool = Pool::new(LinesManager("127.0.0.1:1".parse().unwrap()), PoolSettings::default());
//! let refused = pool.call(deadline_in(Duration::from_secs(2)), |lines| lines.ask("ping")).unwrap_err();
//! assert!(!refused.may_have_executed());
//! ```
#![forbid(unsafe_code)]

mod deadline;
mod endpoint;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod lazy;
mod pool;
mod socket;
mod wire;

pub use deadline::{Deadline, call_deadline, deadline_in};
pub use endpoint::{Endpoint, EndpointError, percent_decoded, redacted};
pub use error::{
    NetError, failed_after_sending, failed_before_sending, may_have_executed, nothing_was_done,
};
pub use lazy::{Connect, Lazy, Link};
pub use pool::{Pool, PoolManager, PoolSettings};
pub use socket::{Idle, Socket, Transport};
pub use wire::Wire;

/// The r2d2 that [`Pool`] is made of.
pub use r2d2;
