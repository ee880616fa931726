use super::*;

fn shown(url: &str) -> (Vec<String>, Login) {
    let address = Address::of(url).unwrap();
    let hosts = address.hosts.iter().map(ToString::to_string).collect();
    (hosts, address.login)
}

#[test]
fn urls_are_read() {
    for (url, hosts, user, password, database) in [
        ("postgres://app@db", vec!["db:5432"], "app", None, "app"),
        (
            "postgresql://app:p%40w@db:1/shop",
            vec!["db:1"],
            "app",
            Some("p@w"),
            "shop",
        ),
        (
            "postgres://app@a,b:2/shop?target_session_attrs=read-write&sslmode=prefer",
            vec!["a:5432", "b:2"],
            "app",
            None,
            "shop",
        ),
        (
            "postgres://app@a,b/?port=7&target_session_attrs=primary",
            vec!["a:7", "b:7"],
            "app",
            None,
            "app",
        ),
        (
            "postgres://app@/shop?host=/run/postgresql",
            vec!["/run/postgresql/.s.PGSQL.5432"],
            "app",
            None,
            "shop",
        ),
        (
            "postgres://app@/shop?host=%2Frun&port=7",
            vec!["/run/.s.PGSQL.7"],
            "app",
            None,
            "shop",
        ),
    ] {
        let (found, login) = shown(url);
        assert_eq!(found, hosts, "{url}");
        assert_eq!(login.user, user);
        assert_eq!(login.password.as_deref(), password);
        assert_eq!(login.database, database);
    }
}

#[test]
fn wrong_urls_are_refused_with_the_reason_and_without_a_secret() {
    for (url, reason) in [
        ("", "starts with postgres://"),
        ("redis://localhost", "starts with postgres://"),
        ("postgres://db/shop", "the login is"),
        ("postgres://:s3cret@db/shop", "the login is"),
        ("postgres://app:s3cret%@db/shop", "the login is"),
        ("postgres://app@/shop", "give a host"),
        ("postgres://app@db/shop?host=/run", "give a host"),
        ("postgres://app@/shop?host=run", "give a host"),
        ("postgres://app@db:0/shop", "the port is not a number"),
        ("postgres://app@db?port=x", "the port is not a number"),
        ("postgres://app@db?port=0", "the port is not a number"),
        ("postgres://a%00b@db/shop", "the login is"),
        ("postgres://app@db/a%00b", "the name of a database"),
        ("postgres://app:s3cret", "the port is not a number"),
        ("postgres://app@a,a/shop", "there twice"),
        ("postgres://app@db/shop/x", "the name of a database"),
        ("postgres://x@db/u:s3cret@y", "the name of a database"),
        ("postgres://app@db/shop?user=s3cret", "the options are"),
        ("postgres://app@db?port=1&port=2", "the options are"),
        ("postgres://app@db?target_session_attrs=any", "read-write"),
        ("postgres://app@db?sslmode=allow", "sslmode is"),
        ("postgres://app@db?sslmode=s3cret", "sslmode is"),
        ("postgres://app@db?channel_binding=x", "channel_binding is"),
        ("postgres://app@db?sslcert=/c", "needs its key"),
        ("postgres://app@db?sslkey=/k", "needs its key"),
        (
            "postgres://app@db?sslmode=require&sslmode=disable",
            "the options are",
        ),
        #[cfg(not(feature = "tls"))]
        ("postgres://app@db?sslmode=require", "the Cargo feature"),
        #[cfg(not(feature = "tls"))]
        ("postgres://app@db?sslrootcert=/ca", "the Cargo feature"),
        #[cfg(not(feature = "tls"))]
        (
            "postgres://app@db?channel_binding=require",
            "the Cargo feature",
        ),
    ] {
        let error = PostgresDatastore::open(url).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(reason), "{url}: {text}");
        assert!(!format!("{error:?} {text}").contains("s3cret"), "{url}");
    }
}

#[test]
fn a_password_is_not_shown() {
    let builder = PostgresDatastore::builder("postgres://app:s3cret@db/shop").unwrap();
    assert!(!format!("{builder:?}").contains("s3cret"));
    let store = builder.build();
    assert!(!format!("{store:?}").contains("s3cret"));
    let (_, login) = shown("postgres://app:s3cret@db/shop");
    assert!(!format!("{login:?}").contains("s3cret"));
}
