//! Distributed locks with leases and fencing tokens: the core that all stores of dlock share.
//!
//! A job must run on one server at a time though every server could run it. Each process tries to
//! acquire a lock that is kept in a store they share; one wins, the others fail or wait; when the
//! winner dies another takes over.
//!
//! ```
//! use dlock_core::{Lock, MemoryDatastore};
//!
//! let store = MemoryDatastore::new(); // or RedisDatastore, PostgresDatastore, … from their crates
//! let lock = Lock::new(store, "hourly-import");
//! let rows = lock.locked(|_guard| 42)?;
//! # assert_eq!(rows, 42);
//! # Ok::<(), dlock_core::AcquireError>(())
//! ```
//!
//! | to | look at |
//! | --- | --- |
//! | hold a lock | [`Lock`], [`LockGuard`], [`Wait`] |
//! | hold it in async code | `aio`, with the feature `tokio` |
//! | hold it in another way | [`LockOptions`] |
//! | know why it was not acquired | [`AcquireError`], [`HeldBy`], [`DatastoreError`] |
//! | use one store for many locks, and log what happens | [`Store`], [`Observer`], [`LockEvent`] |
//! | test | [`MemoryDatastore`]; [`FakeClock`] lets hours pass at once |
//! | implement a store | [`Datastore`]: three methods and their laws, which `dlock-testkit` tests |
//! | put something in front of a store | [`Layer`], [`Layered`] |
//!
//! # What is promised
//!
//! A lock is held by at most one at a time **if** the store keeps its data, clocks run at about the
//! same pace, and the holder looks at its lease ([`LockGuard::is_valid`]) before it acts. No lock
//! over a network can promise more: a process can be stopped between the look and the act. For that
//! case each grant carries a [`FencingToken`] that rises from grant to grant, and a resource that
//! rejects lower tokens is safe even then.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `serde`: [`LockOptions`] and [`FencingToken`] read from and write to any serde format.
//! - `metrics`: an observer that counts and measures through the `metrics` crate.
//! - `tokio`: the async form, the module `aio`.
//! - `tracing`: spans for the `tracing` crate.

#![forbid(unsafe_code)]

mod acquire_error;
#[cfg(feature = "tokio")]
pub mod aio;
mod contract;
pub mod duration;
#[cfg(not(dlock_model))]
#[cfg_attr(not(test), deny(clippy::disallowed_methods))]
mod engine;
#[cfg(dlock_model)]
#[doc(hidden)]
pub mod engine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod lock;
mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
mod named;
mod observer;
mod once;
mod optional;
mod options;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod outcome_word;
mod store;
mod time;
mod trace;

pub use acquire_error::{AcquireError, ReleaseError};
pub use contract::characteristics::{Characteristics, Fencing, Reach};
pub use contract::claim::{Claim, OwnerToken};
pub use contract::datastore::{Datastore, Leaving, Watch};
pub use contract::error::{DatastoreError, ErrorKind};
pub use contract::finding::{Finding, Severity};
pub use contract::grant::{FencingToken, Grant, Revision, drift};
pub use contract::holder::Holder;
pub use contract::inspect::{HeldPage, Inspect, PageMark};
pub use contract::layer::{Layer, Layered};
pub use contract::lease::Lease;
pub use contract::outcome::{AcquireOutcome, Extension, HeldBy, ReleaseOutcome};
pub use engine::run_once::OnceOutcome;
pub use guard::LockGuard;
pub use lock::Lock;
pub use memory::MemoryDatastore;
pub use observer::{LockEvent, Observer, Operation, StoreCall};
pub use optional::Optional;
pub use options::{DEFAULT_ID, LockOptions, LockOptionsBuilder, OptionName, OptionsError};
#[doc(hidden)]
pub use store::at_once;
pub use store::{Store, StoreBuilder};
pub use time::backoff::Backoff;
pub use time::clock::Clock;
pub use time::fake_clock::FakeClock;
pub use time::instant::Time;
pub use time::signal::Signal;
pub use time::wait::{Cancel, Wait};

// For the crates of this workspace.
#[cfg(dlock_model)]
#[doc(hidden)]
pub use contract::holder::Phase;
#[doc(hidden)]
pub use dlock_process::ProcessId;
