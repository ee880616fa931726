//! The conformance suite for stores of dlock, with real servers and faults.
//!
//! A store implements [`Datastore`](dlock_core::Datastore), whose page says what must hold. [`conformance!`] makes a module with one
//! `#[test]` for each of those sentences, named after it, so that `cargo test law_7` runs what is said of extends:
//!
#![doc = "```"]
#![doc = include_str!("../tests/table.rs")]
#![doc = "# fn main() {}"]
#![doc = "```"]
//!
//! # A store that other processes open
//!
//! Most stores are somewhere: a server, a folder, a file. Then the suite also starts second processes, which are the test binary
//! itself, and it must be told where the store is and how they open it:
//!
//! ```
//! # use std::path::Path;
//! # use std::time::Duration;
//! # use dlock_core::*;
//! # struct MyStore;
//! # impl MyStore { fn open(_: impl AsRef<Path>) -> Self { MyStore } }
//! # impl Datastore for MyStore {
//! #     fn acquire(&self, _: &Claim, _: Duration) -> Result<Attempt, DatastoreError> { unreachable!() }
//! #     fn extend(&self, _: &Lease, _: Duration) -> Result<Extension, DatastoreError> { unreachable!() }
//! #     fn release(&self, _: &Lease) -> Result<Released, DatastoreError> { unreachable!() }
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
//! Two more hooks of [`Subject`] let cases be shown that need a hand in the store: [`writer_held_by`](Subject::writer_held_by), which
//! a store with a [`single_writer`](dlock_core::Characteristics::single_writer) must give, and
//! [`foreign_written_by`](Subject::foreign_written_by).
//!
//! # How to read what it says
//!
//! A failure begins with the law and says what was promised and what was seen: ``law 4 (own): a release by another owner freed the
//! key``. `not shown: …` means that the suite could not judge: something it needs is missing, or the machine was too slow time and
//! again. It counts as a failure, since nothing was shown. `not applicable: …`, which `--nocapture` shows, is of what a store declares
//! not to do: the test passes, and the declaration itself is tested where it can be.
//!
//! # How it takes time
//!
//! Cases wait for leases to end, at the times to live that the store declares: some ten seconds with many threads (`--test-threads=16`),
//! more on a machine of two cores with its two. Lower bounds ("not before the end") are exact on the clock that leases are measured on.
//! Upper bounds leave room for the store's granularity and for a machine under load, and a sample that came too late to show anything is
//! taken again. Each case uses keys of a random prefix of its own and never empties a store, so that a server can be shared.

mod case;
mod client;
pub mod faults;
#[cfg(unix)]
mod forked;
#[cfg(unix)]
pub mod history;
pub mod laws;
mod leaks;
mod locks;
mod machine;
mod orders;
mod other;
mod player;
mod recorder;
#[cfg(unix)]
pub mod servers;
mod shelf;
mod subject;
mod suite;
mod threads;
mod verdict;
mod waiter;

pub use other::other_process;
#[doc(hidden)]
pub use subject::__Reopen;
pub use subject::Subject;
pub use suite::{LAWS, Promise};
pub use verdict::Verdict;

/// The README's code, so that `cargo test` compiles it.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
