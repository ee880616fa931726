//! TLS over a socket with a deadline.

mod error;
#[cfg(feature = "tokio")]
mod nonblocking;
mod trust;

use std::io::{self, Read, Write};
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind};
#[cfg(feature = "tokio")]
use dlock_net::mux::Layer;
use dlock_net::{Deadline, Endpoint, Idle, Socket, Transport, deadline_in};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

pub(crate) use error::refused_later;
pub use error::{TlsError, TlsReason};
pub(crate) use trust::Trust;

/// How many reads of what nobody asked for a connection is worth.
const UNASKED: usize = 16;

/// Makes a connected socket speak TLS, within its deadline.
///
/// # Errors
///
/// Not executed.
pub(crate) fn shake_hands(
    trust: &Trust,
    mut socket: Socket,
    server: &Endpoint,
) -> Result<TlsSocket, DatastoreError> {
    let Endpoint::Tcp { host, .. } = server else {
        return Err(unusable("TLS over a Unix socket"));
    };
    let name = ServerName::try_from(host.clone()).map_err(unusable)?;
    let mut tls = ClientConnection::new(trust.config()?, name).map_err(unusable)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(|error| {
            error::handshake_failed(server, &error, trust.has_own_authorities())
        })?;
    }
    let deadline = socket.deadline().clone();
    Ok(TlsSocket {
        stream: StreamOwned::new(tls, socket),
        deadline,
    })
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unsupported, error)
}

/// A socket that speaks TLS.
pub(crate) struct TlsSocket {
    stream: StreamOwned<ClientConnection, Socket>,
    deadline: Deadline,
}

impl Transport for TlsSocket {
    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Session tickets and key updates come unasked for and are no answer: they are taken in first,
    /// up to a point.
    fn is_quiet(&mut self) -> bool {
        let StreamOwned { conn, sock } = &mut self.stream;
        for _ in 0..UNASKED {
            match sock.idle() {
                Idle::Closed => return false,
                Idle::Quiet => {
                    return conn
                        .process_new_packets()
                        .is_ok_and(|state| state.plaintext_bytes_to_read() == 0);
                }
                Idle::Pending => {
                    // Something is there, so this does not wait; but it must not find the last
                    // call's deadline passed.
                    self.deadline.set(deadline_in(Duration::from_millis(10)));
                    let read = conn.read_tls(sock);
                    if !matches!(read, Ok(1..)) || conn.process_new_packets().is_err() {
                        return false;
                    }
                }
            }
        }
        false
    }

    #[cfg(feature = "tokio")]
    fn into_shared(self: Box<Self>) -> Option<(Box<dyn Layer>, Socket)> {
        let StreamOwned { conn, sock } = self.stream;
        Some((Box::new(nonblocking::Tls::new(conn)), sock))
    }
}

impl Read for TlsSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for TlsSocket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
