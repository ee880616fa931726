//! The store in memory keeps every promise.

use dlock_core::MemoryDatastore;
use dlock_testkit::conformance;

conformance!(memory, || MemoryDatastore::new());
