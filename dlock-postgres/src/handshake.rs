//! What is sent over a fresh stream before anything else, and what the server has to answer.

use std::io;

use bytes::BytesMut;
use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{NetError, Transport, Wire, failed_before_sending, nothing_was_done};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::config::Login;
use crate::tls::{Channel, ChannelBinding};
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
    channel: Channel,
) -> Result<i32, DatastoreError> {
    log_in_on(wire, login, channel).map_err(nothing_was_done)
}

fn log_in_on<S: Transport>(
    wire: &mut Wire<S>,
    login: &Login,
    mut channel: Channel,
) -> Result<i32, DatastoreError> {
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
    // Whether the server has proved that it knows the password.
    let mut is_proved = false;
    loop {
        request.clear();
        match read_message(wire)? {
            Message::AuthenticationMd5Password(md5) => {
                bound(wire, &channel, false)?;
                let (user, password) = (login.user.as_bytes(), password(login)?);
                let hash = md5_hash(user, password, md5.salt());
                push(
                    wire,
                    frontend::password_message(hash.as_bytes(), &mut request),
                )?;
            }
            Message::AuthenticationSasl(sasl) => {
                let mut mechanisms = sasl.mechanisms();
                let (mut plain, mut plus) = (false, false);
                while let Some(name) = mechanisms.next().map_err(|error| wire.failed(error))? {
                    plain |= name == SCRAM_SHA_256;
                    plus |= name == SCRAM_SHA_256_PLUS;
                }
                let wanted = channel.wanted != ChannelBinding::Disable;
                let end_point = channel.end_point.take().filter(|_| wanted);
                let (name, binding) = match end_point {
                    Some(end_point) if plus => (
                        SCRAM_SHA_256_PLUS,
                        sasl::ChannelBinding::tls_server_end_point(end_point),
                    ),
                    // The server learns that we could, and ends the login if it has offered it:
                    // then somebody in between has taken the offer away.
                    Some(_) => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
                    None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
                };
                bound(wire, &channel, name == SCRAM_SHA_256_PLUS)?;
                if name == SCRAM_SHA_256 && !plain {
                    return Err(unsupported(wire.peer()));
                }
                let state = ScramSha256::new(password(login)?, binding);
                push(
                    wire,
                    frontend::sasl_initial_response(name, state.message(), &mut request),
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
                    return Err(unproved(wire.peer()));
                }
                is_proved = true;
            }
            Message::AuthenticationOk if scram.is_some() && !is_proved => {
                return Err(unproved(wire.peer()));
            }
            Message::AuthenticationOk => bound(wire, &channel, is_proved)?,
            Message::BackendKeyData(key) => backend = key.process_id(),
            Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
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

/// Refuses a login that is not bound to the server's certificate, where it must be.
fn bound<S: Transport>(
    wire: &Wire<S>,
    channel: &Channel,
    is_bound: bool,
) -> Result<(), DatastoreError> {
    if is_bound || channel.wanted != ChannelBinding::Require {
        return Ok(());
    }
    let text = format!(
        "{} does not bind the login to its certificate (SCRAM-SHA-256-PLUS over TLS), which \
         channel_binding=require asks for: switch TLS on at the server, and give the user a \
         password by scram-sha-256 there; see its pg_hba.conf",
        wire.peer()
    );
    Err(DatastoreError::not_executed(ErrorKind::Untrusted, text))
}

fn unproved(peer: &str) -> DatastoreError {
    let text = format!("{peer} does not know the user's password");
    DatastoreError::not_executed(ErrorKind::Untrusted, text)
}

fn unsupported(peer: &str) -> DatastoreError {
    let text =
        format!("{peer} wants another login than a password by SCRAM or MD5; see its pg_hba.conf");
    DatastoreError::not_executed(ErrorKind::Unsupported, text)
}
