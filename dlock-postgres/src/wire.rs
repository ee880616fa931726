//! Bytes: how a request is written and a reply is read, in version 3 of PostgreSQL's protocol.
//!
//! The crate `postgres-protocol` knows the messages; it opens no socket and starts no thread. The
//! crates above it, `postgres` and `tokio-postgres`, have no limit for a single call.

use std::borrow::Cow;
use std::io;
use std::mem;

use bytes::BytesMut;
use dlock_core::DatastoreError;
use dlock_net::{Transport, Wire};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{
    DataRowBody, ErrorFields, ErrorResponseBody, Header, Message, NotificationResponseBody,
};
use postgres_protocol::message::frontend;

use crate::error::ServerError;

/// No message comes near it but a page of held keys. What is no PostgreSQL could fill the memory.
const LONGEST_MESSAGE: usize = 1024 * 1024;
/// Nor does a whole reply come near this.
#[cfg(feature = "tokio")]
const LONGEST_REPLY: usize = 4 * LONGEST_MESSAGE;
/// The length of a message's kind and length.
const HEADER: usize = 5;
/// The function of the server in which a commit waits for a standby.
const WAIT_FOR_STANDBY: &[u8] = b"SyncRepWaitForLSN";
/// A page of held keys has this many rows, and other replies have one.
pub(crate) const MOST_ROWS: usize = 256;

/// The columns of a row, as text; `None` for NULL.
pub(crate) type Row = Vec<Option<String>>;

/// The rows of a reply, or the server's error.
pub(crate) type Reply = Result<Vec<Row>, ServerError>;

/// A parameter, as text; `None` for NULL.
pub(crate) type Parameter<'a> = Option<Cow<'a, str>>;

/// Writes a request: one statement without a name and its parameters, as a transaction of its own.
pub(crate) fn push_statement(
    request: &mut BytesMut,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> io::Result<()> {
    frontend::parse("", sql, [], request)?;
    push_execution(request, "", parameters)
}

/// Writes the part of a request that gives a statement this name, whatever had it before.
pub(crate) fn push_preparation(request: &mut BytesMut, name: &str, sql: &str) -> io::Result<()> {
    frontend::close(b'S', name, request)?;
    frontend::parse(name, sql, [], request)
}

/// Writes the rest of a request: it executes the statement with this name, as a transaction of its
/// own.
pub(crate) fn push_execution(
    request: &mut BytesMut,
    name: &str,
    parameters: &[Parameter<'_>],
) -> io::Result<()> {
    let values = parameters.iter();
    let bound = frontend::bind(
        "",
        name,
        [],
        values,
        |value, buffer| {
            let Some(value) = value else {
                return Ok(IsNull::Yes);
            };
            buffer.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        },
        [],
        request,
    );
    bound.map_err(|error| match error {
        frontend::BindError::Conversion(error) => io::Error::other(error),
        frontend::BindError::Serialization(error) => error,
    })?;
    frontend::execute("", 0, request)?;
    push_end(request);
    Ok(())
}

/// Writes the end of a request. Alone it is one that does nothing.
pub(crate) fn push_end(request: &mut BytesMut) {
    frontend::sync(request);
}

/// Writes statements without parameters, which run as they would in `psql`.
pub(crate) fn push_script(request: &mut BytesMut, sql: &str) -> io::Result<()> {
    frontend::query(sql, request)
}

/// Reads one message.
///
/// # Errors
///
/// Maybe executed.
pub(crate) fn read_message<S: Transport>(wire: &mut Wire<S>) -> Result<Message, DatastoreError> {
    let start = wire.exactly(HEADER)?;
    let mut message = BytesMut::from(start);
    let header = Header::parse(start).map_err(|error| wire.failed(error))?;
    let rest = header
        .and_then(|header| usize::try_from(header.len()).ok()?.checked_add(1))
        .filter(|length| *length <= LONGEST_MESSAGE)
        .and_then(|length| length.checked_sub(HEADER))
        .ok_or_else(|| wire.failed(no_reply()))?;
    message.extend_from_slice(wire.exactly(rest)?);
    match Message::parse(&mut message) {
        Ok(Some(message)) => Ok(message),
        Ok(None) | Err(_) => Err(wire.failed(no_reply())),
    }
}

/// Reads the reply to a statement, or to a script, to its end: its rows, or the server's error.
///
/// The wire is not [finished](Wire::finish) after an error that ends the connection. The payloads
/// of notifications that come in between are added to `notified`.
///
/// # Errors
///
/// Maybe executed.
pub(crate) fn read_reply<S: Transport>(
    wire: &mut Wire<S>,
    notified: &mut Vec<String>,
) -> Result<Reply, DatastoreError> {
    let mut reader = ReplyReader::default();
    loop {
        let message = read_message(wire)?;
        let end = reader.take(message, notified);
        if let Some((reply, is_usable)) = end.map_err(|error| wire.failed(error))? {
            if is_usable {
                wire.finish();
            }
            return Ok(reply);
        }
    }
}

/// A reply as far as it was read.
#[derive(Default)]
pub(crate) struct ReplyReader {
    rows: Vec<Row>,
    error: Option<ServerError>,
}

impl ReplyReader {
    /// Takes the next message. At the end, returns the reply, and whether the connection can take
    /// another request.
    pub(crate) fn take(
        &mut self,
        message: Message,
        notified: &mut Vec<String>,
    ) -> io::Result<Option<(Reply, bool)>> {
        match message {
            Message::DataRow(row) if self.rows.len() < MOST_ROWS => self.rows.push(columns(&row)?),
            Message::ErrorResponse(response) => {
                let response = server_error(&response);
                if response.ends_connection() {
                    return Ok(Some((Err(response), false)));
                }
                self.error.get_or_insert(response);
            }
            // A warning from there says that the wait was canceled: the statement is committed, and
            // a standby that takes over may lack it. What follows is the reply of a success.
            Message::NoticeResponse(notice) if is_from(WAIT_FOR_STANDBY, notice.fields()) => {
                self.error.get_or_insert(stated(notice.fields()));
            }
            Message::ReadyForQuery(ready) => {
                let rows = mem::take(&mut self.rows);
                let reply = self.error.take().map_or(Ok(rows), Err);
                let goes_on = reply
                    .as_ref()
                    .map_or_else(|error| !error.ends_connection(), |_| true);
                return Ok(Some((reply, goes_on && ready.status() == b'I')));
            }
            Message::NotificationResponse(notification) => {
                notified.push(payload(&notification)?);
            }
            Message::CloseComplete
            | Message::ParseComplete
            | Message::BindComplete
            | Message::NoData
            | Message::CommandComplete(_)
            | Message::EmptyQueryResponse
            | Message::RowDescription(_)
            | Message::NoticeResponse(_)
            | Message::ParameterStatus(_) => {}
            _ => return Err(no_reply()),
        }
        Ok(None)
    }
}

/// The end of the first reply in `received`, or `None` if it has not arrived.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if no reply begins like this.
#[cfg(feature = "tokio")]
pub(crate) fn end_of_reply(received: &[u8]) -> io::Result<Option<usize>> {
    let mut at = 0;
    loop {
        let rest = &received[at..];
        let Some((kind, length)) = rest.split_first_chunk::<HEADER>().map(|(header, _)| {
            let [kind, length @ ..] = *header;
            (kind, u32::from_be_bytes(length))
        }) else {
            return Ok(None);
        };
        let length = usize::try_from(length).ok();
        let length = length.and_then(|length| length.checked_add(1));
        let length = length
            .filter(|length| (HEADER..=LONGEST_MESSAGE).contains(length))
            .filter(|length| at + length <= LONGEST_REPLY)
            .ok_or_else(no_reply)?;
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        at += length;
        let is_end = match kind {
            b'Z' => true,
            b'E' => match Message::parse(&mut BytesMut::from(message)) {
                Ok(Some(Message::ErrorResponse(error))) => server_error(&error).ends_connection(),
                _ => return Err(no_reply()),
            },
            _ => false,
        };
        if is_end {
            return Ok(Some(at));
        }
    }
}

/// Reads what the server sends on its own: the payload of a notification, or `None` for what says
/// nothing.
///
/// # Errors
///
/// Also if the server ends the connection.
pub(crate) fn read_notification<S: Transport>(
    wire: &mut Wire<S>,
) -> Result<Option<String>, DatastoreError> {
    match read_message(wire)? {
        Message::NotificationResponse(notification) => {
            let payload = payload(&notification);
            payload.map(Some).map_err(|error| wire.failed(error))
        }
        Message::NoticeResponse(_) | Message::ParameterStatus(_) => Ok(None),
        Message::ErrorResponse(error) => Err(server_error(&error).into()),
        _ => Err(wire.failed(no_reply())),
    }
}

/// The text of a notification. That it is none is no fault of the caller, as the error of the
/// parser would say.
fn payload(notification: &NotificationResponseBody) -> io::Result<String> {
    let payload = notification.message().map_err(|_| no_reply())?;
    Ok(payload.to_owned())
}

fn columns(row: &DataRowBody) -> io::Result<Row> {
    let columns = row.ranges().map(|range| {
        let Some(range) = range else {
            return Ok(None);
        };
        let bytes = row.buffer().get(range).ok_or_else(no_reply)?;
        let text = std::str::from_utf8(bytes).map_err(|_| no_reply())?;
        Ok(Some(text.to_owned()))
    });
    // A row that is cut off within its message is not one that has not arrived yet.
    columns.collect().map_err(|_: io::Error| no_reply())
}

pub(crate) fn server_error(response: &ErrorResponseBody) -> ServerError {
    stated(response.fields())
}

/// Returns whether the server sent this from its function of that name, which is never translated.
fn is_from(function: &[u8], mut fields: ErrorFields<'_>) -> bool {
    while let Ok(Some(field)) = fields.next() {
        if field.type_() == b'R' {
            return field.value_bytes() == function;
        }
    }
    false
}

/// Reads the fields of an error or a warning. What is missing stays empty.
fn stated(mut fields: ErrorFields<'_>) -> ServerError {
    let (mut severity, mut code, mut message) = (String::new(), String::new(), String::new());
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            // That which is never translated.
            b'V' => severity = value,
            b'C' => code = value,
            b'M' => message = value,
            _ => {}
        }
    }
    ServerError::new(&severity, &code, &message)
}

/// Without what was read: the server may repeat a secret.
pub(crate) fn no_reply() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no PostgreSQL reply")
}

#[cfg(test)]
mod tests;
