//! What the URL of sentinels says.

use dlock_net::{Endpoint, percent_decoded};

use super::{Login, UrlError};

const DEFAULT_PORT: u16 = 26379;

/// The sentinels that know a server, and how they call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentinelPlace {
    /// At least one.
    pub(crate) hosts: Vec<Endpoint>,
    pub(crate) service: String,
    /// The login at the sentinels.
    pub(crate) login: Login,
}

impl SentinelPlace {
    /// Reads the hosts, and the service from the start of the path. Leaves the rest of the path.
    ///
    /// # Errors
    ///
    /// If one of them is missing or has another form.
    pub(super) fn read(hosts: &str, path: &mut &str, over_tls: bool) -> Result<Self, UrlError> {
        let hosts = Endpoint::parse_list(hosts, Some(DEFAULT_PORT))?;
        let named = path.strip_prefix('/').unwrap_or(path);
        let (service, rest) = named.split_at(named.find('/').unwrap_or(named.len()));
        let service = percent_decoded(service)
            .filter(|name| !name.is_empty() && !name.contains(|c: char| c.is_whitespace()))
            .ok_or(UrlError::Service)?;
        *path = rest;
        let login = Login {
            over_tls,
            ..Login::default()
        };
        Ok(SentinelPlace {
            hosts,
            service,
            login,
        })
    }

    /// Reads an option that only sentinels have.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub(super) fn read_option(&mut self, name: &str, value: String) -> Result<(), UrlError> {
        match name {
            "sentinel_username" => self.login.user = Some(value),
            "sentinel_password" => self.login.password = Some(value),
            _ => return Err(UrlError::Query),
        }
        Ok(())
    }

    /// # Errors
    ///
    /// If there is a user without a password.
    pub(super) fn check(&self) -> Result<(), UrlError> {
        self.login.checked().map_err(|_| UrlError::SentinelLogin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;
    use dlock_net::EndpointError;

    fn place(url: &str) -> Place {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn sentinels(url: &str) -> SentinelPlace {
        place(url).sentinels.unwrap()
    }

    #[test]
    fn a_url_of_sentinels_names_them_and_the_service() {
        let url = "redis+sentinel://app:pw@a,b:7,[::1]/locks/3\
                   ?sentinel_username=watch&sentinel_password=p%40w";
        let read = sentinels(url);
        let hosts: Vec<_> = read.hosts.iter().map(Endpoint::to_string).collect();
        assert_eq!(hosts, ["a:26379", "b:7", "[::1]:26379"]);
        assert_eq!(read.service, "locks");
        assert_eq!(read.login.user.as_deref(), Some("watch"));
        assert_eq!(read.login.password.as_deref(), Some("p@w"));
        assert_eq!(read.login.database, 0);
        let login = place(url).login;
        assert_eq!(login.user.as_deref(), Some("app"));
        assert_eq!(login.password.as_deref(), Some("pw"));
        assert_eq!(login.database, 3);
    }

    #[test]
    fn what_may_be_left_out_has_its_usual_value() {
        for url in [
            "redis+sentinel://a/locks",
            "redis+sentinel://a/locks/",
            "valkey+sentinel://a/locks/0",
        ] {
            assert_eq!(sentinels(url).service, "locks", "{url}");
            assert_eq!(sentinels(url).login, Login::default());
            assert_eq!(place(url).login, Login::default());
        }
        assert_eq!(place("redis+sentinel://a/x?db=2").login.database, 2);
        let escaped = sentinels("redis+sentinel://a/l%2Fo%C3%9F/0").service;
        assert_eq!(escaped, "l/oß");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_for_the_nodes_and_the_sentinels() {
        for url in ["rediss+sentinel://a/x", "valkeys+sentinel://a/x"] {
            assert!(place(url).tls && place(url).login.over_tls);
            assert!(sentinels(url).login.over_tls);
        }
    }

    #[test]
    fn what_is_no_url_of_sentinels_is_refused_with_the_reason_and_without_the_secret() {
        for (url, error) in [
            ("redis+sentinel://a", UrlError::Service),
            ("redis+sentinel://a/", UrlError::Service),
            ("redis+sentinel://a//0", UrlError::Service),
            ("redis+sentinel://a/l%20s3cret", UrlError::Service),
            ("redis+sentinel://a/%zz", UrlError::Service),
            ("redis+sentinel://:s3cret@/x", EndpointError::NoHost.into()),
            ("redis+sentinel://a,/x", EndpointError::NoHost.into()),
            ("redis+sentinel://a,a:26379/x", EndpointError::Twice.into()),
            ("redis+sentinel://app:s3cret/x", EndpointError::Port.into()),
            ("redis+sentinel://::1/x", EndpointError::Brackets.into()),
            ("redis+sentinel://a/x/s3cret", UrlError::Database),
            ("redis+sentinel://a/x/0/1", UrlError::Database),
            ("redis+sentinel://s3cret@a/x", UrlError::Login),
            ("redis+sentinel://u:a/s3cret@a/x", UrlError::LoginPlace),
            (
                "redis+sentinel://a/x?sentinel_username=s3cret",
                UrlError::SentinelLogin,
            ),
            (
                "redis+sentinel://a/x?sentinel_password=a&sentinel_password=s3cret",
                UrlError::Query,
            ),
            ("redis+sentinel://a/x?s3cret=1", UrlError::Query),
            ("redis://a/0?sentinel_password=s3cret", UrlError::Query),
            ("unix+sentinel:///run/x", UrlError::Scheme),
            ("redis+sentinels://a/x", UrlError::Scheme),
        ] {
            let refused = url.parse::<Place>().unwrap_err();
            assert_eq!(refused, error, "{url}");
            let text = format!("{refused} {refused:?}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
