//! What goes wrong with TLS, and what to do about it.

use std::fmt;
use std::io;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::escaped;
use rustls::{AlertDescription, CertificateError, Error};

const SHAKE_HANDS: &str = "shake hands (TLS)";
const NO_TLS: &str = "if this port does not speak TLS, write redis:// in place of rediss://";

/// Why a TLS connection was not opened. It is the source of the [`DatastoreError`] of the call, and
/// says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    server: String,
    reason: TlsReason,
    text: String,
    hint: &'static str,
}

/// What kind of failure a [`TlsError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsReason {
    /// No authority that is believed has signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate is for another host.
    WrongName,
    /// The server's certificate has expired, or is not valid yet. A wrong clock of this machine
    /// looks the same.
    Expired,
    /// Something else is wrong with the server's certificate.
    BadCertificate,
    /// The server requires a certificate of the client, and was given none.
    ClientCertificateRequired,
    /// The server does not accept the certificate of the client.
    ClientCertificateRefused,
    /// What the server answered is not TLS.
    NotTls,
    /// The server closed the connection, or did not answer at all. So does one that does not speak
    /// TLS, one that is stopped, and one that is going down.
    NoAnswer,
    /// The two found no version or no cipher in common, or one of them breaks the protocol.
    Protocol,
}

impl TlsError {
    /// What kind of failure this is.
    pub fn reason(&self) -> TlsReason {
        self.reason
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {SHAKE_HANDS}: {}", self.server, self.text)?;
        match self.hint {
            "" => Ok(()),
            hint => write!(f, " ({hint})"),
        }
    }
}

impl std::error::Error for TlsError {}

/// The error of a handshake. What is wrong with a certificate today will be wrong next time: it
/// must not be waited for like a server that is down.
pub(super) fn handshake_failed(
    server: &dyn fmt::Display,
    error: &io::Error,
    with_own_authorities: bool,
) -> DatastoreError {
    if let Some(error) = known(server, error, with_own_authorities) {
        return error;
    }
    let text = TlsError {
        server: server.to_string(),
        reason: TlsReason::NoAnswer,
        text: escaped(&error.to_string()).into_owned(),
        hint: NO_TLS,
    };
    let kind = match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::Timeout,
        _ => ErrorKind::Unreachable,
    };
    DatastoreError::not_executed(kind, text)
}

/// The error of what was read or written after this side took the handshake for done: only then
/// does a server look at the certificate of the client. `None` if it is none of TLS.
pub(crate) fn refused_later(
    server: &dyn fmt::Display,
    error: &io::Error,
) -> Option<DatastoreError> {
    known(server, error, false)
}

fn known(
    server: &dyn fmt::Display,
    error: &io::Error,
    with_own_authorities: bool,
) -> Option<DatastoreError> {
    let inner = error.get_ref()?.downcast_ref::<Error>()?;
    let (reason, hint) = meaning(inner, with_own_authorities);
    let kind = match reason {
        TlsReason::UnknownAuthority
        | TlsReason::WrongName
        | TlsReason::Expired
        | TlsReason::BadCertificate => ErrorKind::Untrusted,
        TlsReason::ClientCertificateRequired | TlsReason::ClientCertificateRefused => {
            ErrorKind::Invalid
        }
        TlsReason::NotTls | TlsReason::NoAnswer | TlsReason::Protocol => ErrorKind::Unsupported,
    };
    let error = TlsError {
        server: server.to_string(),
        reason,
        text: escaped(&inner.to_string()).into_owned(),
        hint,
    };
    Some(DatastoreError::not_executed(kind, error))
}

fn meaning(error: &Error, with_own_authorities: bool) -> (TlsReason, &'static str) {
    match error {
        Error::InvalidCertificate(why) => of_certificate(why, with_own_authorities),
        Error::InvalidMessage(_) => (TlsReason::NotTls, NO_TLS),
        Error::AlertReceived(alert) => of_alert(*alert),
        _ => (TlsReason::Protocol, ""),
    }
}

fn of_alert(alert: AlertDescription) -> (TlsReason, &'static str) {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, DecryptError, HandshakeFailure, UnknownCA, UnsupportedCertificate,
    };
    const GIVE: &str = "give a client certificate that the server accepts, \
                        ?cert=/path/to/client.crt&key=/path/to/client.key";
    match alert {
        CertificateRequired => (TlsReason::ClientCertificateRequired, GIVE),
        // Before TLS 1.3 there was no other word for it.
        HandshakeFailure => (
            TlsReason::Protocol,
            "if the server requires a client certificate, give one, \
             ?cert=/path/to/client.crt&key=/path/to/client.key",
        ),
        // The only certificate that a server can complain of is that of its client.
        BadCertificate
        | UnsupportedCertificate
        | CertificateRevoked
        | CertificateExpired
        | CertificateUnknown
        | UnknownCA
        | AccessDenied
        | DecryptError => (TlsReason::ClientCertificateRefused, GIVE),
        _ => (TlsReason::Protocol, ""),
    }
}

fn of_certificate(why: &CertificateError, with_own_authorities: bool) -> (TlsReason, &'static str) {
    match why {
        // A bad signature is that of another authority with the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            TlsReason::UnknownAuthority,
            match with_own_authorities {
                true => {
                    "none of the given authorities vouches for it: give the right ones, \
                     ?ca=/path/to/authorities.pem"
                }
                false => {
                    "no authority that this system trusts vouches for it: give the server's, \
                     ?ca=/path/to/authorities.pem"
                }
            },
        ),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => (
            TlsReason::Expired,
            "renew it, and check the clock of this machine",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            TlsReason::WrongName,
            "write the host in the URL as the certificate names it",
        ),
        why if is_of_an_authority(why) => (
            TlsReason::BadCertificate,
            "it is an authority's own, and none that was given: have it sign one for the server, \
             or give it as the server's authority, ?ca=/path/to/authorities.pem",
        ),
        _ => (TlsReason::BadCertificate, ""),
    }
}

/// Whether the server shows the certificate of an authority as its own.
pub(super) fn is_of_an_authority(why: &CertificateError) -> bool {
    match why {
        CertificateError::Other(other) => other.to_string().contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_reason_and_its_kind() {
        use AlertDescription as Alert;
        use CertificateError as Bad;
        let (with, without) = (true, false);
        let bad = |why| Error::InvalidCertificate(why);
        for (error, own, reason, kind) in [
            (
                bad(Bad::UnknownIssuer),
                with,
                TlsReason::UnknownAuthority,
                ErrorKind::Untrusted,
            ),
            (
                bad(Bad::BadSignature),
                without,
                TlsReason::UnknownAuthority,
                ErrorKind::Untrusted,
            ),
            (
                bad(Bad::Expired),
                with,
                TlsReason::Expired,
                ErrorKind::Untrusted,
            ),
            (
                bad(Bad::NotValidYet),
                with,
                TlsReason::Expired,
                ErrorKind::Untrusted,
            ),
            (
                bad(Bad::NotValidForName),
                with,
                TlsReason::WrongName,
                ErrorKind::Untrusted,
            ),
            (
                bad(Bad::Revoked),
                with,
                TlsReason::BadCertificate,
                ErrorKind::Untrusted,
            ),
            (
                Error::AlertReceived(Alert::CertificateRequired),
                without,
                TlsReason::ClientCertificateRequired,
                ErrorKind::Invalid,
            ),
            (
                Error::AlertReceived(Alert::UnknownCA),
                with,
                TlsReason::ClientCertificateRefused,
                ErrorKind::Invalid,
            ),
            (
                Error::AlertReceived(Alert::ProtocolVersion),
                without,
                TlsReason::Protocol,
                ErrorKind::Unsupported,
            ),
            (
                Error::AlertReceived(Alert::HandshakeFailure),
                without,
                TlsReason::Protocol,
                ErrorKind::Unsupported,
            ),
            (
                Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
                with,
                TlsReason::NotTls,
                ErrorKind::Unsupported,
            ),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            let error = handshake_failed(&"host:1", &error, own);
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(!error.is_transient() && !error.may_have_executed());
            let source = std::error::Error::source(&error).unwrap();
            let source = source.downcast_ref::<TlsError>().unwrap();
            assert_eq!(source.reason(), reason);
            assert!(
                source
                    .to_string()
                    .starts_with("host:1: shake hands (TLS): ")
            );
        }
    }

    #[test]
    fn what_is_no_failure_of_tls_is_one_of_the_connection() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(refused_later(&"host:1", &reset).is_none());
        let error = handshake_failed(&"host:1", &reset, false);
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        let source = std::error::Error::source(&error).unwrap();
        let closed = source.downcast_ref::<TlsError>().unwrap();
        assert_eq!(closed.reason(), TlsReason::NoAnswer);
        assert!(closed.to_string().contains("write redis://"), "{closed}");

        let silent = io::Error::from(io::ErrorKind::TimedOut);
        let error = handshake_failed(&"host:1", &silent, false);
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
