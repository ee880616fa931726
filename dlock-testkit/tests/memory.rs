//! The store in memory keeps every promise.

use dlock_core::MemoryDatastore;
use dlock_testkit::{Subject, conformance};

conformance!(memory, || Subject::from(MemoryDatastore::new())
    .without_dangers());
