//! Requests as bytes, replies as answers. No socket here.

mod deletes;
mod message;
mod reply;
mod request;
mod scripts;

use std::time::Duration;

pub(crate) use deletes::Deletes;
pub(crate) use message::{Message, channel, message};
pub(crate) use reply::{
    Answer, HeartbeatReply, Left, QueuePlace, ServerTime, Unanswered, answer_to, done,
    server_error, time,
};
pub(crate) use request::{Call, FENCE_KEEP, Keys, Kind, Listing, Packer, Record};
pub(crate) use scripts::Form;

/// How often a process looks at a key where some of it wait. Who makes a lock end sooner than that
/// tells the next waiter.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
