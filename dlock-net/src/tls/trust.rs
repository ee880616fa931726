//! Whose certificates are believed, and which one this side shows.

use std::fmt;
use std::sync::{Arc, OnceLock};

use dlock_core::{DatastoreError, ErrorKind};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, RootCertStore};
use thiserror::Error as ThisError;

use super::verifier::{ServerCheck, Verifier};
use super::{Wording, unusable};
use crate::{CertificateFiles, escaped};

/// Certificates or a key that cannot be used. The text does not repeat what is in them.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("{0}")]
pub struct CertificatesError(String);

/// Whose certificates are believed: those that the operating system trusts, looked up when they are
/// first needed, or one's own instead of them. And the certificate of this side, if it has one.
///
/// Clones share what was looked up.
#[derive(Clone)]
pub struct Trust {
    config: Arc<OnceLock<Arc<ClientConfig>>>,
    check: ServerCheck,
    /// One's own authorities.
    own: Option<Arc<[CertificateDer<'static>]>>,
    /// The client's certificate and key.
    identity: Option<Arc<CertifiedKey>>,
    wording: Wording,
}

impl Trust {
    /// Believes the system's authorities, checks the name of the host, and shows no certificate.
    /// `wording` is for the texts of errors.
    pub fn new(wording: Wording) -> Self {
        Trust {
            config: Arc::default(),
            check: ServerCheck::Full,
            own: None,
            identity: None,
            wording,
        }
    }

    /// With another check of the server than the full one.
    #[must_use]
    pub fn with_check(mut self, check: ServerCheck) -> Self {
        self.check = check;
        self.config = Arc::default();
        self
    }

    /// Believes those in `pem` only.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or one that cannot be used.
    pub fn with_authorities(mut self, pem: &[u8]) -> Result<Self, CertificatesError> {
        let own = certificates(pem)?;
        self.own = Some(own.into());
        self.config = Arc::default();
        // So that what cannot be used is found now.
        self.roots().map_err(|error| bad(&error))?;
        Ok(self)
    }

    /// Shows this certificate (PEM; with those between it and its authority, if there are any) to a
    /// server that wants one.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key in the texts, or the key is of another certificate.
    pub fn with_identity(mut self, chain: &[u8], key: &[u8]) -> Result<Self, CertificatesError> {
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

    /// With what is in the files that a URL names.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, and as [`with_authorities`](Self::with_authorities) and
    /// [`with_identity`](Self::with_identity).
    pub fn with_files(mut self, files: &CertificateFiles) -> Result<Self, CertificatesError> {
        let read = |file: &str| {
            std::fs::read(file).map_err(|error| bad(&format_args!("{}: {error}", escaped(file))))
        };
        if let Some(ca) = &files.ca {
            self = self.with_authorities(&read(ca)?)?;
        }
        if let (Some(certificate), Some(key)) = (&files.certificate, &files.key) {
            self = self.with_identity(&read(certificate)?, &read(key)?)?;
        }
        Ok(self)
    }

    pub(super) fn has_own_authorities(&self) -> bool {
        self.own.is_some()
    }

    pub(super) fn wording(&self) -> Wording {
        self.wording
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
        let roots = match self.check {
            ServerCheck::Unchecked => RootCertStore::empty(),
            ServerCheck::Authority | ServerCheck::Full => self.some_roots()?,
        };
        let config = self.believing(roots).map_err(unusable)?;
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }

    fn some_roots(&self) -> Result<RootCertStore, DatastoreError> {
        let roots = self.roots().map_err(unusable)?;
        if roots.is_empty() {
            let text = format!(
                "this system has no trusted certificates; give the server's authority, {}",
                self.wording.authorities
            );
            return Err(DatastoreError::not_executed(ErrorKind::Unsupported, text));
        }
        Ok(roots)
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
        let builder = match (&self.own, self.check) {
            (None, ServerCheck::Full) => builder.with_root_certificates(roots),
            (own, check) => {
                let own = own.clone().unwrap_or_default();
                let verifier = Verifier::new(check, roots, own, &provider);
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

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| bad(&error))?;
    if all.is_empty() {
        return Err(bad(&"there is no certificate in the PEM text"));
    }
    Ok(all)
}

fn bad(error: &dyn fmt::Display) -> CertificatesError {
    CertificatesError(error.to_string())
}

/// Without keys.
impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("check", &self.check)
            .field("own_authorities", &self.has_own_authorities())
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}
