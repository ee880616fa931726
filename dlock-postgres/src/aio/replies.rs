//! What one connection reads.

use std::io;

use bytes::BytesMut;
use dlock_core::Time;
use dlock_net::mux::{Answered, Replies};
use postgres_protocol::message::backend::Message;

use crate::wire::{Reply, ReplyReader, end_of_reply, no_reply};

/// Reads what one connection brings.
pub(crate) struct PostgresReplies;

impl Replies for PostgresReplies {
    type Expected = ();
    type Reply = Reply;

    fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>> {
        end_of_reply(received)
    }

    fn read(&mut self, reply: &[u8], (): &(), _: Time) -> io::Result<Answered<Self::Reply>> {
        let mut messages = BytesMut::from(reply);
        let mut reader = ReplyReader::default();
        while let Some(message) = Message::parse(&mut messages).map_err(|_| no_reply())? {
            // Nothing listens on these connections.
            if let Some((reply, is_usable)) = reader.take(message, &mut Vec::new())? {
                return Ok(Answered {
                    reply,
                    retires: !is_usable,
                });
            }
        }
        Err(no_reply())
    }
}
