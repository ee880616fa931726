//! What the URL of a cluster says.

use dlock_net::{Endpoint, UrlParts};

use super::{DEFAULT_PORT, Login, Place, UrlError};

/// Some nodes of a cluster, and how each of its nodes is reached.
#[derive(Debug)]
pub(super) struct ClusterPlace {
    pub(super) nodes: Vec<Endpoint>,
    /// That of the first node.
    pub(super) place: Place,
}

impl ClusterPlace {
    /// Reads `redis+cluster://[[user]:password@]host[:port][,host[:port]…]`; `None` if it is the
    /// URL of something else.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub(super) fn read(url: &str) -> Result<Option<Self>, UrlError> {
        let Some(parts) = UrlParts::of(url) else {
            return Ok(None);
        };
        let tls = match parts.scheme {
            "redis+cluster" | "valkey+cluster" => false,
            "rediss+cluster" | "valkeys+cluster" => true,
            _ => return Ok(None),
        };
        if tls && !cfg!(feature = "tls") {
            return Err(UrlError::NoTls);
        }
        if parts.path.contains('@') {
            return Err(UrlError::LoginPlace);
        }
        let login = parts.login.map(Login::read).transpose()?;
        let nodes = Endpoint::parse_list(parts.host, Some(DEFAULT_PORT))?;
        // There is one at least, since even an empty text has one part.
        let place = Place::at(nodes[0].clone(), tls, login.unwrap_or_default(), parts.path)?;
        let place = place.with_options(&parts)?;
        match place.login.database {
            0 => Ok(Some(ClusterPlace { nodes, place })),
            _ => Err(UrlError::ClusterDatabase),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_net::EndpointError;

    fn read(url: &str) -> ClusterPlace {
        ClusterPlace::read(url).unwrap().unwrap()
    }

    #[test]
    fn a_cluster_is_some_of_its_nodes() {
        let nodes = |url| -> Vec<_> { read(url).nodes.iter().map(ToString::to_string).collect() };
        assert_eq!(nodes("redis+cluster://a"), ["a:6379"]);
        assert_eq!(
            nodes("valkey+cluster://a:7000,b,[::1],[::2]:7/"),
            ["a:7000", "b:6379", "[::1]:6379", "[::2]:7"]
        );
        let place = read("redis+cluster://app:p%40w@a,b?user=x").place;
        assert_eq!(place.endpoint.to_string(), "a:6379");
        assert_eq!(place.login.user.as_deref(), Some("x"));
        assert_eq!(place.login.password.as_deref(), Some("p@w"));
        assert_eq!(read("redis+cluster://a,b/0").place.login.database, 0);
        for other in ["redis://a", "unix:///a", "redis+clusters://a", "a,b"] {
            assert!(ClusterPlace::read(other).unwrap().is_none(), "{other}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_cluster_may_speak_tls() {
        let place = read("rediss+cluster://a,b?ca=/etc/ca.pem").place;
        assert!(place.tls && place.login.over_tls);
        assert_eq!(place.certificates.ca.as_deref(), Some("/etc/ca.pem"));
    }

    #[test]
    fn what_is_no_cluster_is_refused_with_the_reason_and_without_the_secret() {
        for (url, error) in [
            ("redis+cluster://:s3cret@a,b/1", UrlError::ClusterDatabase),
            ("redis+cluster://a?db=2", UrlError::ClusterDatabase),
            ("redis+cluster://a/s3cret", UrlError::Database),
            (
                "redis+cluster://a,,b",
                UrlError::Address(EndpointError::NoHost),
            ),
            ("redis+cluster://", UrlError::Address(EndpointError::NoHost)),
            ("redis+cluster://s3cret@a", UrlError::Login),
            (
                "redis+cluster://u:s3cret",
                UrlError::Address(EndpointError::Port),
            ),
            ("redis+cluster://a/x:s3cret@b", UrlError::LoginPlace),
            ("redis+cluster://a?ca=/s3cret", UrlError::Query),
        ] {
            let refused = ClusterPlace::read(url).unwrap_err();
            assert_eq!(refused, error, "{url}");
            assert!(!format!("{refused} {refused:?}").contains("s3cret"));
        }
    }
}
