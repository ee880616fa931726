//! TLS over a socket with a deadline.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{
    Deadline, Endpoint, Idle, NetError, Socket, Transport, deadline_in, failed_before_sending,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::config::UrlError;

/// How many reads of what nobody asked for a connection is worth.
const UNASKED: usize = 16;

/// Whose certificates are believed: those that the operating system trusts, looked up when they are first needed, or one's own
/// instead of them.
#[derive(Clone, Default)]
pub(crate) struct Trust(Arc<OnceLock<Arc<ClientConfig>>>);

impl Trust {
    /// Those in `pem` only.
    pub(crate) fn only(pem: &[u8]) -> Result<Self, UrlError> {
        let bad = |error: &dyn fmt::Display| UrlError::Certificates(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| bad(&error))?;
            roots.add(certificate).map_err(|error| bad(&error))?;
        }
        if roots.is_empty() {
            return Err(bad(&"there is no certificate in the PEM text"));
        }
        let config = believing(roots).map_err(|error| bad(&error))?;
        Ok(Trust(Arc::new(config.into())))
    }

    /// Makes a connected socket speak TLS, within its deadline.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn shake_hands(
        &self,
        mut socket: Socket,
        server: &Endpoint,
    ) -> Result<TlsSocket, DatastoreError> {
        let Endpoint::Tcp { host, .. } = server else {
            return Err(unusable("TLS over a Unix socket"));
        };
        let name = ServerName::try_from(host.clone()).map_err(unusable)?;
        let mut tls = ClientConnection::new(self.config()?, name).map_err(unusable)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)
                .map_err(|error| handshake_failed(server, error))?;
        }
        let deadline = socket.deadline().clone();
        Ok(TlsSocket {
            stream: StreamOwned::new(tls, socket),
            deadline,
        })
    }

    fn config(&self) -> Result<Arc<ClientConfig>, DatastoreError> {
        if let Some(config) = self.0.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        // One that rustls cannot read is one that it will not trust.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(unusable(
                "this system has no trusted certificates; give the server's authority",
            ));
        }
        let config = believing(roots).map_err(unusable)?;
        Ok(Arc::clone(self.0.get_or_init(|| config)))
    }
}

fn believing(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    // Named, so that another crate's choice of a process-wide provider does not matter.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unsupported, error)
}

/// A socket that speaks TLS.
pub(crate) struct TlsSocket {
    stream: StreamOwned<ClientConnection, Socket>,
    deadline: Deadline,
}

/// A certificate that is not trusted will not be next time: it must not be waited for like a server that is down.
fn handshake_failed(server: &Endpoint, error: io::Error) -> DatastoreError {
    let ours = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some();
    if ours {
        return unusable(error);
    }
    failed_before_sending(NetError::new(server, "shake hands (TLS)", error))
}

impl Transport for TlsSocket {
    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Session tickets and key updates come unasked for and are no answer: they are taken in first, up to a point.
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
                    // Something is there, so this does not wait; but it must not find the last call's deadline passed.
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
