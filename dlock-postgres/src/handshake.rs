//! What is sent over a fresh stream before anything else, and what the server has to answer.

use std::io;

use bytes::BytesMut;
use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{NetError, Transport, Wire, failed_before_sending, nothing_was_done};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::config::Login;
use crate::wire::{no_reply, read_message, server_error};

/// Logs in. The server is not asked yet what it is. Returns the number of the server's process by
/// which this connection may be cancelled. A pooler states one of its own.
///
/// # Errors
///
/// Not executed. None has a password in it.
pub(crate) fn log_in<S: Transport>(
    wire: &mut Wire<S>,
    login: &Login,
) -> Result<i32, DatastoreError> {
    log_in_on(wire, login).map_err(nothing_was_done)
}

fn log_in_on<S: Transport>(wire: &mut Wire<S>, login: &Login) -> Result<i32, DatastoreError> {
    let mut backend = 0;
    let mut request = BytesMut::new();
    let parameters = [
        ("user", login.user.as_str()),
        ("database", login.database.as_str()),
        ("client_encoding", "UTF8"),
        ("application_name", "dlock"),
    ];
    frontend::startup_message(parameters, &mut request).map_err(|error| wire.failed(error))?;
    wire.send(&request)?;
    let mut scram: Option<ScramSha256> = None;
    loop {
        request.clear();
        match read_message(wire)? {
            Message::AuthenticationMd5Password(md5) => {
                let (user, password) = (login.user.as_bytes(), password(login)?);
                let hash = md5_hash(user, password, md5.salt());
                push(
                    wire,
                    frontend::password_message(hash.as_bytes(), &mut request),
                )?;
            }
            Message::AuthenticationSasl(sasl) => {
                let mut mechanisms = sasl.mechanisms();
                let mut offered = false;
                while let Some(name) = mechanisms.next().map_err(|error| wire.failed(error))? {
                    offered |= name == SCRAM_SHA_256;
                }
                if !offered {
                    return Err(unsupported(wire.peer()));
                }
                let state = ScramSha256::new(password(login)?, ChannelBinding::unsupported());
                push(
                    wire,
                    frontend::sasl_initial_response(SCRAM_SHA_256, state.message(), &mut request),
                )?;
                scram = Some(state);
            }
            Message::AuthenticationSaslContinue(body) => {
                let state = scram.as_mut().ok_or_else(|| wire.failed(no_reply()))?;
                if state.update(body.data()).is_err() {
                    return Err(wire.failed(no_reply()));
                }
                push(wire, frontend::sasl_response(state.message(), &mut request))?;
            }
            // Otherwise it could be anybody who let us in.
            Message::AuthenticationSaslFinal(body) => {
                let proof = scram.as_mut().map(|state| state.finish(body.data()));
                if !matches!(proof, Some(Ok(()))) {
                    let text = format!("{} does not know the user's password", wire.peer());
                    return Err(DatastoreError::not_executed(ErrorKind::Untrusted, text));
                }
            }
            Message::BackendKeyData(key) => backend = key.process_id(),
            Message::AuthenticationOk
            | Message::ParameterStatus(_)
            | Message::NoticeResponse(_) => {}
            Message::ReadyForQuery(_) => {
                wire.finish();
                return Ok(backend);
            }
            Message::ErrorResponse(error) => return Err(server_error(&error).into()),
            Message::AuthenticationCleartextPassword
            | Message::AuthenticationGss
            | Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential
            | Message::AuthenticationSspi => return Err(unsupported(wire.peer())),
            _ => return Err(wire.failed(no_reply())),
        }
        if !request.is_empty() {
            wire.send(&request)?;
        }
    }
}

fn push<S: Transport>(wire: &Wire<S>, pushed: io::Result<()>) -> Result<(), DatastoreError> {
    pushed.map_err(|error| {
        failed_before_sending(NetError::new(wire.peer(), "write the request", error))
    })
}

fn password(login: &Login) -> Result<&[u8], DatastoreError> {
    let password = login.password.as_deref().ok_or_else(|| {
        DatastoreError::not_executed(ErrorKind::Refused, "the server wants a password")
    })?;
    Ok(password.as_bytes())
}

fn unsupported(peer: &str) -> DatastoreError {
    let text =
        format!("{peer} wants another login than a password by SCRAM or MD5; see its pg_hba.conf");
    DatastoreError::not_executed(ErrorKind::Unsupported, text)
}
