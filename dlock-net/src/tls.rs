//! TLS over a socket with a deadline, with the Cargo feature `tls`.
//!
//! A [`Trust`] says which servers are believed and which certificate this side shows;
//! [`shake_hands`] makes a connected [`Socket`] a [`TlsSocket`]. [`Streams`](crate::Streams) does
//! both for servers whose ports speak TLS from the first byte on.

mod der;
mod end_point;
mod error;
#[cfg(feature = "tokio")]
mod nonblocking;
mod trust;
mod verifier;

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

#[cfg(feature = "tokio")]
use crate::nonblocking::Layer;
use crate::{Deadline, Endpoint, Idle, Socket, Transport, deadline_in};
use error::Peer;
pub use error::{TlsError, TlsReason, Wording};
pub use trust::{CertificatesError, Trust};
pub use verifier::ServerCheck;

/// How many reads of what nobody asked for a connection is worth.
const UNASKED: usize = 16;

/// Makes a connected socket speak TLS, within its deadline.
///
/// # Errors
///
/// Not executed. The source is a [`TlsError`], unless the connection itself broke or the server
/// has no name that a certificate could be for.
pub fn shake_hands(
    trust: &Trust,
    mut socket: Socket,
    server: &Endpoint,
) -> Result<TlsSocket, DatastoreError> {
    let Endpoint::Tcp { host, .. } = server else {
        return Err(unusable("TLS over a Unix socket"));
    };
    let name = ServerName::try_from(host.clone()).map_err(unusable)?;
    let mut tls = ClientConnection::new(trust.config()?, name).map_err(unusable)?;
    let peer = Peer::new(server, trust);
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)
            .map_err(|error| peer.handshake_failed(&error))?;
    }
    let deadline = socket.deadline().clone();
    Ok(TlsSocket {
        stream: StreamOwned::new(tls, socket),
        deadline,
        unanswered: Some(Box::new(peer)),
    })
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unsupported, error)
}

/// A socket that speaks TLS.
pub struct TlsSocket {
    stream: StreamOwned<ClientConnection, Socket>,
    deadline: Deadline,
    /// Until the server has answered something: this side takes the handshake for done before the
    /// server looks at the certificate of the client.
    unanswered: Option<Box<Peer>>,
}

impl TlsSocket {
    /// The certificate (DER) that the server has shown, and for which it has proved to have the
    /// key.
    pub fn server_certificate(&self) -> Option<&[u8]> {
        let chain = self.stream.conn.peer_certificates()?;
        chain.first().map(AsRef::as_ref)
    }

    /// What a login by SCRAM can be bound to: `tls-server-end-point` of RFC 5929. `None` if that is
    /// not defined for the server's certificate.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        end_point::binding(self.server_certificate()?)
    }
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

    fn socket(&self) -> Option<&Socket> {
        Some(&self.stream.sock)
    }

    #[cfg(feature = "tokio")]
    fn into_shared(self: Box<Self>) -> Option<(Box<dyn Layer>, Socket)> {
        let StreamOwned { conn, sock } = self.stream;
        Some((Box::new(nonblocking::Tls::new(conn)), sock))
    }
}

impl Read for TlsSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buf) {
            Err(error) => Err(match &self.unanswered {
                Some(peer) => peer.refused(error),
                None => error,
            }),
            Ok(read) => {
                if self.unanswered.is_some() {
                    self.unanswered = None;
                }
                Ok(read)
            }
        }
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

/// Without what was read and written.
impl fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSocket")
            .field("socket", &self.stream.sock)
            .finish_non_exhaustive()
    }
}
