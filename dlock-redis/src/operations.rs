//! Requests as bytes, replies as answers. No socket here.

mod call;
mod deletes;
mod message;
mod reply;
mod request;
mod scripts;

use std::time::Duration;

pub(crate) use call::{Call, Keys, Kind, Listing, Record};
pub(crate) use deletes::Deletes;
pub(crate) use message::{Message, channel, message};
pub(crate) use reply::{
    Answer, HeartbeatReply, Left, QueuePlace, Unanswered, answer_to, done, server_error, time,
};
pub(crate) use request::{FENCE_KEEP, Packer};
pub(crate) use scripts::Form;

/// How often a process looks at a key where some of it wait. Who makes a lock end sooner than that
/// notifies the next waiter.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
