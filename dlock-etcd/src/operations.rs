//! What a claim, an extend and a release are in etcd's terms: leases, and transactions on a key and
//! the places of its waiters.
//!
//! They ask through [`commands::Commands`] and know no socket.

pub(crate) mod commands;
pub(crate) mod grant;
pub(crate) mod holding;
pub(crate) mod lease;
pub(crate) mod listing;
pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod requests;
pub(crate) mod unanswered;
pub(crate) mod watching;
