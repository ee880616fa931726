//! One connection to a node: requests of the JSON gateway and their answers, in order.

use std::fmt;
use std::sync::Arc;

use dlock_core::{DatastoreError, Time};
use dlock_net::{Link, Transport, Wire, nothing_was_done};
use serde_json::Value;

use crate::endpoints::Endpoints;
use crate::error::{answered, plain_answer, unexpected};
use crate::operations::commands::{Commands, Method};
use crate::wire;

/// One connection to a node of an etcd cluster.
pub struct Connection {
    wire: Wire<Box<dyn Transport>>,
    /// The node, in the order of the URL.
    number: usize,
    endpoints: Arc<Endpoints>,
    /// What a login gave.
    token: Option<String>,
    /// Whether the next call must use another connection.
    has_ended: bool,
    /// Its memory is kept from call to call.
    request: Vec<u8>,
}

impl Link for Connection {
    fn set_deadline(&mut self, deadline: Time) {
        self.wire.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        !self.has_ended && self.wire.is_usable()
    }
}

impl Connection {
    pub(crate) fn new(
        wire: Wire<Box<dyn Transport>>,
        number: usize,
        endpoints: Arc<Endpoints>,
    ) -> Self {
        Connection {
            wire,
            number,
            endpoints,
            token: None,
            has_ended: false,
            request: Vec::new(),
        }
    }

    pub(crate) fn peer(&self) -> &str {
        self.wire.peer()
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Shows this token with each request from now on.
    pub(crate) fn use_token(&mut self, token: String) {
        self.token = Some(token);
    }

    /// Another node is tried first from now on.
    fn end(&mut self) {
        self.has_ended = true;
        self.endpoints.failed(self.number);
    }

    fn exchange(&mut self, method: Method, body: &Value) -> Result<Value, DatastoreError> {
        self.request.clear();
        let place = (self.wire.peer(), method.path());
        wire::push_post(
            &mut self.request,
            place,
            self.token.as_deref(),
            &body.to_string(),
        );
        let sent = self.wire.send(&self.request);
        let read = sent.and_then(|()| wire::answer(&mut self.wire));
        let answer = read.inspect_err(|_| self.end())?;
        self.has_ended |= answer.is_last;
        let value = match serde_json::from_slice(&answer.body) {
            Ok(value) => value,
            Err(error) => {
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                let known = plain_answer(self.wire.peer(), answer.status, &answer.body);
                return Err(known.unwrap_or_else(|| self.wire.failed(error)));
            }
        };
        if let Some(answered) = answered(self.wire.peer(), answer.status, &value) {
            if answered.ends_connection {
                self.end();
            }
            return Err(answered.error);
        }
        Ok(value)
    }
}

impl Commands for Connection {
    fn ask(&mut self, method: Method, body: &Value) -> Result<Value, DatastoreError> {
        let answer = self.exchange(method, body);
        match method.changes_something() {
            true => answer,
            false => answer.map_err(nothing_was_done),
        }
    }

    fn unexpected(&self, answer: &Value) -> DatastoreError {
        unexpected(self.wire.peer(), answer)
    }
}

/// By hand, for the token must not be in it.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("wire", &self.wire)
            .field("has_ended", &self.has_ended)
            .finish_non_exhaustive()
    }
}
