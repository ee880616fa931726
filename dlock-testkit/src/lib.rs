//! The conformance suite for stores of dlock, with real servers and faults.
