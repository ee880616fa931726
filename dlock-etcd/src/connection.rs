//! One connection to a node: requests of the JSON gateway and their answers, in order.

mod watching;

use std::sync::Arc;
use std::{fmt, io};

use dlock_core::{DatastoreError, Time};
use dlock_net::{Link, Transport, Wire, nothing_was_done};
use serde_json::Value;

use crate::endpoints::Endpoints;
use crate::error::{Answered, answered, plain_answer, unexpected};
use crate::operations::commands::{Commands, Method};
use crate::wire::{self, Answer};
pub(crate) use watching::Watching;

/// What HTTP says of an answer that is no error.
const OK: u16 = 200;
/// Where a node serves its counts.
const METRICS: &str = "/metrics";

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
        let (token, body) = (self.token.as_deref(), body.to_string());
        wire::push_post(&mut self.request, place, token, &body);
        let sent = self.wire.send(&self.request);
        let read = sent.and_then(|()| wire::answer(&mut self.wire));
        let answer = read.inspect_err(|_| self.end())?;
        self.has_ended |= answer.is_last;
        let read = value_of(self.wire.peer(), &answer);
        let answered = read.map_err(|error| self.wire.failed(error))?;
        answered.map_err(|answered| {
            if answered.ends_connection {
                self.end();
            }
            answered.error
        })
    }

    /// A count that the node keeps for operators; `None` if it does not serve those here.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn metric(&mut self, name: &str) -> Result<Option<u64>, DatastoreError> {
        self.request.clear();
        wire::push_get(&mut self.request, (self.wire.peer(), METRICS));
        let sent = self.wire.send(&self.request);
        let read = sent.and_then(|()| wire::answer(&mut self.wire));
        let answer = read.inspect_err(|_| self.end()).map_err(nothing_was_done)?;
        self.has_ended |= answer.is_last;
        let text = String::from_utf8_lossy(&answer.body);
        let count = text.lines().find_map(|line| {
            let count = line.strip_prefix(name)?.strip_prefix(' ')?;
            // They are written as floating-point numbers.
            format!("{:.0}", count.parse::<f64>().ok()?).parse().ok()
        });
        Ok(count.filter(|_| answer.status == OK))
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Its parts, for the async form; `None` if it cannot be used any more.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_parts(self) -> Option<Parts> {
        Some(Parts {
            peer: self.wire.peer().to_owned(),
            stream: self.wire.into_transport().filter(|_| !self.has_ended)?,
            number: self.number,
            endpoints: self.endpoints,
            token: self.token,
        })
    }
}

/// An open connection, taken apart.
#[cfg(feature = "tokio")]
pub(crate) struct Parts {
    pub(crate) stream: Box<dyn Transport>,
    pub(crate) peer: String,
    pub(crate) number: usize,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) token: Option<String>,
}

/// What an answer says: a value, or an error of the server.
///
/// # Errors
///
/// If it is not JSON.
pub(crate) fn value_of(peer: &str, answer: &Answer) -> io::Result<Result<Value, Answered>> {
    let value = match serde_json::from_slice(&answer.body) {
        Ok(value) => value,
        Err(error) => {
            let known = plain_answer(peer, answer.status, &answer.body);
            let unknown = io::Error::new(io::ErrorKind::InvalidData, error);
            return known.map(Err).ok_or(unknown);
        }
    };
    Ok(answered(peer, answer.status, &value).map_or(Ok(value), Err))
}

impl Commands for Connection {
    async fn ask(&mut self, method: Method, body: &Value) -> Result<Value, DatastoreError> {
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
