//! What one connection writes, and what it reads.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dlock_core::{DatastoreError, Time};
use dlock_net::ServerClock;
use dlock_net::mux::{Answered, Replies, Sending};
use redis::Value;

use crate::operations::{self, Answer, Call, Deletes, Form, Kind, Packer, Unanswered};
use crate::replicas::Replicas;
use crate::wire::{Parser, frame};

/// What replies say of the server, and requests need.
struct Known {
    clock: ServerClock,
    deletes: Deletes,
}

#[derive(Clone)]
struct SharedKnown(Arc<Mutex<Known>>);

impl SharedKnown {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two sides of a connection to a server with this clock.
pub(super) fn halves(
    packer: Packer,
    clock: ServerClock,
    in_cluster: bool,
) -> (RequestWriter, RedisReplies) {
    let deletes = packer.deletes;
    let known = SharedKnown(Arc::new(Mutex::new(Known { clock, deletes })));
    let writer = RequestWriter {
        packer,
        known: known.clone(),
        has_released: false,
    };
    let replies = RedisReplies {
        parser: Parser::default(),
        known,
        in_cluster,
    };
    (writer, replies)
}

/// Writes calls of scripts.
pub(crate) struct RequestWriter {
    packer: Packer,
    known: SharedKnown,
    /// Whether the server has the script of a release from this connection.
    has_released: bool,
}

impl RequestWriter {
    /// Appends one call, which the server must not carry out after `not_after`. Returns what to
    /// expect.
    pub(crate) fn write(
        &mut self,
        call: Call<'_>,
        form: Form,
        not_after: Time,
        bytes: &mut Vec<u8>,
        sending: Sending,
    ) -> Kind {
        let call = if sending.again {
            call.once_more()
        } else {
            call
        };
        // The first release brings its script along: that of a program that ends with a guard in
        // scope is never sent again if the server does not know the script.
        let is_release = matches!(call, Call::Release { .. } | Call::Leave { .. });
        let form = match is_release && !mem::replace(&mut self.has_released, true) {
            true => Form::Text,
            false => form,
        };
        let known = self.known.lock();
        let not_after = known.clock.at_as_of(not_after, sending.now);
        self.packer.deletes = known.deletes;
        drop(known);
        self.packer.push_to(bytes, call, form, not_after);
        call.kind_with(self.packer.deletes)
    }

    /// Appends the question how many replicas have acknowledged what stands before it.
    pub(crate) fn write_wait(
        &mut self,
        replicas: Replicas,
        deadline: Time,
        bytes: &mut Vec<u8>,
        sending: Sending,
    ) -> Kind {
        let millis = replicas.millis(sending.now.until(deadline));
        self.packer.push_wait_to(bytes, replicas.count, millis);
        Kind::Wait(replicas.count)
    }
}

/// Reads the answers of scripts.
pub(crate) struct RedisReplies {
    parser: Parser,
    known: SharedKnown,
    in_cluster: bool,
}

impl Replies for RedisReplies {
    type Expected = Kind;
    /// The error is the server's, about this call.
    type Reply = Result<Answer, DatastoreError>;

    fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>> {
        frame::length(received)
    }

    fn read(
        &mut self,
        reply: &[u8],
        expected: &Kind,
        received: Time,
    ) -> io::Result<Answered<Self::Reply>> {
        // Most are a number, for which the parser's line buffer is not needed.
        let value = match number(reply) {
            Some(number) => Value::Int(number),
            None => self.parser.reply(reply)?,
        };
        match operations::answer_to(&value, *expected) {
            Ok((mut answer, time)) => {
                // The server may have lost its replicas because it is the primary no more.
                let retires = matches!(
                    (*expected, &answer),
                    (Kind::Wait(wanted), Answer::Acknowledged(count)) if *count < wanted
                );
                // The others say nothing of the server.
                if !matches!(
                    answer,
                    Answer::Released(_) | Answer::Lost | Answer::Acknowledged(_)
                ) {
                    let mut known = self.known.lock();
                    known.clock.learn_at(time, received);
                    known.deletes.learn(&mut answer);
                }
                Ok(Answered {
                    reply: Ok(answer),
                    retires,
                })
            }
            Err(Unanswered::Refused(error)) => Ok(Answered {
                retires: error.ends_connection(self.in_cluster),
                reply: Err(error.into()),
            }),
            Err(Unanswered::Malformed) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not an answer to the script",
            )),
        }
    }
}

/// The number that is all of a reply.
fn number(reply: &[u8]) -> Option<i64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_the_parser_reads_it() {
        for reply in [
            &b":0\r\n"[..],
            b":-1\r\n",
            b":1764000271000123\r\n",
            b":9223372036854775807\r\n",
        ] {
            let parsed = Parser::default().reply(reply).unwrap();
            assert_eq!(number(reply).map(Value::Int), Some(parsed));
        }
        for other in [&b":\r\n"[..], b":1x\r\n", b"+1\r\n", b"$1\r\n1\r\n", b":1"] {
            assert_eq!(number(other), None);
        }
    }
}
