use super::*;

fn place(url: &str) -> Place {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn login(url: &str) -> (Option<String>, Option<String>, u32) {
    let login = place(url).login;
    (login.user, login.password, login.database)
}

#[test]
fn urls_are_read_as_people_write_them() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(place("redis://db").endpoint.to_string(), "db:6379");
    assert_eq!(place("redis://[::1]:7/").endpoint.to_string(), "[::1]:7");
    assert_eq!(login("redis://db"), (None, None, 0));
    assert_eq!(login("redis://:pw@db:7000/3"), (None, some("pw"), 3));
    assert_eq!(
        login("valkey://app:p%40%2Fw@db/"),
        (some("app"), some("p@/w"), 0)
    );
    assert_eq!(login("redis://app:@db"), (some("app"), some(""), 0));
    assert_eq!(login("redis://:@db"), (None, None, 0));
    assert_eq!(
        login("redis://db?db=2&user=a&pass=b"),
        (some("a"), some("b"), 2)
    );
    assert!(!place("redis://db").tls);
    assert_eq!(place("redis://db").fence_keep, None);
    for (text, seconds) in [("1m", 60), ("36h", 129_600), ("3650d", 315_360_000)] {
        let kept = place(&format!("unix:///run/s?fence_keep={text}")).fence_keep;
        assert_eq!(kept, Some(Duration::from_secs(seconds)), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_a_path() {
    for url in [
        "unix:///run/a%20b.sock?db=4",
        "redis+unix:///run/a%20b.sock?db=4",
    ] {
        assert_eq!(place(url).endpoint, Endpoint::Unix("/run/a b.sock".into()));
        assert_eq!(place(url).login.database, 4);
    }
    assert_eq!(
        place("unix://:pw@/run/s").login.password.as_deref(),
        Some("pw")
    );
}

#[cfg(feature = "tls")]
#[test]
fn tls_is_asked_for_by_the_scheme() {
    let place = place("rediss://db/1?ca=/etc/ca.pem");
    assert!(place.tls);
    let certificates = place.certificates;
    assert_eq!(certificates.ca.as_deref(), Some("/etc/ca.pem"));
    assert_eq!((certificates.certificate, certificates.key), (None, None));
}

#[cfg(feature = "tls")]
#[test]
fn a_clients_certificate_and_its_key_are_two_files() {
    let certificates = place("rediss://db?key=/k&cert=/c").certificates;
    assert_eq!(certificates.certificate.as_deref(), Some("/c"));
    assert_eq!(certificates.key.as_deref(), Some("/k"));
    for url in ["rediss://db?cert=/c", "rediss://db?key=/k"] {
        let refused = url.parse::<Place>().unwrap_err();
        assert_eq!(refused, UrlError::ClientCertificate, "{url}");
    }
    for url in [
        "redis://db?cert=/c&key=/k",
        "rediss://db?cert=/c&cert=/d&key=/k",
    ] {
        assert_eq!(url.parse::<Place>().unwrap_err(), UrlError::Query, "{url}");
    }
}

#[test]
fn what_is_no_url_is_refused_with_the_reason_and_without_the_secret() {
    for (url, error) in [
        ("s3cret", UrlError::Scheme),
        ("http://s3cret@db", UrlError::Scheme),
        ("redis://s3cret@db", UrlError::Login),
        ("redis://u:s3cret%zz@db", UrlError::Login),
        (
            "redis://u:s3cret@",
            UrlError::Address(EndpointError::NoHost),
        ),
        (
            "redis://u:s3cret@db:x",
            UrlError::Address(EndpointError::Port),
        ),
        ("redis://u:s3cret@db/x", UrlError::Database),
        ("redis://u:s3cret@db/-1", UrlError::Database),
        ("redis://u:s3cret@db/4294967296", UrlError::Database),
        ("redis://db?password=s3cret", UrlError::Query),
        ("redis://db?pass=s3cret&pass=b", UrlError::Query),
        ("redis://db?ca=/x", UrlError::Query),
        ("redis://db?fence_keep=s3cret", UrlError::FenceKeep),
        ("redis://db?fence_keep=", UrlError::FenceKeep),
        ("redis://db?fence_keep=7", UrlError::FenceKeep),
        ("redis://db?fence_keep=0s", UrlError::FenceKeep),
        ("redis://db?fence_keep=59999ms", UrlError::FenceKeep),
        ("redis://db?fence_keep=3651d", UrlError::FenceKeep),
        ("redis://db?fence_keep=1d&fence_keep=1d", UrlError::Query),
        ("redis://db?user=s3cret", UrlError::Login),
        ("redis://db#s3cret", UrlError::Address(EndpointError::Host)),
        ("unix://host/s3cret", UrlError::SocketPath),
        ("redis://app:s3cret", UrlError::Address(EndpointError::Port)),
        ("unix://", UrlError::SocketPath),
    ] {
        let refused = url.parse::<Place>().unwrap_err();
        assert_eq!(refused, error, "{url}");
        assert!(
            !format!("{refused} {refused:?}").contains("s3cret"),
            "{refused:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_login_in_the_wrong_place_is_refused_and_not_taken_for_a_part_of_the_path() {
    for url in [
        "unix:///:s3cret@/run/redis.sock",
        "redis+unix:///:s3cret@/run/redis.sock?db=1",
        "unix:///user:s3cret@run/x.sock",
        "unix://user:s3cret@run/x.sock",
        "redis://db/:s3cret@/0",
        "redis://user:a/s3cret@db",
    ] {
        let refused = url.parse::<Place>().unwrap_err();
        assert_eq!(refused, UrlError::LoginPlace, "{url}");
        let text = format!("{refused} {refused:?}");
        assert!(text.contains("write unix://:password@/path"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    let escaped = place("unix:///run/a%40b.sock").endpoint;
    assert_eq!(escaped, Endpoint::Unix("/run/a@b.sock".into()));
}

#[test]
fn debug_does_not_show_the_password() {
    for url in [
        "redis://app:s3cret@db",
        "redis+sentinel://app:s3cret@db/x?sentinel_username=u&sentinel_password=s3cret",
    ] {
        let shown = format!("{:?} {:?}", RedisBuilder::new(url).unwrap(), place(url));
        assert!(
            !shown.contains("s3cret") && shown.contains("app"),
            "{shown}"
        );
    }
}
