//! The requests of a conversation, over a connection that other calls share.

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::mux::Pinned;
use dlock_net::nothing_was_done;
use serde_json::Value;

use super::{Opener, RequestWriter};
use crate::error::unexpected;
use crate::operations::commands::{Commands, Method};
use crate::wire::push_post;

/// A connection for one conversation.
pub(super) struct SharedConnection<'a>(&'a mut Pinned<Opener>);

impl<'a> SharedConnection<'a> {
    pub(super) fn on(connection: &'a mut Pinned<Opener>) -> Self {
        SharedConnection(connection)
    }
}

impl Commands for SharedConnection<'_> {
    async fn ask(&mut self, method: Method, body: &Value) -> Result<Value, DatastoreError> {
        let body = body.to_string();
        let write = |writer: &mut RequestWriter, request: &mut Vec<u8>, _| {
            let place = (writer.peer.as_str(), method.path());
            push_post(request, place, writer.token.as_deref(), &body);
        };
        let answer = self.0.ask(write).await.inspect_err(|error| {
            // Not if the time was over before it was sent.
            if error.kind() == ErrorKind::Timeout && error.may_have_executed() {
                self.0.with_writer(|writer| writer.timed_out());
            }
        });
        let answer = answer.and_then(|answer| answer);
        match method.changes_something() {
            true => answer,
            false => answer.map_err(nothing_was_done),
        }
    }

    fn unexpected(&self, answer: &Value) -> DatastoreError {
        unexpected(self.0.peer(), answer)
    }
}
