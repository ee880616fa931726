//! The builder of a store, from a URL and options, and what can be wrong with them.

use std::fmt;

#[cfg(feature = "tls")]
use dlock_net::tls::CertificatesError;
use dlock_net::{
    CertificateFiles, Endpoint, EndpointError, Limits, Pool, UrlParts, percent_decoded,
};
use thiserror::Error;

use crate::{ConnectionManager, EtcdDatastore};

/// The port on which etcd serves clients.
const PORT: u16 = 2379;

/// Builds an [`EtcdDatastore`] with other limits than the defaults.
///
/// ```
/// use dlock_etcd::EtcdDatastore;
/// use std::time::Duration;
///
/// let store = EtcdDatastore::builder("etcd://10.0.0.1,10.0.0.2,10.0.0.3")?
///     .call_timeout(Duration::from_secs(5))
///     .max_connections(4)
///     .build();
/// # Ok::<(), dlock_etcd::UrlError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "build() creates the store"]
pub struct EtcdBuilder {
    manager: ConnectionManager,
    limits: Limits,
}

dlock_net::impl_limit_setters!(EtcdBuilder);

impl EtcdBuilder {
    pub(crate) fn new(url: &str) -> Result<Self, UrlError> {
        Ok(EtcdBuilder {
            manager: ConnectionManager::new(url)?,
            limits: Limits::default(),
        })
    }

    /// Believes the certificates of these authorities (PEM), and of no others, instead of those
    /// that the system trusts. A node's own self-signed certificate is an authority too.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or the URL is not `etcds://`.
    #[cfg(feature = "tls")]
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.manager = self.manager.with_ca_pem(pem)?;
        Ok(self)
    }

    /// Shows this certificate (PEM; with those between it and its authority, if there are any) to
    /// nodes that require one of their clients, and proves with the key (PEM) that it is ours.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key in the texts, the key is of another certificate, or the
    /// URL is not `etcds://`.
    #[cfg(feature = "tls")]
    pub fn client_certificate_pem(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, UrlError> {
        self.manager = self.manager.with_client_certificate_pem(certificate, key)?;
        Ok(self)
    }

    /// Creates the store. It connects when it is first used.
    pub fn build(self) -> EtcdDatastore {
        let pool = Pool::new(self.manager, self.limits.pool);
        EtcdDatastore::over(pool, self.limits)
    }
}

/// What is wrong with the URL of an etcd cluster. The text does not repeat the URL, which may
/// contain a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL of an etcd cluster starts with etcd:// or etcds://")]
    Scheme,
    /// `etcds://` without the Cargo feature `tls`.
    #[error("etcds:// needs the Cargo feature `tls` of dlock-etcd")]
    NoTls,
    /// An option after the `?` that does not exist, or stands there twice or without value.
    #[error(
        "the options in the etcd URL: only ca, cert and key exist, for etcds://, each once, like ?ca=/path/to/authorities.pem"
    )]
    Query,
    /// A client's certificate without its key, or the reverse.
    #[error(
        "a client's certificate needs its key: ?cert=/path/to/client.crt&key=/path/to/client.key"
    )]
    ClientCertificate,
    /// Certificates that cannot be used.
    #[error("certificates: {0}")]
    Certificates(String),
    /// A host or a port is invalid.
    #[error("etcd URL: {0}")]
    Endpoint(#[from] EndpointError),
    /// A user without a password, or a broken escape.
    #[error(
        "the login in the etcd URL: write etcd://user:password@host, with special characters as %40"
    )]
    Login,
    /// A path or a fragment.
    #[error("an etcd URL ends after the hosts, like etcd://10.0.0.1:2379,10.0.0.2:2379")]
    Trailing,
}

/// What a URL says.
pub(crate) struct Place {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) login: Option<Login>,
    pub(crate) tls: bool,
    pub(crate) certificates: CertificateFiles,
}

#[cfg(feature = "tls")]
impl From<CertificatesError> for UrlError {
    fn from(error: CertificatesError) -> Self {
        UrlError::Certificates(error.to_string())
    }
}

/// A user of etcd.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// By hand, for the password must not be in it.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut login = f.debug_struct("Login");
        login.field("user", &self.user).finish_non_exhaustive()
    }
}

/// `etcd[s]://[user:password@]host[:port][,host[:port]…][?ca=…][&cert=…&key=…]`.
pub(crate) fn place(url: &str) -> Result<Place, UrlError> {
    let parts = UrlParts::of(url).ok_or(UrlError::Scheme)?;
    let tls = match parts.scheme {
        "etcd" => false,
        "etcds" if cfg!(feature = "tls") => true,
        "etcds" => return Err(UrlError::NoTls),
        _ => return Err(UrlError::Scheme),
    };
    // Otherwise a password becomes part of a path, which messages show.
    if parts.path.contains('@') {
        return Err(UrlError::Login);
    }
    let login = parts.login.map(login).transpose()?;
    if !matches!(parts.path, "" | "/") || parts.host.contains('#') {
        return Err(UrlError::Trailing);
    }
    let place = Place {
        endpoints: Endpoint::parse_list(parts.host, Some(PORT))?,
        login,
        tls,
        certificates: certificates(&parts, tls)?,
    };
    match place.certificates.is_half() {
        true => Err(UrlError::ClientCertificate),
        false => Ok(place),
    }
}

fn certificates(parts: &UrlParts<'_>, tls: bool) -> Result<CertificateFiles, UrlError> {
    let mut files = CertificateFiles::default();
    for option in parts.options() {
        let (name, value) = option.ok_or(UrlError::Query)?;
        let file = files.option(name).filter(|_| tls).ok_or(UrlError::Query)?;
        if file.replace(value).is_some() {
            return Err(UrlError::Query);
        }
    }
    Ok(files)
}

fn login(text: &str) -> Result<Login, UrlError> {
    let (user, password) = text.split_once(':').ok_or(UrlError::Login)?;
    let decoded = |text| percent_decoded(text).filter(|text| !text.is_empty());
    match (decoded(user), decoded(password)) {
        (Some(user), Some(password)) => Ok(Login { user, password }),
        _ => Err(UrlError::Login),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (url, shown) in [
            ("etcd://localhost", "localhost:2379"),
            ("etcd://10.0.0.1:1234/", "10.0.0.1:1234"),
            ("etcd://a,b:1,[::1]", "a:2379 b:1 [::1]:2379"),
        ] {
            let place = place(url).unwrap();
            let endpoints: Vec<_> = place.endpoints.iter().map(ToString::to_string).collect();
            assert_eq!(endpoints.join(" "), shown);
            assert!(place.login.is_none());
        }
        let login = place("etcd://app:s%40cret@a,b").unwrap().login.unwrap();
        assert_eq!((&*login.user, &*login.password), ("app", "s@cret"));
        assert!(!format!("{login:?}").contains("cret"));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_asked_for_by_the_scheme_and_its_files_are_named() {
        let place = place("etcds://a,b?ca=/ca&key=/k&cert=/c").unwrap();
        assert!(place.tls && place.endpoints.len() == 2);
        let files = place.certificates;
        assert_eq!(files.ca.as_deref(), Some("/ca"));
        assert_eq!(files.certificate.as_deref(), Some("/c"));
        assert_eq!(files.key.as_deref(), Some("/k"));
        for (url, error) in [
            ("etcds://a?ca=/a&ca=/b", UrlError::Query),
            ("etcds://a?cert=/c", UrlError::ClientCertificate),
            ("etcds://a?key=/k", UrlError::ClientCertificate),
            ("etcds://a?sslmode=require", UrlError::Query),
        ] {
            assert_eq!(EtcdDatastore::open(url).unwrap_err(), error, "{url}");
        }
        let missing = EtcdDatastore::open("etcds://a?ca=/no/such").unwrap_err();
        assert!(missing.to_string().contains("/no/such"), "{missing}");
    }

    #[test]
    fn wrong_urls_are_refused_with_the_reason_and_without_a_secret() {
        for (url, reason) in [
            ("", "starts with etcd://"),
            ("localhost:2379", "starts with etcd://"),
            ("http://localhost:2379", "starts with etcd://"),
            #[cfg(not(feature = "tls"))]
            ("etcds://localhost", "the Cargo feature"),
            ("etcd://", "the host is missing"),
            ("etcd://a,", "the host is missing"),
            ("etcd://a,a", "twice"),
            ("etcd://a:0", "the port is not a number"),
            ("etcd://a b", "not a name or an address"),
            ("etcd://a/path", "ends after the hosts"),
            ("etcd://a?timeout=1", "only ca, cert and key"),
            ("etcd://a?ca=/ca", "only ca, cert and key"),
            ("etcd://a#b", "ends after the hosts"),
            ("etcd://s3cret@a", "user:password"),
            ("etcd://:s3cret@a", "user:password"),
            ("etcd://user:@a", "user:password"),
            ("etcd://user:s3cret%zz@a", "user:password"),
            ("etcd://user:s3/cret@a", "user:password"),
            ("etcd://user:s3cret", "the port is not a number"),
        ] {
            let error = EtcdDatastore::open(url).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(reason), "{url}: {text}");
            assert!(!format!("{error:?} {text}").contains("cret"));
        }
    }
}
