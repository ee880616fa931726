//! TLS over a socket with a deadline.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{Deadline, Idle, NetError, Socket, Transport, failed_before_sending};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::config::UrlError;

/// Whose certificates are believed. The system's authorities, or one's own instead of them.
#[derive(Clone)]
pub(crate) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Those that the operating system trusts.
    pub(crate) fn system() -> Result<Self, UrlError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // One that rustls cannot read is one that it will not trust.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(UrlError::Certificates(
                "this system has no trusted certificates; give the server's authority".to_owned(),
            ));
        }
        Self::in_roots(roots)
    }

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
        Self::in_roots(roots)
    }

    fn in_roots(roots: RootCertStore) -> Result<Self, UrlError> {
        // Named, so that another crate's choice of a process-wide provider does not matter.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| UrlError::Certificates(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust(Arc::new(config)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

/// A socket that speaks TLS.
pub(crate) struct TlsSocket {
    stream: StreamOwned<ClientConnection, Socket>,
    deadline: Deadline,
}

impl TlsSocket {
    /// Shakes hands over a connected socket, within its deadline.
    pub(crate) fn new(
        mut socket: Socket,
        host: &str,
        trust: &Trust,
    ) -> Result<Self, DatastoreError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| DatastoreError::not_executed(ErrorKind::Invalid, error))?;
        let mut tls = ClientConnection::new(Arc::clone(&trust.0), name)
            .map_err(|error| DatastoreError::not_executed(ErrorKind::Unsupported, error))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)
                .map_err(|error| handshake_failed(host, error))?;
        }
        let deadline = socket.deadline().clone();
        Ok(TlsSocket {
            stream: StreamOwned::new(tls, socket),
            deadline,
        })
    }
}

/// A certificate that is not trusted will not be next time: it must not be waited for like a server that is down.
fn handshake_failed(host: &str, error: io::Error) -> DatastoreError {
    let ours = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some();
    if ours {
        return DatastoreError::not_executed(ErrorKind::Unsupported, error);
    }
    failed_before_sending(NetError::new(host, "shake hands (TLS)", error))
}

impl Transport for TlsSocket {
    fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Session tickets and key updates come unasked for and are no answer: they are taken in first.
    fn is_quiet(&mut self) -> bool {
        let StreamOwned { conn, sock } = &mut self.stream;
        loop {
            match sock.idle() {
                Idle::Closed => return false,
                Idle::Quiet => {
                    return conn
                        .process_new_packets()
                        .is_ok_and(|state| state.plaintext_bytes_to_read() == 0);
                }
                Idle::Pending => {
                    // Something is there, so this does not block.
                    self.deadline
                        .set(dlock_net::deadline_in(std::time::Duration::from_millis(10)));
                    let read = conn.read_tls(sock);
                    if !matches!(read, Ok(1..)) || conn.process_new_packets().is_err() {
                        return false;
                    }
                }
            }
        }
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
