//! What one connection reads.

use std::io;

use dlock_core::{DatastoreError, Time};
use dlock_net::mux::{Answered, Replies};

use crate::wire::shared::{Answer, Kind, Reader};

/// Reads what one connection brings.
pub(crate) struct MemcacheReplies(Reader);

impl MemcacheReplies {
    /// What reads the replies of the server `peer`.
    pub(super) fn of(peer: String) -> Self {
        MemcacheReplies(Reader::new(peer))
    }
}

impl Replies for MemcacheReplies {
    type Expected = Kind;
    /// The error is the server's, about this request.
    type Reply = Result<Answer, DatastoreError>;

    fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>> {
        self.0.split(received)
    }

    fn read(
        &mut self,
        reply: &[u8],
        expected: &Kind,
        _: Time,
    ) -> io::Result<Answered<Self::Reply>> {
        let (reply, retires) = self.0.read(reply, *expected)?;
        Ok(Answered { reply, retires })
    }
}
