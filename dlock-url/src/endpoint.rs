//! The address of a server, as URLs write it.

use std::fmt;
use std::net::Ipv6Addr;
#[cfg(unix)]
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

#[cfg(unix)]
use crate::escaped;
use crate::redact::is_unprintable;

/// The address of a server.
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
    /// If the text has another form.
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
        // `split` has already parsed an address between brackets.
        let allowed = |c: char| match c.is_ascii() {
            true => c.is_ascii_alphanumeric() || "-._:%".contains(c),
            false => !is_unprintable(c),
        };
        if !host.chars().all(allowed) {
            return Err(EndpointError::Host);
        }
        Ok(Endpoint::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl Endpoint {
    /// Reads a list like `a:1,b,[::1]:2`.
    ///
    /// # Errors
    ///
    /// If one of them has another form, or two are the same.
    pub fn parse_list(
        authority: &str,
        default_port: Option<u16>,
    ) -> Result<Vec<Self>, EndpointError> {
        let mut all = Vec::new();
        for one in authority.split(',') {
            let endpoint = Self::parse(one, default_port)?;
            if all.contains(&endpoint) {
                return Err(EndpointError::Twice);
            }
            all.push(endpoint);
        }
        Ok(all)
    }
}

/// Splits host and port.
fn split(authority: &str) -> Result<(&str, Option<&str>), EndpointError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(EndpointError::Host)?;
        let (address, zone) = host.split_once('%').unwrap_or((host, ""));
        if address.parse::<Ipv6Addr>().is_err() || zone.contains(':') {
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
            Endpoint::Unix(path) => f.write_str(&escaped(&path.to_string_lossy())),
        }
    }
}

/// What is wrong with an address. The error does not repeat the text, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// One address stands twice in a list.
    #[error("an address is there twice")]
    Twice,
    /// There is no host before the port.
    #[error("the host is missing; write it like 127.0.0.1 or db.example.org")]
    NoHost,
    /// The host has characters that no host may have.
    #[error("the host is not a name or an address")]
    Host,
    /// There is more than one colon outside brackets.
    #[error("an IPv6 address must be in brackets, like [::1]:11211")]
    Brackets,
    /// A required port is missing.
    #[error("the port is missing")]
    NoPort,
    /// The port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
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
    fn a_list_has_commas_between_its_addresses() {
        let list = |text| Endpoint::parse_list(text, Some(7));
        let shown = |text| -> Vec<_> {
            list(text)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(shown("a"), ["a:7"]);
        assert_eq!(shown("a:1,b,[::1]:2"), ["a:1", "b:7", "[::1]:2"]);
        assert_eq!(shown("a:1,a:2"), ["a:1", "a:2"]);
        for (text, error) in [
            ("", EndpointError::NoHost),
            ("a,", EndpointError::NoHost),
            (",a", EndpointError::NoHost),
            ("a,b:x", EndpointError::Port),
            ("a,b c", EndpointError::Host),
            ("a, b", EndpointError::Host),
            ("a,b,a:7", EndpointError::Twice),
        ] {
            assert_eq!(list(text), Err(error), "{text}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_reason() {
        for (text, error) in [
            ("", EndpointError::NoHost),
            (":80", EndpointError::NoHost),
            ("::1", EndpointError::Brackets),
            ("[::1", EndpointError::Host),
            ("[::1]x", EndpointError::Host),
            ("[a]:1", EndpointError::Host),
            ("[a:b]:1", EndpointError::Host),
            ("[::1:s3cret]:1", EndpointError::Host),
            ("[::1%:s3cret]:1", EndpointError::Host),
            ("a\u{202e}b", EndpointError::Host),
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
}
