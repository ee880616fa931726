//! What can be wrong with a URL and its options.

use dlock_net::EndpointError;
use thiserror::Error;

/// What is wrong with the URL of a PostgreSQL server. The text does not repeat the URL, which may
/// contain a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL of a PostgreSQL server starts with postgres:// or postgresql://")]
    Scheme,
    /// A host or a port is invalid.
    #[error("postgres URL: {0}")]
    Endpoint(#[from] EndpointError),
    /// There is no host, or a host and a socket.
    #[error(
        "give a host, or the folder of a Unix socket: postgres://app@/database?host=/run/postgresql"
    )]
    Host,
    /// There is no user, or the login has a malformed escape.
    #[error(
        "the login is user or user:password, with special characters percent-encoded (@ is %40)"
    )]
    Login,
    /// The path is more than the name of a database.
    #[error("the path is the name of a database, like postgres://app@127.0.0.1/database")]
    Database,
    /// An option that is unknown, stands twice or has a malformed escape.
    #[error(
        "the options are host, port, target_session_attrs, sslmode, sslrootcert, sslcert, sslkey and channel_binding, each once"
    )]
    Option,
    /// Another value of `target_session_attrs`.
    #[error("locks are written: target_session_attrs is read-write or primary")]
    Target,
    /// Another value of `sslmode`, `allow` among them.
    #[error(
        "sslmode is disable, prefer, require, verify-ca or verify-full (in place of allow write prefer)"
    )]
    SslMode,
    /// Another value of `channel_binding`.
    #[error("channel_binding is disable, prefer or require")]
    ChannelBinding,
    /// A client's certificate without its key, or the reverse.
    #[error(
        "a client's certificate needs its key: ?sslcert=/path/to/client.crt&sslkey=/path/to/client.key"
    )]
    ClientCertificate,
    /// Certificates that cannot be used.
    #[error("certificates: {0}")]
    Certificates(String),
    /// TLS without the Cargo feature `tls`.
    #[error("TLS needs the Cargo feature `tls` of dlock-postgres")]
    NoTls,
}

#[cfg(feature = "tls")]
impl From<dlock_net::tls::CertificatesError> for UrlError {
    fn from(error: dlock_net::tls::CertificatesError) -> Self {
        UrlError::Certificates(error.to_string())
    }
}
