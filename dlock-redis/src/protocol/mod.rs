//! Requests as bytes, replies as answers. No socket here.

mod message;
mod reply;
mod request;
mod scripts;

use std::time::Duration;

pub(crate) use message::{Message, channel, message};
pub(crate) use reply::{
    Answer, Left, Look, QueuePlace, ServerTime, Unanswered, answer, done, time,
};
pub(crate) use request::{Call, Form, Packer};

/// How often a process looks at a key where some of it wait. Who makes a lock end sooner than that tells the next waiter.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
