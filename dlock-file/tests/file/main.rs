//! What `dlock-file` promises, against folders, processes and hostile neighbours.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod conformance;
mod copies;
mod ends;
mod hostile;
mod laws;
mod opening;
mod processes;
mod support;
mod waiting;
mod wakes;
