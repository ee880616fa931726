//! Where a server listens, as URLs say it.

use std::fmt;
#[cfg(unix)]
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host (name or address, IPv6 without brackets) and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
    ///
    /// # Errors
    ///
    /// A text of another form.
    pub fn parse(authority: &str, default_port: Option<u16>) -> Result<Self, EndpointError> {
        let (host, port) = split(authority)?;
        let port = match port {
            None => default_port.ok_or(EndpointError::NoPort)?,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or(EndpointError::Port)?,
        };
        if host.is_empty() {
            return Err(EndpointError::NoHost);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:%".contains(&b) || !b.is_ascii();
        if !host.bytes().all(allowed) {
            return Err(EndpointError::Host);
        }
        Ok(Endpoint::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

/// Host, and the digits after the colon.
fn split(authority: &str) -> Result<(&str, Option<&str>), EndpointError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(EndpointError::Host)?;
        if !host.contains(':') {
            return Err(EndpointError::Host);
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(EndpointError::Host),
        };
    }
    match authority.split_once(':') {
        None => Ok((authority, None)),
        Some((_, port)) if port.contains(':') => Err(EndpointError::Brackets),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(authority: &str) -> Result<Self, EndpointError> {
        Endpoint::parse(authority, None)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            #[cfg(unix)]
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What is wrong with an address. It does not repeat the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Nothing before the port.
    #[error("the host is missing; write it like 127.0.0.1 or db.example.org")]
    NoHost,
    /// Characters that no host has.
    #[error("the host is not a name or an address")]
    Host,
    /// More than one colon outside of brackets.
    #[error("an IPv6 address stands in brackets, like [::1]:11211")]
    Brackets,
    /// No port where one is needed.
    #[error("the port is missing")]
    NoPort,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

/// A URL as it may be shown: what stands before the `@`, and everything after a `?`, is left out.
///
/// ```
/// assert_eq!(dlock_net::redacted("redis://app:s3cret@db/0?token=x"), "redis://***@db/0?***");
/// assert_eq!(dlock_net::redacted("memcache://cache:11211"), "memcache://cache:11211");
/// ```
pub fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        // A password may hold a :// as well.
        _ => (String::new(), url),
    };
    // The last @, wherever it stands: a password may hold a slash, a question mark, or an @ that somebody forgot to escape.
    let (secret, shown) = match rest.rsplit_once('@') {
        Some((_, shown)) => ("***@", shown),
        None => ("", rest),
    };
    match shown.split_once('?') {
        Some((shown, _)) => format!("{scheme}{secret}{shown}?***"),
        None => format!("{scheme}{secret}{shown}"),
    }
}

fn is_scheme(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// The text that a part of a URL stands for; `None` if an escape is broken or the result is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, shown) in [
            ("db", "db:7"),
            ("db:6379", "db:6379"),
            ("[::1]", "[::1]:7"),
            ("[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
        ] {
            assert_eq!(Endpoint::parse(text, Some(7)).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, error) in [
            ("", EndpointError::NoHost),
            (":80", EndpointError::NoHost),
            ("::1", EndpointError::Brackets),
            ("[::1", EndpointError::Host),
            ("[::1]x", EndpointError::Host),
            ("[a]:1", EndpointError::Host),
            ("a b:1", EndpointError::Host),
            ("a/b:1", EndpointError::Host),
            ("user@a:1", EndpointError::Host),
            ("a:0", EndpointError::Port),
            ("a:65536", EndpointError::Port),
            ("a:+1", EndpointError::Port),
            ("a:", EndpointError::Port),
        ] {
            assert_eq!(Endpoint::parse(text, Some(7)), Err(error), "{text}");
        }
        assert_eq!("a".parse::<Endpoint>(), Err(EndpointError::NoPort));
    }

    #[test]
    fn no_part_of_a_secret_is_shown() {
        for url in [
            "redis://user:s3cret@host/",
            "redis://s3cret@host",
            "redis://user:a@s3cret@host",
            "redis://user:a/s3cret@host",
            "redis://user:a?s3cret@host",
            "user:s3cret@host",
            "user:s3cret://a@host",
            "redis://host/?password=s3cret",
        ] {
            let shown = redacted(url);
            assert!(
                !shown.contains("s3cret") && shown.contains("host"),
                "{shown}"
            );
        }
    }

    #[test]
    fn escapes_are_decoded_or_refused() {
        assert_eq!(percent_decoded("a%40%c3%9F").as_deref(), Some("a@ß"));
        for broken in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(percent_decoded(broken), None, "{broken}");
        }
    }
}
