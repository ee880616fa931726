//! The call of a dropped guard, after which the program may end.

use bytes::BytesMut;
use dlock_core::{Clock, DatastoreError, Time};
use dlock_net::mux::ready_by;
use dlock_net::{deadline_in, may_have_executed};
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::RecvError};

use super::{Line, Shares};
use crate::operations::{Answer, Call};
use crate::wire::{self, Reply};

/// The part of a call for which it waits for the reply to its copy.
const PARTS: u32 = 10;

impl Shares {
    /// Makes a call that is sent when this future is polled for the first time, if a connection is
    /// open. If each one that is open is in use, a copy of the call goes behind the call there. If
    /// that waits for a row, the call goes over a connection of its own after all.
    pub(super) async fn call_at_drop(
        &self,
        deadline: Time,
        call: Call<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        let next = self.turns.next_place(call.is_urgent());
        let is_ready = next.is_some_and(|place| self.connections[place].is_open());
        let copy = match is_ready {
            true => None,
            false => self.send_copy(deadline, call),
        };
        let Some(mut copy) = copy else {
            return self.call_alone(deadline, call).await;
        };
        let part = Clock::BOOTTIME.now().until(deadline) / PARTS;
        let soon = ready_by(deadline_in(part), &mut copy).await;
        let reply = soon.ok().flatten();
        let is_over = reply.is_some();
        if let Some(answer) = reply.and_then(|reply| answer_in(reply, call)) {
            return Ok((answer, false));
        }
        let outcome = self.call_alone(deadline, call).await;
        if matches!(outcome, Ok((Answer::Freed(false), _)))
            && !is_over
            && let Some(answer) = answer_in(copy.await, call)
        {
            return Ok((answer, false));
        }
        outcome
            .map(|(answer, _)| (answer, true))
            .map_err(may_have_executed)
    }

    /// Sends a copy of a call over a connection that is open, whatever is under way on it. Returns
    /// where the reply comes out, or `None` if none is open.
    fn send_copy(
        &self,
        deadline: Time,
        call: Call<'_>,
    ) -> Option<oneshot::Receiver<Option<Reply>>> {
        let runtime = Handle::try_current().ok();
        self.connections.iter().find_map(|connection| {
            let (to, reply) = oneshot::channel();
            let write = |line: &mut Line, bytes: &mut Vec<u8>, _| {
                let mut request = BytesMut::new();
                if line.server.write(&mut request, &call, deadline).is_err() {
                    // The reply to this is empty.
                    request.clear();
                    wire::push_end(&mut request);
                }
                bytes.extend_from_slice(&request);
            };
            let done = |reply| {
                // The call may be over.
                let _ = to.send(reply);
            };
            let is_sent = connection.send_at_once(runtime.clone(), deadline, write, done);
            is_sent.then_some(reply)
        })
    }
}

/// The answer, if that is what came.
fn answer_in(reply: Result<Option<Reply>, RecvError>, call: Call<'_>) -> Option<Answer> {
    let rows = reply.ok()??.ok()?;
    call.read(&rows).ok().map(|(answer, _)| answer)
}
