//! What one connection reads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dlock_core::{DatastoreError, Time};
use dlock_net::mux::{Answered, Replies};
use serde_json::Value;

use crate::connection::value_of;
use crate::endpoints::Endpoints;
use crate::wire;

/// Reads what one connection brings.
pub(crate) struct EtcdReplies {
    pub(super) peer: String,
    /// The node, in the order of the URL.
    pub(super) number: usize,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) has_ended: Arc<AtomicBool>,
}

impl Replies for EtcdReplies {
    /// Each reply has the same form.
    type Expected = ();
    /// The error is the server's, about this request.
    type Reply = Result<Value, DatastoreError>;

    /// A node gives up a request whose client is gone, and takes a client that sends nothing more
    /// for one.
    const FAREWELL: Option<&'static [u8]> = Some(wire::FAREWELL);

    fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>> {
        wire::split(received)
    }

    fn read(&mut self, reply: &[u8], (): &(), _: Time) -> io::Result<Answered<Self::Reply>> {
        let parsed = wire::parse(reply)?;
        let cut = || io::Error::new(io::ErrorKind::InvalidData, "the answer has no end");
        let (answer, _) = parsed.ok_or_else(cut)?;
        let mut retires = answer.is_last;
        let reply = value_of(&self.peer, &answer)?.map_err(|answered| {
            if answered.ends_connection {
                self.endpoints.failed(self.number);
                retires = true;
            }
            answered.error
        });
        self.has_ended.fetch_or(retires, Ordering::Relaxed);
        Ok(Answered { reply, retires })
    }
}
