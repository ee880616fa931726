//! Whose certificates are believed, and which one this side shows.

use std::fmt;
use std::sync::{Arc, OnceLock};

use dlock_core::{DatastoreError, ErrorKind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use super::error::is_of_an_authority;
use crate::config::UrlError;

/// Whose certificates are believed: those that the operating system trusts, looked up when they are
/// first needed, or one's own instead of them. And the certificate of this side, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Trust {
    config: Arc<OnceLock<Arc<ClientConfig>>>,
    /// One's own authorities.
    own: Option<Arc<[CertificateDer<'static>]>>,
    /// The client's certificate and key.
    identity: Option<Arc<CertifiedKey>>,
}

impl Trust {
    /// Believes those in `pem` only.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or one that cannot be used.
    pub(crate) fn with_authorities(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        let own = certificates(pem)?;
        self.own = Some(own.into());
        self.config = Arc::default();
        // So that what cannot be used is found now.
        self.roots().map_err(|error| bad(&error))?;
        Ok(self)
    }

    /// Shows this certificate to a server that wants one.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key in the texts, or the key is of another certificate.
    pub(crate) fn with_identity(mut self, chain: &[u8], key: &[u8]) -> Result<Self, UrlError> {
        let chain = certificates(chain)?;
        // Without the reason, which might repeat a part of the text.
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| bad(&"there is no private key in the PEM text of the key"))?;
        let identity = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let identity = identity.map_err(|error| bad(&format_args!("the client's: {error}")))?;
        self.identity = Some(Arc::new(identity));
        self.config = Arc::default();
        Ok(self)
    }

    pub(super) fn has_own_authorities(&self) -> bool {
        self.own.is_some()
    }

    /// The configuration of a client.
    ///
    /// # Errors
    ///
    /// Not executed: if the system trusts nobody.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, DatastoreError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let roots = self.roots().map_err(super::unusable)?;
        if roots.is_empty() {
            return Err(DatastoreError::not_executed(
                ErrorKind::Unsupported,
                "this system has no trusted certificates; give the server's authority, ?ca=/path/to/authorities.pem",
            ));
        }
        let config = self.believing(roots).map_err(super::unusable)?;
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        match &self.own {
            Some(own) => {
                for certificate in own.iter() {
                    roots.add(certificate.clone())?;
                }
            }
            // One that rustls cannot read is one that it will not trust.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        Ok(roots)
    }

    fn believing(&self, roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
        // Named, so that another crate's choice of a process-wide provider does not matter.
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.own {
            None => builder.with_root_certificates(roots),
            Some(own) => {
                let verifier = OwnAuthorities::new(roots, Arc::clone(own), provider)?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let identity = SingleCertAndKey::from(Arc::clone(identity));
                builder.with_client_cert_resolver(Arc::new(identity))
            }
        };
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, UrlError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| bad(&error))?;
    if all.is_empty() {
        return Err(bad(&"there is no certificate in the PEM text"));
    }
    Ok(all)
}

fn bad(error: &dyn fmt::Display) -> UrlError {
    UrlError::Certificates(error.to_string())
}

/// Believes given authorities as rustls does, and beyond that a server that shows one of these very
/// certificates as its own: a self-signed one that is marked as an authority's, as
/// `openssl req -x509` makes it.
///
/// Its holder could sign itself any other certificate, so nobody is believed who would not be
/// anyway. The certificate must be for the host, and must not have expired.
#[derive(Debug)]
struct OwnAuthorities {
    usual: Arc<WebPkiServerVerifier>,
    own: Arc<[CertificateDer<'static>]>,
}

impl OwnAuthorities {
    fn new(
        roots: RootCertStore,
        own: Arc<[CertificateDer<'static>]>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(OwnAuthorities { usual, own })
    }
}

impl ServerCertVerifier for OwnAuthorities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .usual
            .verify_server_cert(certificate, chain, name, ocsp, now);
        match verified {
            // This is found after the check of its time.
            Err(Error::InvalidCertificate(why))
                if is_of_an_authority(&why) && self.own.iter().any(|own| own == certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.usual.root_hint_subjects()
    }
}
