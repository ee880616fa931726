//! Splits a URL into its parts.

use crate::{Endpoint, percent_decoded};

/// The parts of a URL, unparsed.
///
/// It does not implement `Debug`: the login and the query may contain a password, and so may any
/// other part of a malformed URL.
#[derive(Clone, Copy)]
pub struct UrlParts<'a> {
    /// The part before the `://`.
    pub scheme: &'a str,
    /// The part before the last `@` that precedes the path.
    pub login: Option<&'a str>,
    /// Host and port.
    pub host: &'a str,
    /// The part from the first slash on.
    pub path: &'a str,
    /// The part after the first question mark.
    pub query: Option<&'a str>,
}

impl<'a> UrlParts<'a> {
    /// Splits `url`; `None` without a `://`. Nothing is decoded or checked.
    pub fn of(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        Some(UrlParts {
            scheme,
            login,
            host,
            path,
            query,
        })
    }

    /// The Unix socket at [`path`](Self::path); `None` if that names no file, if there is a host
    /// before it, or if the system has no Unix sockets.
    pub fn socket(&self) -> Option<Endpoint> {
        let path = percent_decoded(self.path)?;
        let names_a_file = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
        match self.host.is_empty() && names_a_file {
            #[cfg(unix)]
            true => Some(Endpoint::Unix(path.into())),
            _ => None,
        }
    }

    /// The options after the question mark, with undecoded names and decoded values. An option
    /// without a value, or with a malformed escape, is `None`.
    pub fn options(&self) -> impl Iterator<Item = Option<(&'a str, String)>> + use<'a> {
        let options = self.query.into_iter().flat_map(|query| query.split('&'));
        options.map(|option| {
            let (name, value) = option.split_once('=')?;
            Some((name, percent_decoded(value)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (&str, Option<&str>, &str, &str, Option<&str>) {
        let parts = UrlParts::of(url).unwrap();
        (
            parts.scheme,
            parts.login,
            parts.host,
            parts.path,
            parts.query,
        )
    }

    #[test]
    fn a_url_is_taken_apart_where_people_expect_it() {
        assert_eq!(
            parts("redis://app:p@w@db:1/0/x?db=1?2"),
            ("redis", Some("app:p@w"), "db:1", "/0/x", Some("db=1?2"))
        );
        assert_eq!(parts("unix:///run/s"), ("unix", None, "", "/run/s", None));
        assert_eq!(parts("a://@?"), ("a", Some(""), "", "", Some("")));
        assert!(UrlParts::of("redis:/x").is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_is_the_path_of_a_file_and_has_no_host() {
        let socket = |url| UrlParts::of(url).unwrap().socket();
        assert_eq!(
            socket("unix://user@/run/a%20b"),
            Some(Endpoint::Unix("/run/a b".into()))
        );
        for url in [
            "unix://host/run/s",
            "unix://",
            "unix:///",
            "unix:///run/",
            "unix:///a%00",
            "unix:///a%2f",
            "unix:///%zz",
        ] {
            assert_eq!(socket(url), None, "{url}");
        }
    }

    #[test]
    fn options_have_names_and_decoded_values() {
        let options = |url| -> Vec<_> { UrlParts::of(url).unwrap().options().collect() };
        let some = |name, value: &str| Some((name, value.to_owned()));
        assert_eq!(
            options("a://b?c=d%3D&e=f=g&h&i=%"),
            [some("c", "d="), some("e", "f=g"), None, None]
        );
        assert_eq!(options("a://b"), []);
        assert_eq!(options("a://b?"), [None]);
    }
}
