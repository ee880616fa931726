//! What goes wrong with TLS, and what to do about it.

use std::fmt;
use std::io;

use dlock_core::{DatastoreError, ErrorKind};
use rustls::{AlertDescription, CertificateError, Error};

use super::Trust;
use crate::escaped;

const SHAKE_HANDS: &str = "shake hands (TLS)";

/// Why a TLS connection was not opened. It is the source of the [`DatastoreError`] of the call, and
/// says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    server: String,
    reason: TlsReason,
    text: String,
    hint: String,
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
    /// The server was asked for TLS, and answered that it does not speak it.
    NotOffered,
    /// The server closed the connection, or did not answer at all. So does one that does not speak
    /// TLS, one that is stopped, and one that is going down.
    NoAnswer,
    /// The two found no version or no cipher in common, or one of them breaks the protocol.
    Protocol,
}

impl TlsReason {
    /// What is wrong with a certificate today will be wrong next time: it must not be waited for
    /// like a server that is down.
    fn kind(self) -> ErrorKind {
        match self {
            TlsReason::UnknownAuthority
            | TlsReason::WrongName
            | TlsReason::Expired
            | TlsReason::BadCertificate => ErrorKind::Untrusted,
            TlsReason::ClientCertificateRequired | TlsReason::ClientCertificateRefused => {
                ErrorKind::Invalid
            }
            TlsReason::NotTls | TlsReason::NotOffered | TlsReason::Protocol => {
                ErrorKind::Unsupported
            }
            TlsReason::NoAnswer => ErrorKind::Unreachable,
        }
    }
}

impl TlsError {
    /// What kind of failure this is.
    pub fn reason(&self) -> TlsReason {
        self.reason
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.reason.kind()
    }

    /// The error of a server that was asked for TLS in its own protocol, and has none. `hint` says
    /// what to do.
    pub fn not_offered(server: impl fmt::Display, hint: &str) -> DatastoreError {
        let error = TlsError {
            server: server.to_string(),
            reason: TlsReason::NotOffered,
            text: "the server does not offer TLS".to_owned(),
            hint: hint.to_owned(),
        };
        DatastoreError::not_executed(error.kind(), error)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {SHAKE_HANDS}: {}", self.server, self.text)?;
        match self.hint.as_str() {
            "" => Ok(()),
            hint => write!(f, " ({hint})"),
        }
    }
}

impl std::error::Error for TlsError {}

/// How the user of a store writes what the text of a [`TlsError`] advises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wording {
    /// Authorities: `?ca=/path/to/authorities.pem`.
    pub authorities: &'static str,
    /// A certificate of the client: `?cert=/path/to/client.crt&key=/path/to/client.key`.
    pub client_certificate: &'static str,
    /// What to do if the port does not speak TLS: `write redis:// in place of rediss://`.
    pub without_tls: &'static str,
}

/// A server with which TLS may fail.
pub(super) struct Peer {
    server: String,
    has_own_authorities: bool,
    wording: Wording,
}

impl Peer {
    pub(super) fn new(server: impl fmt::Display, trust: &Trust) -> Self {
        Peer {
            server: server.to_string(),
            has_own_authorities: trust.has_own_authorities(),
            wording: trust.wording(),
        }
    }

    /// The error of a handshake.
    pub(super) fn handshake_failed(&self, error: &io::Error) -> DatastoreError {
        if let Some(known) = self.known(error) {
            return DatastoreError::not_executed(known.kind(), known);
        }
        let text = TlsError {
            server: self.server.clone(),
            reason: TlsReason::NoAnswer,
            text: escaped(&error.to_string()).into_owned(),
            hint: self.no_tls(),
        };
        let kind = match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::Timeout,
            _ => ErrorKind::Unreachable,
        };
        DatastoreError::not_executed(kind, text)
    }

    /// The error of a read after this side took the handshake for done: one of TLS has a
    /// [`TlsError`] in it.
    pub(super) fn refused(&self, error: io::Error) -> io::Error {
        match self.known(&error) {
            Some(known) => io::Error::new(error.kind(), known),
            None => error,
        }
    }

    /// `None` if it is none of TLS.
    fn known(&self, error: &io::Error) -> Option<TlsError> {
        let inner = error.get_ref()?.downcast_ref::<Error>()?;
        let (reason, hint) = self.meaning(inner);
        Some(TlsError {
            server: self.server.clone(),
            reason,
            text: escaped(&inner.to_string()).into_owned(),
            hint,
        })
    }

    fn no_tls(&self) -> String {
        let advice = self.wording.without_tls;
        format!("if this port does not speak TLS, {advice}")
    }

    fn meaning(&self, error: &Error) -> (TlsReason, String) {
        match error {
            Error::InvalidCertificate(why) => self.of_certificate(why),
            Error::InvalidMessage(_) => (TlsReason::NotTls, self.no_tls()),
            Error::AlertReceived(alert) => self.of_alert(*alert),
            _ => (TlsReason::Protocol, String::new()),
        }
    }

    fn of_alert(&self, alert: AlertDescription) -> (TlsReason, String) {
        use AlertDescription::{
            AccessDenied, BadCertificate, CertificateExpired, CertificateRequired,
            CertificateRevoked, CertificateUnknown, DecryptError, HandshakeFailure, UnknownCA,
            UnsupportedCertificate,
        };
        let option = self.wording.client_certificate;
        let give = || format!("give a client certificate that the server accepts, {option}");
        match alert {
            CertificateRequired => (TlsReason::ClientCertificateRequired, give()),
            // Before TLS 1.3 there was no other word for it.
            HandshakeFailure => (
                TlsReason::Protocol,
                format!("if the server requires a client certificate, give one, {option}"),
            ),
            // The only certificate that a server can complain of is that of its client.
            BadCertificate
            | UnsupportedCertificate
            | CertificateRevoked
            | CertificateExpired
            | CertificateUnknown
            | UnknownCA
            | AccessDenied
            | DecryptError => (TlsReason::ClientCertificateRefused, give()),
            _ => (TlsReason::Protocol, String::new()),
        }
    }

    fn of_certificate(&self, why: &CertificateError) -> (TlsReason, String) {
        let option = self.wording.authorities;
        match why {
            // A bad signature is that of another authority with the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                TlsReason::UnknownAuthority,
                match self.has_own_authorities {
                    true => format!(
                        "none of the given authorities vouches for it: give the right ones, {option}"
                    ),
                    false => format!(
                        "no authority that this system trusts vouches for it: give the server's, \
                         {option}"
                    ),
                },
            ),
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => (
                TlsReason::Expired,
                "renew it, and check the clock of this machine".to_owned(),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (
                    TlsReason::WrongName,
                    "write the host in the URL as the certificate names it".to_owned(),
                )
            }
            why if is_of_an_authority(why) => (
                TlsReason::BadCertificate,
                format!(
                    "it is an authority's own, and none that was given: have it sign one for the \
                     server, or give it as the server's authority, {option}"
                ),
            ),
            _ => (TlsReason::BadCertificate, String::new()),
        }
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

    fn peer(has_own_authorities: bool) -> Peer {
        Peer {
            server: "host:1".to_owned(),
            has_own_authorities,
            wording: Wording {
                authorities: "?ca=/path/to/authorities.pem",
                client_certificate: "?cert=/path/to/client.crt&key=/path/to/client.key",
                without_tls: "write redis:// in place of rediss://",
            },
        }
    }

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
            let error = peer(own).handshake_failed(&error);
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
        assert!(peer(false).known(&reset).is_none());
        let error = peer(false).handshake_failed(&reset);
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        let source = std::error::Error::source(&error).unwrap();
        let closed = source.downcast_ref::<TlsError>().unwrap();
        assert_eq!(closed.reason(), TlsReason::NoAnswer);
        assert!(closed.to_string().contains("write redis://"), "{closed}");

        let silent = io::Error::from(io::ErrorKind::TimedOut);
        let error = peer(false).handshake_failed(&silent);
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
