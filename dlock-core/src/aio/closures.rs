//! Which closures [`Lock::locked`](super::Lock::locked) and its siblings take. There is nothing in
//! this module but these examples, each of which is compiled.
//!
//! They take an **async closure** with the guard by reference. It may borrow what is around it,
//! also mutably, use `?`, and await what it likes:
//!
//! ```
//! # use dlock_core::{AcquireError, MemoryDatastore, aio::Lock};
//! # async fn import(_: &str) -> Result<u32, std::num::ParseIntError> { Ok(42) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! let (path, mut runs) = (String::from("/srv/import"), 0);
//! let rows = lock.locked(async |guard| {
//!     runs += 1;
//!     let rows = import(&path).await?;
//!     println!("{} held: {}", guard.key(), guard.is_valid());
//!     Ok::<_, std::num::ParseIntError>(rows)
//! });
//! assert_eq!(rows.await??, 42);
//! # Ok(())
//! # }
//! ```
//!
//! An `async fn` is one as well, and so is a closure that returns a future which does not use the
//! guard, if it names the type of its argument:
//!
//! ```
//! # use dlock_core::{AcquireError, MemoryDatastore};
//! use dlock_core::aio::{Lock, LockGuard};
//!
//! async fn import(guard: &LockGuard) -> usize {
//!     guard.key().len()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), AcquireError> {
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! lock.locked(import).await?;
//! lock.locked(|_guard: &LockGuard| async { 6 }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Without that type it is "not general enough":
//!
//! ```compile_fail
//! # use dlock_core::{AcquireError, MemoryDatastore, aio::Lock};
//! # async fn run() -> Result<(), AcquireError> {
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! lock.locked(|_guard| async { 6 }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```
//! # use dlock_core::{AcquireError, MemoryDatastore, aio::Lock};
//! # async fn run() -> Result<(), AcquireError> {
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! lock.locked(async |_guard| 6).await?; // instead
//! # Ok(())
//! # }
//! ```
//!
//! And such a future cannot borrow the guard, since nothing says that it ends before it:
//!
//! ```compile_fail
//! # use dlock_core::AcquireError;
//! # use dlock_core::aio::{Lock, LockGuard};
//! # async fn run(lock: Lock) -> Result<(), AcquireError> {
//! lock.locked(|guard: &LockGuard| async move { guard.key().len() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```
//! # use dlock_core::AcquireError;
//! # use dlock_core::aio::{Lock, LockGuard};
//! # async fn run(lock: Lock) -> Result<(), AcquireError> {
//! lock.locked(async |guard: &LockGuard| guard.key().len()).await?; // instead
//! # Ok(())
//! # }
//! ```
//!
//! # In tasks
//!
//! The future is `Send`, so that it can be spawned, if what the closure holds across an `await`
//! is:
//!
//! ```
//! # use dlock_core::{MemoryDatastore, aio::Lock};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! struct Import {
//!     lock: Lock,
//!     path: String,
//! }
//!
//! impl Import {
//!     async fn run(&self, runs: &mut u32) -> Result<(), dlock_core::AcquireError> {
//!         let import = async |_guard: &_| {
//!             *runs += 1;
//!             println!("importing {}", self.path);
//!             tokio::task::yield_now().await;
//!         };
//!         self.lock.locked(import).await
//!     }
//! }
//!
//! let import = Import { lock, path: String::from("/srv/import") };
//! tokio::spawn(async move { import.run(&mut 0).await }).await??;
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail,E0277
//! # use dlock_core::{MemoryDatastore, aio::Lock};
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! tokio::spawn(async move {
//!     lock.locked(async |_guard| {
//!         let count = std::rc::Rc::new(1); // not Send
//!         tokio::task::yield_now().await;
//!         drop(count);
//!     })
//!     .await
//! });
//! ```
//!
//! ```
//! # use dlock_core::{MemoryDatastore, aio::Lock};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! tokio::spawn(async move {
//!     lock.locked(async |_guard| {
//!         drop(std::rc::Rc::new(1)); // dropped before the `await`
//!         tokio::task::yield_now().await;
//!     })
//!     .await
//! })
//! .await??;
//! # Ok(())
//! # }
//! ```
//!
//! A function of your own that is generic over such a closure cannot say in today's Rust that its
//! future is `Send`:
//!
//! ```compile_fail,E0277
//! # use dlock_core::aio::{Lock, LockGuard};
//! fn in_task(lock: Lock, job: impl AsyncFnOnce(&LockGuard) -> u32 + Send + 'static) {
//!     tokio::spawn(async move { lock.locked(job).await });
//! }
//! ```
//!
//! Nor does a boxed closure work:
//!
//! ```compile_fail,E0277
//! # use dlock_core::aio::{Boxed, Lock, LockGuard};
//! # type Job = Box<dyn for<'a> FnOnce(&'a LockGuard) -> Boxed<'a, u32> + Send>;
//! fn in_task(lock: Lock, job: Job) {
//!     tokio::spawn(async move { lock.locked(job).await });
//! }
//! ```
//!
//! Such a function takes the closure, or the future of the job, and holds a guard:
//!
//! ```
//! # use dlock_core::AcquireError;
//! # use dlock_core::aio::Lock;
//! # use std::future::Future;
//! fn in_task(lock: Lock, job: impl Future<Output = u32> + Send + 'static) {
//!     tokio::spawn(async move {
//!         let guard = lock.try_acquire().await?;
//!         let rows = job.await;
//!         let _ = guard.release().await;
//!         Ok::<_, AcquireError>(rows)
//!     });
//! }
//! ```
//!
//! ```
//! # use dlock_core::AcquireError;
//! # use dlock_core::aio::{Boxed, Lock, LockGuard};
//! type Job = Box<dyn for<'a> FnOnce(&'a LockGuard) -> Boxed<'a, u32> + Send>;
//!
//! fn in_task(lock: Lock, job: Job) {
//!     tokio::spawn(async move {
//!         let guard = lock.try_acquire().await?;
//!         let rows = job(&guard).await;
//!         let _ = guard.release().await;
//!         Ok::<_, AcquireError>(rows)
//!     });
//! }
//! ```
//!
//! # In a loop of `select!`
//!
//! The future of an acquire borrows nothing and is `Unpin`. So a loop can poll it by reference,
//! beside other events, and it keeps its place in the queue:
//!
//! ```
//! # use dlock_core::{MemoryDatastore, aio::Lock};
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
//! # let other = lock.try_acquire().await?;
//! # let mut other = Some(other);
//! let mut acquire = lock.acquire();
//! let mut tick = tokio::time::interval(Duration::from_millis(5));
//! let guard = loop {
//!     tokio::select! {
//!         acquired = &mut acquire => break acquired?,
//!         _ = tick.tick() => {
//!             println!("still waiting");
//! #           drop(other.take());
//!         }
//!     }
//! };
//! # drop(guard);
//! # Ok(())
//! # }
//! ```
