//! One connection for many calls at a time, for stores that are used from async code.
//!
//! A protocol in which each request has one reply, in order, implements [`Replies`], which splits
//! what arrives into replies and reads them, and [`Open`], which opens a connection by blocking
//! means. The [`Multiplexer`] does the rest: it keeps each call's deadline to the end of the whole
//! reply, knows whether a request was sent, skips replies whose calls have ended, and opens
//! connections anew.

mod call;
mod connection;
mod driver;
mod multiplexer;
mod own_thread;
mod process;
mod protocol;
mod queue;
mod session;
mod table;

pub use crate::nonblocking::{Layer, Plain};
pub use multiplexer::Multiplexer;
pub use own_thread::on_own_thread;
pub use process::{ready_by, sleep_until, until};
pub use protocol::{Answered, Open, Opened, Replied, Replies, Sending};
pub use session::{Pinned, Session};
