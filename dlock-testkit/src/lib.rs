//! The conformance suite for stores of dlock.
//!
//! A store implements [`Datastore`](dlock_core::Datastore), whose documentation states its laws.
//! [`conformance!`] generates a module with one `#[test]` for each of these promises, named after
//! it. So `cargo test law_7` runs the tests of extends:
//!
#![doc = "```"]
#![doc = include_str!("../tests/table.rs")]
#![doc = "# fn main() {}"]
#![doc = "```"]
//!
//! # A store that other processes open
//!
//! Most stores have a place: a server, a folder, a file. Then the suite also starts second
//! processes, by running the test binary again. It needs the place of the store, and how such a
//! process opens it:
//!
//! ```
//! # use std::path::Path;
//! # use std::time::Duration;
//! # use dlock_core::*;
//! # struct MyStore;
//! # impl MyStore { fn open(_: impl AsRef<Path>) -> Self { MyStore } }
//! # impl Datastore for MyStore {
//! #     fn acquire(&self, _: &Claim, _: Duration) -> Result<AcquireOutcome, DatastoreError> { unreachable!() }
//! #     fn extend(&self, _: &Lease, _: Duration) -> Result<Extension, DatastoreError> { unreachable!() }
//! #     fn release(&self, _: &Lease) -> Result<ReleaseOutcome, DatastoreError> { unreachable!() }
//! # }
//! use dlock_testkit::{Subject, conformance};
//!
//! fn subject() -> Subject {
//!     let folder = tempfile::tempdir().unwrap();
//!     let place = folder.path().join("locks");
//!     Subject::new({
//!         let place = place.clone();
//!         move || MyStore::open(&place)
//!     })
//!     .at(place)
//!     .cleaned_by(folder)
//! }
//!
//! conformance!(my_store, subject, reopen = |place: &str| MyStore::open(place));
//! # fn main() {}
//! ```
//!
//! Three more hooks of [`Subject`] let cases be shown that need a hand in the store:
//! [`writer_held_by`](Subject::writer_held_by), which a store with a
//! [`single_writer`](dlock_core::Characteristics::single_writer) must give,
//! [`record_locked_by`](Subject::record_locked_by) for stores that lock rows, and
//! [`foreign_written_by`](Subject::foreign_written_by). And
//! [`without_dangers`](Subject::without_dangers) says that the store is set up well: then it must
//! find no danger in itself.
//!
//! # An async store
//!
//! With the feature `tokio`, `async_conformance!` runs the same suite on a store that implements
//! `AsyncDatastore`, on both kinds of tokio's runtime. The cases of locks use `aio::Lock`, and
//! more cases show what only the async form promises, such as what a dropped future leaves behind.
//!
//! # How to read what it says
//!
//! A failure begins with the law and says what was promised and what was seen: ``law 4 (own): a
//! release by another owner freed the key``, and which line of yours made the store. `not shown: …`
//! means that the suite could not judge: something it needs is missing, or calls took longer time
//! and again than when they were measured. It counts as a failure, since nothing was shown.
//! `not applicable: …` is of what a store declares not to do: the test passes, and the declaration
//! itself is tested where it can be. A summary on the standard error stream lists these cases by
//! reason when the run ends.
//!
//! # How it takes time
//!
//! Cases wait for leases to end, at the times to live that the store declares: some ten seconds
//! with many threads (`--test-threads=16`), more on a machine of two cores with its two. A case
//! measures first how long a call takes: short leases have room for 32 calls, and calls that do not
//! depend on each other are made side by side, so that a store that is far away passes in about a
//! minute at 40 ms a call. Lower bounds ("not before the end") are exact on the clock that leases
//! are measured on. Upper bounds leave room for the store's granularity and for a machine under
//! load, and a sample that came too late to show anything is taken again. Each case uses keys of a
//! random prefix of its own and never empties a store, so that a server can be shared.

#[cfg(feature = "tokio")]
mod async_suite;
mod case;
mod child_commands;
mod child_process;
mod claimant;
mod client;
#[cfg(feature = "tokio")]
mod dropping;
#[cfg(feature = "tokio")]
mod executor;
#[cfg(unix)]
mod forked;
mod form;
pub mod laws;
mod leaks;
mod locks;
mod model_key;
mod pauses;
mod random_run;
mod recorder;
mod step;
mod subject;
mod suite;
mod summary;
mod threads;
mod verdict;
mod waiter;

#[cfg(feature = "tokio")]
pub use async_suite::ASYNC_LAWS;
#[cfg(feature = "tokio")]
#[doc(hidden)]
pub use async_suite::{__current_thread, __multi_thread};
pub use child_process::other_process;
#[cfg(feature = "tokio")]
#[doc(hidden)]
pub use executor::__AsyncCalls;
#[cfg(feature = "tokio")]
#[doc(hidden)]
pub use subject::__IntoAsync;
#[doc(hidden)]
pub use subject::__Reopen;
pub use subject::Subject;
pub use suite::{LAWS, Promise};
pub use verdict::Verdict;

/// Counts a verdict for the summary at the end of the run.
#[doc(hidden)]
pub fn __counted(suite: &'static str, case: &'static str, verdict: Verdict) -> Verdict {
    summary::count(suite, case, verdict);
    verdict
}

/// The README's code, so that `cargo test` compiles it.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
