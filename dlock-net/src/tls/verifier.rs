//! How a server's certificate is verified where the usual way will not do.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::der;
use super::error::is_of_an_authority;

/// How far a server must prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerCheck {
    /// Not at all. What is sent is hidden from those who only listen; one who can answer in the
    /// server's place is taken for the server.
    Unchecked,
    /// An authority that is believed has signed its certificate, for whatever host.
    Authority,
    /// An authority that is believed has signed its certificate, and for this host.
    #[default]
    Full,
}

/// Believes given authorities as rustls does, and beyond that a server that shows one of these very
/// certificates as its own: a self-signed one that is marked as an authority's, as
/// `openssl req -x509` makes it.
///
/// Its holder could sign itself any other certificate, so nobody is believed who would not be
/// anyway. The certificate must not have expired.
pub(super) struct Verifier {
    pub(super) check: ServerCheck,
    pub(super) roots: RootCertStore,
    pub(super) own: Arc<[CertificateDer<'static>]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(
        check: ServerCheck,
        roots: RootCertStore,
        own: Arc<[CertificateDer<'static>]>,
        provider: &CryptoProvider,
    ) -> Self {
        Verifier {
            check,
            roots,
            own,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check == ServerCheck::Unchecked {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.algorithms.all;
        let signed =
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, chain, now, algorithms);
        match signed {
            // This is found after the check of its time.
            Err(Error::InvalidCertificate(why))
                if is_of_an_authority(&why) && self.own.iter().any(|own| own == certificate) => {}
            signed => signed?,
        }
        if self.check == ServerCheck::Full {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    /// An unchecked server, too, must have the key of the certificate that it shows: a login may be
    /// bound to it.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.check != ServerCheck::Unchecked {
            return verify_tls13_signature(message, certificate, signed, &self.algorithms);
        }
        // For its key alone a certificate may be of any version. `openssl x509 -req` makes those of
        // version 1, which rustls does not read.
        let key = der::public_key(certificate).ok_or(CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(key);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}
