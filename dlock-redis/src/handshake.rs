//! What is sent over a fresh stream before anything else, and what the server has to answer.

use std::io;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{Endpoint, NetError, Transport, Wire, failed_before_sending, may_expect_tls};
use redis::{Cmd, Value};

use crate::config::Login;
use crate::error::ServerError;
use crate::operations::{self, Message, Unanswered};
use crate::sentinel::replies;
use crate::wire::Parser;

/// Which servers are good ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Any: the URL names it.
    Any,
    /// One that calls itself a primary, as a sentinel said.
    Primary,
}

/// AUTH, SELECT, ROLE and TIME in one trip, as far as they are needed, all answered before anything
/// else is sent. Returns the server's time in µs.
///
/// # Errors
///
/// Not executed. None has a password in it.
pub(crate) fn log_in<S: Transport>(
    wire: &mut Wire<S>,
    parser: &mut Parser,
    login: &Login,
    wanted: Wanted,
) -> Result<i64, DatastoreError> {
    let mut request = Vec::new();
    push_auth(login, &mut request);
    if login.database != 0 {
        let mut select = Cmd::new();
        select.arg("SELECT").arg(login.database);
        select.write_packed_command(&mut request);
    }
    if wanted == Wanted::Primary {
        Cmd::new().arg("ROLE").write_packed_command(&mut request);
    }
    Cmd::new().arg("TIME").write_packed_command(&mut request);
    wire.send(&request)?;

    let mut reply = || reply(wire, parser, login);
    auth_answered(login, &mut reply)?;
    if login.database != 0 {
        operations::done(&reply()?).map_err(|error| match error {
            // "DB index is out of range"
            Unanswered::Refused(error) if error.code() == "ERR" => {
                refused_login(ErrorKind::Invalid, error)
            }
            error => not_greeted(error),
        })?;
    }
    let is_wanted = match wanted {
        Wanted::Any => true,
        Wanted::Primary => replies::is_primary(&reply()?).map_err(not_greeted)?,
    };
    let time = operations::time(&reply()?).map_err(not_greeted)?;
    if !is_wanted {
        let text = format!(
            "{} is a replica, although a sentinel calls it the primary",
            wire.peer()
        );
        return Err(DatastoreError::not_executed(ErrorKind::Refused, text));
    }
    wire.finish();
    Ok(time)
}

fn push_auth(login: &Login, request: &mut Vec<u8>) {
    let Some(password) = &login.password else {
        return;
    };
    let mut auth = Cmd::new();
    auth.arg("AUTH");
    if let Some(user) = &login.user {
        auth.arg(user);
    }
    auth.arg(password).write_packed_command(request);
}

/// Reads the answer to what [`push_auth`] has sent.
fn auth_answered(
    login: &Login,
    mut reply: impl FnMut() -> Result<Value, DatastoreError>,
) -> Result<(), DatastoreError> {
    let Some(password) = &login.password else {
        return Ok(());
    };
    // What is no Redis server may repeat what it was sent.
    operations::done(&reply()?).map_err(|error| match error {
        Unanswered::Refused(error) => {
            let kind = error.kind();
            refused_login(kind, error.without(password))
        }
        Unanswered::Malformed => no_redis(),
    })
}

fn reply<S: Transport>(
    wire: &mut Wire<S>,
    parser: &mut Parser,
    login: &Login,
) -> Result<Value, DatastoreError> {
    let reply = parser.reply(&mut *wire);
    reply.map_err(|error| {
        let error = match login.over_tls {
            true => error,
            false => perhaps_tls(error),
        };
        failed_before_sending(NetError::new(wire.peer(), "log in", error))
    })
}

/// Asks a sentinel for the address of a primary, and then, in the same trip, for the messages on a
/// channel. Returns `None` if it knows of no primary with this name.
///
/// # Errors
///
/// Not executed. None has a password in it.
pub(crate) fn ask_sentinel<S: Transport>(
    wire: &mut Wire<S>,
    parser: &mut Parser,
    login: &Login,
    service: &str,
    channel: Option<&str>,
) -> Result<Option<Endpoint>, DatastoreError> {
    let mut request = Vec::new();
    push_auth(login, &mut request);
    let mut ask = Cmd::new();
    ask.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME");
    ask.arg(service).write_packed_command(&mut request);
    if let Some(channel) = channel {
        let mut subscribe = Cmd::new();
        subscribe.arg("SUBSCRIBE").arg(channel);
        subscribe.write_packed_command(&mut request);
    }
    wire.send(&request)?;
    auth_answered(login, || reply(wire, parser, login))?;
    let named = replies::named(&reply(wire, parser, login)?).map_err(not_greeted)?;
    if channel.is_some() {
        operations::message(&reply(wire, parser, login)?).map_err(not_greeted)?;
    }
    wire.finish();
    Ok(named)
}

/// Asks a sentinel that sends messages for a sign of life; that is one of them.
///
/// # Errors
///
/// Not executed.
pub(crate) fn ping<S: Transport>(wire: &mut Wire<S>) -> Result<(), DatastoreError> {
    wire.send(&Cmd::new().arg("PING").get_packed_command())
}

/// Asks for the messages to `process`, and for nothing else from then on. Returns whether this user
/// has the right to.
///
/// # Errors
///
/// Not executed.
pub(crate) fn subscribe<S: Transport>(
    wire: &mut Wire<S>,
    parser: &mut Parser,
    process: &str,
) -> Result<bool, DatastoreError> {
    let mut request = Vec::new();
    let mut subscribe = Cmd::new();
    subscribe
        .arg("SUBSCRIBE")
        .arg(operations::channel(process))
        .write_packed_command(&mut request);
    wire.send(&request)?;
    let reply = parser
        .reply(&mut *wire)
        .map_err(|error| failed_before_sending(NetError::new(wire.peer(), "subscribe", error)))?;
    match operations::message(&reply) {
        Ok(Message::Subscribed) => Ok(true),
        Ok(_) => Err(no_redis()),
        Err(Unanswered::Refused(error)) if error.code() == "NOPERM" => Ok(false),
        Err(error) => Err(not_greeted(error)),
    }
}

fn not_greeted(error: Unanswered) -> DatastoreError {
    match error {
        Unanswered::Refused(error) => refused_login(error.kind(), error),
        Unanswered::Malformed => no_redis(),
    }
}

/// Whatever the server says to a login, no claim was sent.
fn refused_login(kind: ErrorKind, error: ServerError) -> DatastoreError {
    DatastoreError::not_executed(kind, error)
}

/// The same error with a hint if it is what a server that expects TLS does with a plain handshake.
fn perhaps_tls(error: io::Error) -> io::Error {
    match may_expect_tls(error.kind()) {
        true => {
            let hint = "if this port speaks TLS, write rediss:// in place of redis://";
            io::Error::new(error.kind(), format!("{error} ({hint})"))
        }
        false => error,
    }
}

pub(crate) fn no_redis() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Protocol,
        "the server's answer to the handshake is not that of a Redis server",
    )
}
