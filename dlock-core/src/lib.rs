//! Distributed locks with leases and fencing tokens: the core that all stores of dlock share.
//!
//! A job must run on one server at a time though every server could run it. Each process tries to acquire a lock that is kept
//! in a store they share; one wins, the others fail or wait; when the winner dies another takes over.
//!
//! ```
//! use dlock_core::{Lock, MemoryDatastore};
//!
//! let store = MemoryDatastore::new(); // or RedisDatastore, MemcacheDatastore, FileDatastore from their crates
//! let lock = Lock::new(store, "hourly-import");
//! let rows = lock.locked(|_guard| 42)?;
//! # assert_eq!(rows, 42);
//! # Ok::<(), dlock_core::AcquireError>(())
//! ```
//!
//! - [`Lock`] is what an application uses; [`LockGuard`] is what it holds; [`LockOptions`] is what it can say.
//! - [`Datastore`] is what a store implements: three methods and their laws. `dlock-testkit` tests them.
//! - [`MemoryDatastore`] is a store for tests; [`FakeClock`] lets them run through hours at once.
//!
//! # What is promised
//!
//! A lock is held by at most one at a time **if** the store keeps its data, clocks run at about the same pace, and the holder looks at its
//! lease ([`LockGuard::is_valid`]) before it acts. No lock over a network can promise more: a process can be stopped between the
//! look and the act. For that case each grant carries a [`FencingToken`] that rises from grant to grant, and a resource
//! that rejects lower tokens is safe even then.

#![forbid(unsafe_code)]

mod acquire_error;
mod acquisition;
mod answer;
mod callback;
mod characteristics;
mod claim;
mod clock;
mod datastore;
mod drive;
pub mod duration;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod held_lease;
mod holder;
mod keeper;
mod key;
mod lease;
mod lock;
mod memory;
#[cfg(test)]
mod model;
mod observer;
mod once;
mod options;
mod signal;
mod store;
mod terms;
mod time;
mod wait;

pub use acquire_error::{AcquireError, Optional, ReleaseError};
pub use answer::{Attempt, Extension, Held, Released};
pub use characteristics::{Characteristics, Fencing, Reach};
pub use claim::{Claim, OwnerToken};
pub use clock::{Clock, FakeClock};
pub use datastore::{Datastore, Inspect, Watch};
pub use error::{DatastoreError, ErrorKind};
pub use guard::LockGuard;
pub use holder::Holder;
pub use lease::{FencingToken, Grant, Lease, Revision, drift};
pub use lock::Lock;
pub use memory::MemoryDatastore;
pub use observer::{LockEvent, Observer};
pub use once::Once;
pub use options::{Backoff, DEFAULT_ID, LockOptions, OptionsError};
pub use signal::Signal;
pub use store::{Store, StoreBuilder};
pub use time::Time;
pub use wait::{Cancel, Wait};
