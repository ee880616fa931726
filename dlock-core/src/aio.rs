//! The async form, for programs on tokio: the same locks, with the same promises. With the feature
//! `tokio`.
//!
//! ```
//! use dlock_core::MemoryDatastore; // or a store from its crate
//! use dlock_core::aio::Lock;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dlock_core::AcquireError> {
//! let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! let rows = lock.locked(async |_guard| 42).await?;
//! # assert_eq!(rows, 42);
//! # Ok(())
//! # }
//! ```
//!
//! - [`Lock`] and [`LockGuard`] are what an application uses, [`Store`] is a store in use. Options,
//!   errors, [`Wait`](crate::Wait), [`Observer`](crate::Observer) and
//!   [`FakeClock`](crate::FakeClock) are those of the blocking form. Both forms exclude each other
//!   on one store.
//! - [`AsyncDatastore`] is what an async store implements. [`Unblock`] makes one of a blocking
//!   store, [`Block`] a blocking one of an async store.
//!
//! # What a dropped future leaves
//!
//! Nothing. Each future may be dropped at each `await`, on any runtime, outside of them all, and
//! while one shuts down. What it has begun goes on in the background of its [`Store`], with the
//! call that is under way: its answer may be a grant that must be given back.
//!
//! | dropped | then |
//! | --- | --- |
//! | [`Lock::acquire`] and its siblings | what was granted is released, a place in a queue is left |
//! | [`LockGuard`] | the release is sent |
//! | [`LockGuard::release`] | the release is carried out, also if it was never polled |
//! | [`Lock::locked`] | the closure's future is dropped, the lock released |
//! | [`Lock::once`], before the job has ended | the mark is freed, and the job may be run again |
//! | [`Lock::once`], after that | the job is marked as done |
//!
//! The next acquire of the same lock in the same store waits until that is done, for one call at
//! most, and then works at once. [`Store::settled`] waits for all of it, before a program ends.
//!
//! A future that was polled must go on being polled, or be dropped: one that is kept and not polled
//! may have been granted the lock, which then stays taken until the lease ends.
//!
//! # What a blocked executor means
//!
//! Renewals, and the declaration of a loss, run on threads of dlock. So a runtime that is blocked,
//! paused or starved loses no lease, and `is_valid` and `on_lost` are right in time. But a task
//! that waits for [`LockGuard::lost`] learns of the loss when it is polled: code that blocks its
//! thread cannot be cancelled. For that time the fencing token protects.

mod background;
mod block;
mod boxed;
pub mod closures;
mod continued;
mod datastore;
mod future;
mod guard;
mod inspect;
mod io;
mod lock;
mod memory;
mod once;
mod pending;
mod store;
mod threads;
mod unblock;

pub use block::Block;
pub use boxed::DynAsyncDatastore;
pub use continued::is_polled_by_drop;
pub use datastore::AsyncDatastore;
pub use future::Boxed;
pub use guard::{LockGuard, Release};
pub use inspect::AsyncInspect;
pub use lock::{Acquire, Lock};
pub use store::Store;
pub use unblock::Unblock;
