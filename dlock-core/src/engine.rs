//! The decisions of core, as values without I/O, and the flows that carry them out.

#![allow(
    unreachable_pub,
    missing_docs,
    reason = "private, but public for the model, which runs the flows from another crate"
)]

pub mod acquire;
pub mod acquisition;
pub mod callback;
pub mod delivery;
pub mod held_lease;
pub mod hold;
pub mod io;
pub mod lease_policy;
pub mod lease_schedule;
pub mod release;
pub mod renewal;
pub mod run_once;
pub mod ticket;
