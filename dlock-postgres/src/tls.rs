//! TLS: whether the server is asked for it, and how far it must prove who it is.

use dlock_core::{DatastoreError, Time};
use dlock_net::{CertificateFiles, Dialer, Endpoint, Transport};

use crate::error::UrlError;
#[cfg(feature = "tls")]
use dlock_net::tls::{ServerCheck, Trust, Wording};
#[cfg(feature = "tls")]
use dlock_net::{NetError, Socket, failed_before_sending};

/// How the URL says what an error of TLS advises.
#[cfg(feature = "tls")]
const WORDING: Wording = Wording {
    authorities: "?sslrootcert=/path/to/authorities.pem",
    client_certificate: "?sslcert=/path/to/client.crt&sslkey=/path/to/client.key",
    without_tls: "write ?sslmode=disable where the network is trusted",
};

/// What to do about a server that has no TLS.
#[cfg(feature = "tls")]
const NOT_OFFERED: &str = "switch it on at the server (ssl = on, and a certificate); \
     if it is on there, something in between takes it away; \
     write ?sslmode=disable only where the network is trusted";

/// The value of `sslrootcert` that means the authorities of this system.
const SYSTEM: &str = "system";

/// How a connection over TCP is protected: `sslmode` in a URL, with the meaning that libpq gives
/// it. A Unix socket needs no protection and has none.
///
/// | | TLS | the server's certificate |
/// | --- | --- | --- |
/// | `Disable` | no | |
/// | `Prefer` | if the server has it | is not checked |
/// | `Require` | yes | is not checked |
/// | `VerifyCa` | yes | is signed by one of the given authorities |
/// | `VerifyFull` | yes | and is for the host in the URL |
///
/// With authorities of one's own, `Prefer` and `Require` check the signature as `VerifyCa` does.
/// Authorities of the system sign for anybody: where they are believed, the host is always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Without TLS.
    Disable,
    /// With TLS if the server has it. It hides the traffic from those who only listen.
    Prefer,
    /// With TLS, or not at all.
    Require,
    /// With TLS, to a server with a certificate of a given authority.
    VerifyCa,
    /// With TLS, to a server with a certificate for this host.
    VerifyFull,
}

/// Whether a login by a password is bound to the server's certificate (SCRAM-SHA-256-PLUS):
/// `channel_binding` in a URL. A server that only passes the login on, between the client and the
/// real one, has another certificate, and the login fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// It is not.
    Disable,
    /// It is, where the server offers that.
    #[default]
    Prefer,
    /// It is, or there is no login: not without a password, and not by MD5 either.
    Require,
}

impl SslMode {
    fn read(text: &str) -> Result<Self, UrlError> {
        Ok(match text {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return Err(UrlError::SslMode),
        })
    }
}

impl ChannelBinding {
    fn read(text: &str) -> Result<Self, UrlError> {
        Ok(match text {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return Err(UrlError::ChannelBinding),
        })
    }
}

/// The options of a URL that are about TLS.
#[derive(Default)]
pub(crate) struct TlsOptions {
    mode: Option<String>,
    binding: Option<String>,
    files: CertificateFiles,
}

impl TlsOptions {
    /// The place of the option with this name; `None` for another name.
    pub(crate) fn option(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "sslmode" => &mut self.mode,
            "channel_binding" => &mut self.binding,
            "sslrootcert" => &mut self.files.ca,
            "sslcert" => &mut self.files.certificate,
            "sslkey" => &mut self.files.key,
            _ => return None,
        })
    }
}

/// Whose authorities are believed.
#[cfg(feature = "tls")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roots {
    /// Nothing was said.
    Unnamed,
    System,
    Own,
}

/// How connections are protected.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    mode: Option<SslMode>,
    binding: ChannelBinding,
    #[cfg(feature = "tls")]
    roots: Roots,
    #[cfg(feature = "tls")]
    trust: Trust,
}

/// An open stream, and what a login over it can be bound to.
pub(crate) struct Opened {
    pub(crate) stream: Box<dyn Transport>,
    pub(crate) channel: Channel,
}

/// What a login is bound to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Channel {
    pub(crate) wanted: ChannelBinding,
    /// `tls-server-end-point`; `None` without TLS, or if it is not defined for the certificate.
    pub(crate) end_point: Option<Vec<u8>>,
}

impl Security {
    pub(crate) fn new(options: TlsOptions) -> Result<Self, UrlError> {
        let TlsOptions {
            mode,
            binding,
            mut files,
        } = options;
        let mode = mode.as_deref().map(SslMode::read).transpose()?;
        let binding = binding.as_deref().map(ChannelBinding::read).transpose()?;
        let binding = binding.unwrap_or_default();
        if files.is_half() {
            return Err(UrlError::ClientCertificate);
        }
        let is_system = files.ca.as_deref() == Some(SYSTEM);
        if is_system {
            files.ca = None;
        }
        #[cfg(not(feature = "tls"))]
        if is_system
            || files != CertificateFiles::default()
            || mode > Some(SslMode::Prefer)
            || binding == ChannelBinding::Require
        {
            return Err(UrlError::NoTls);
        }
        Ok(Security {
            mode,
            binding,
            #[cfg(feature = "tls")]
            roots: match &files.ca {
                Some(_) => Roots::Own,
                None if is_system => Roots::System,
                None => Roots::Unnamed,
            },
            #[cfg(feature = "tls")]
            trust: Trust::new(WORDING).with_files(&files)?,
        }
        .settled())
    }

    pub(crate) fn with_mode(mut self, mode: SslMode) -> Self {
        self.mode = Some(mode);
        self.settled()
    }

    pub(crate) fn with_binding(mut self, binding: ChannelBinding) -> Self {
        self.binding = binding;
        self
    }

    #[cfg(feature = "tls")]
    pub(crate) fn with_authorities(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.trust = self.trust.with_authorities(pem)?;
        self.roots = Roots::Own;
        Ok(self.settled())
    }

    #[cfg(feature = "tls")]
    pub(crate) fn with_identity(mut self, chain: &[u8], key: &[u8]) -> Result<Self, UrlError> {
        self.trust = self.trust.with_identity(chain, key)?;
        Ok(self)
    }

    /// A server whose authorities were named, and nothing else, must prove who it is.
    #[cfg(feature = "tls")]
    fn mode(&self) -> SslMode {
        #[cfg(feature = "tls")]
        let unsaid = match self.roots {
            Roots::Unnamed => SslMode::Prefer,
            Roots::System | Roots::Own => SslMode::VerifyFull,
        };
        #[cfg(not(feature = "tls"))]
        let unsaid = SslMode::Prefer;
        self.mode.unwrap_or(unsaid)
    }

    #[cfg(feature = "tls")]
    fn check(&self) -> ServerCheck {
        match (self.mode(), self.roots) {
            (SslMode::VerifyFull, _) | (_, Roots::System) => ServerCheck::Full,
            (_, Roots::Own) => ServerCheck::Authority,
            (SslMode::VerifyCa, Roots::Unnamed) => ServerCheck::Full,
            (SslMode::Disable | SslMode::Prefer | SslMode::Require, Roots::Unnamed) => {
                ServerCheck::Unchecked
            }
        }
    }

    /// With the check that follows from what was said.
    #[cfg(feature = "tls")]
    fn settled(mut self) -> Self {
        let check = self.check();
        self.trust = self.trust.with_check(check);
        self
    }

    #[cfg(not(feature = "tls"))]
    fn settled(self) -> Self {
        self
    }

    /// Connects to a server, with TLS as it is wanted.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn open(
        &self,
        dialer: &Dialer,
        host: &Endpoint,
        deadline: Time,
    ) -> Result<Opened, DatastoreError> {
        let socket = dialer.connect_to(host, deadline)?;
        #[cfg(feature = "tls")]
        if matches!(host, Endpoint::Tcp { .. }) && self.mode() != SslMode::Disable {
            return self.secured(socket, host);
        }
        Ok(self.opened(Box::new(socket), None))
    }

    fn opened(&self, stream: Box<dyn Transport>, end_point: Option<Vec<u8>>) -> Opened {
        Opened {
            stream,
            channel: Channel {
                wanted: self.binding,
                end_point,
            },
        }
    }

    #[cfg(feature = "tls")]
    fn secured(&self, mut socket: Socket, host: &Endpoint) -> Result<Opened, DatastoreError> {
        use dlock_net::tls::{TlsError, shake_hands};

        if offers_tls(&mut socket, host)? {
            let stream = shake_hands(&self.trust, socket, host)?;
            let end_point = stream.end_point();
            return Ok(self.opened(Box::new(stream), end_point));
        }
        if self.mode() > SslMode::Prefer {
            return Err(TlsError::not_offered(host, NOT_OFFERED));
        }
        Ok(self.opened(Box::new(socket), None))
    }
}

/// Asks a server for TLS, before anything else. Returns whether it has it: then the handshake of
/// TLS is next.
///
/// # Errors
///
/// Not executed.
#[cfg(feature = "tls")]
fn offers_tls(socket: &mut Socket, host: &Endpoint) -> Result<bool, DatastoreError> {
    use std::io::{Read as _, Write as _};

    use postgres_protocol::message::frontend;

    use crate::wire::no_reply;

    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    // One byte and no more: what comes behind it must be of TLS. Else somebody in between could put
    // the first answers of the server there.
    let mut answer = [0];
    let asked = socket
        .write_all(&request)
        .and_then(|()| socket.read_exact(&mut answer));
    let offered = asked.and_then(|()| match &answer {
        b"S" => Ok(true),
        b"N" => Ok(false),
        // An error may stand there, in words that nobody vouches for.
        _ => Err(no_reply()),
    });
    offered.map_err(|error| failed_before_sending(NetError::new(host, "ask for TLS", error)))
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    fn security(options: &[(&str, &str)]) -> Result<Security, UrlError> {
        let mut all = TlsOptions::default();
        for (name, value) in options {
            let option = all.option(name).expect("an option of TLS");
            *option = Some((*value).to_owned());
        }
        Security::new(all)
    }

    #[test]
    fn what_is_not_said_is_never_weaker_than_what_is() {
        use ServerCheck::{Authority, Full, Unchecked};
        use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
        let (unnamed, own, system) = (Roots::Unnamed, Roots::Own, Roots::System);
        for (mode, roots, is, check) in [
            (None, unnamed, Prefer, Unchecked),
            (None, own, VerifyFull, Full),
            (None, system, VerifyFull, Full),
            (Some(Disable), unnamed, Disable, Unchecked),
            (Some(Prefer), unnamed, Prefer, Unchecked),
            (Some(Prefer), own, Prefer, Authority),
            (Some(Require), unnamed, Require, Unchecked),
            (Some(Require), own, Require, Authority),
            (Some(Require), system, Require, Full),
            (Some(VerifyCa), unnamed, VerifyCa, Full),
            (Some(VerifyCa), own, VerifyCa, Authority),
            (Some(VerifyCa), system, VerifyCa, Full),
            (Some(VerifyFull), unnamed, VerifyFull, Full),
            (Some(VerifyFull), own, VerifyFull, Full),
            (Some(VerifyFull), system, VerifyFull, Full),
        ] {
            let mut security = security(&[]).unwrap();
            (security.mode, security.roots) = (mode, roots);
            assert_eq!(
                (security.mode(), security.check()),
                (is, check),
                "{mode:?} {roots:?}"
            );
        }
    }

    #[test]
    fn options_are_read_and_wrong_ones_are_refused() {
        let read = security(&[("sslmode", "verify-ca"), ("channel_binding", "require")]).unwrap();
        assert_eq!(read.mode(), SslMode::VerifyCa);
        assert_eq!(read.binding, ChannelBinding::Require);
        let read = security(&[("sslrootcert", "system")]).unwrap();
        assert_eq!(read.roots, Roots::System);
        for (name, value, error) in [
            ("sslmode", "allow", UrlError::SslMode),
            ("sslmode", "", UrlError::SslMode),
            ("sslmode", "Require", UrlError::SslMode),
            ("channel_binding", "on", UrlError::ChannelBinding),
            ("sslcert", "/c", UrlError::ClientCertificate),
            ("sslkey", "/k", UrlError::ClientCertificate),
        ] {
            assert_eq!(
                security(&[(name, value)]).unwrap_err(),
                error,
                "{name}={value}"
            );
        }
        let missing = security(&[("sslrootcert", "/no/such")]).unwrap_err();
        assert!(missing.to_string().contains("/no/such"), "{missing}");
    }
}
