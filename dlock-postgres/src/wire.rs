//! Bytes: how a request is written and a reply is read, in version 3 of PostgreSQL's protocol.
//!
//! The crate `postgres-protocol` knows the messages; it opens no socket and starts no thread. The
//! crates above it, `postgres` and `tokio-postgres`, have no limit for a single call.

use std::borrow::Cow;
use std::io;

use bytes::BytesMut;
use dlock_core::DatastoreError;
use dlock_net::{Transport, Wire};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{
    DataRowBody, ErrorResponseBody, Header, Message, NotificationResponseBody,
};
use postgres_protocol::message::frontend;

use crate::error::ServerError;

/// No message comes near it but a page of held keys. What is no PostgreSQL could fill the memory.
const LONGEST_MESSAGE: usize = 1024 * 1024;
/// The length of a message's kind and length.
const HEADER: usize = 5;
/// A page of held keys has this many rows, and other replies have one.
pub(crate) const MOST_ROWS: usize = 256;

/// The columns of a row, as text; `None` for NULL.
pub(crate) type Row = Vec<Option<String>>;

/// A parameter, as text; `None` for NULL.
pub(crate) type Parameter<'a> = Option<Cow<'a, str>>;

/// Writes a request: one statement with its parameters, as a transaction of its own.
///
/// The statement has no name. A pooler may give each transaction another connection to the server,
/// where a name would be missing or another's.
pub(crate) fn push_statement(
    request: &mut BytesMut,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> io::Result<()> {
    frontend::parse("", sql, [], request)?;
    let values = parameters.iter();
    let bound = frontend::bind(
        "",
        "",
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
    frontend::sync(request);
    Ok(())
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
) -> Result<Result<Vec<Row>, ServerError>, DatastoreError> {
    let mut rows = Vec::new();
    let mut error: Option<ServerError> = None;
    loop {
        match read_message(wire)? {
            Message::DataRow(row) if rows.len() < MOST_ROWS => {
                let row = columns(&row).map_err(|error| wire.failed(error))?;
                rows.push(row);
            }
            Message::ErrorResponse(response) => {
                let response = server_error(&response);
                if response.ends_connection() {
                    return Ok(Err(response));
                }
                error.get_or_insert(response);
            }
            Message::ReadyForQuery(ready) => {
                if ready.status() == b'I' {
                    wire.finish();
                }
                return Ok(error.map_or(Ok(rows), Err));
            }
            Message::NotificationResponse(notification) => {
                notified.push(payload(wire, &notification)?);
            }
            Message::ParseComplete
            | Message::BindComplete
            | Message::NoData
            | Message::CommandComplete(_)
            | Message::EmptyQueryResponse
            | Message::RowDescription(_)
            | Message::NoticeResponse(_)
            | Message::ParameterStatus(_) => {}
            _ => return Err(wire.failed(no_reply())),
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
        Message::NotificationResponse(notification) => payload(wire, &notification).map(Some),
        Message::NoticeResponse(_) | Message::ParameterStatus(_) => Ok(None),
        Message::ErrorResponse(error) => Err(server_error(&error).into()),
        _ => Err(wire.failed(no_reply())),
    }
}

fn payload<S: Transport>(
    wire: &Wire<S>,
    notification: &NotificationResponseBody,
) -> Result<String, DatastoreError> {
    let payload = notification.message();
    payload
        .map(str::to_owned)
        .map_err(|error| wire.failed(error))
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
    columns.collect()
}

/// Reads an error's fields. What is missing stays empty.
pub(crate) fn server_error(response: &ErrorResponseBody) -> ServerError {
    let (mut severity, mut code, mut message) = (String::new(), String::new(), String::new());
    let mut fields = response.fields();
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
