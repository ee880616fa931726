//! Shared code of dlock's server backends, for adapters to other servers too.
//!
//! It is an implementation detail of `dlock-redis`, `dlock-memcache`, `dlock-etcd` and
//! `dlock-postgres`: a user of a lock never sees it. For the author of an adapter it has what a
//! call with a deadline needs:
//!
//! - [`Socket`]: a TCP or Unix stream on which no operation takes longer than the remaining time of
//!   the call, however slowly the server sends.
//! - [`Wire`]: requests and replies over a stream. It knows whether a request was sent and whether
//!   the reply was read to its end.
//! - [`Pool`]: a pool of connections. The thread that needs a connection opens it, within its
//!   deadline, and gets the real reason if that fails. The pool replaces dead connections, serves
//!   releases before claims, needs no thread, and is safe in a forked child. It can be built over
//!   an r2d2 pool.
//! - [`Streams`]: opens connections with TLS or without; `tls`, with the Cargo feature `tls`, says
//!   which servers are believed.
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
//! let refused = pool.call(deadline_in(Duration::from_secs(2)), |lines, _| lines.ask("ping")).unwrap_err();
//! assert!(!refused.may_have_executed());
//! ```
#![forbid(unsafe_code)]

mod alert;
mod batch;
mod certificates;
mod deadline;
mod dialer;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod lazy;
mod limits;
#[cfg(feature = "tokio")]
pub mod mux;
#[cfg(feature = "tokio")]
mod nonblocking;
mod of_process;
mod owners;
mod places;
mod pool;
#[cfg(not(dlock_model))]
mod repeat;
#[cfg(dlock_model)]
#[doc(hidden)]
pub mod repeat;
mod resolve;
mod server_clock;
mod socket;
mod streams;
#[cfg(any(test, fuzzing, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
mod wire;

pub use alert::{Alert, Awaited};
pub use batch::{Planned, in_batches};
pub use certificates::CertificateFiles;
pub use deadline::{Deadline, call_deadline, deadline_in};
pub use dialer::Dialer;
pub use error::{
    NetError, failed_after_sending, failed_before_sending, lost_reply, may_expect_tls,
    may_have_executed, nothing_was_done,
};
pub use lazy::{Connect, Lazy, Link};
pub use limits::Limits;
pub use of_process::OfProcess;
pub use owners::{RecentOwners, SharedOwners};
pub use pool::{Pool, PoolManager, PoolSettings};
pub use repeat::Earlier;
pub use resolve::Resolver;
pub use server_clock::ServerClock;
pub use socket::{Idle, Socket, Transport};
pub use streams::Streams;
pub use wire::Wire;

pub use dlock_url::{Endpoint, EndpointError, UrlParts, escaped, percent_decoded, redacted};

/// The version of r2d2 for [`Pool::from_r2d2`].
pub use r2d2;
