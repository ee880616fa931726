//! TLS as people have it: certificates of clients, self-signed ones, and what is wrong with them.

use std::time::Duration;

use dlock_core::{Datastore, DatastoreError, ErrorKind};
use dlock_redis::{RedisDatastore, TlsError, TlsReason, UrlError};
use dlock_test_servers::{RedisServer, TlsCertificate};

use crate::both_forms::callers;
use crate::scripted::scripted;
use crate::support::*;

fn with_ca(server: &RedisServer) -> String {
    format!("{}?ca={}", server.tls_url(), server.ca_file().display())
}

fn with_identity(server: &RedisServer, of: &RedisServer) -> String {
    let (certificate, key) = (of.client_certificate_file(), of.client_key_file());
    let (certificate, key) = (certificate.display(), key.display());
    format!("{}&cert={certificate}&key={key}", with_ca(server))
}

fn server(certificate: TlsCertificate) -> RedisServer {
    RedisServer::builder().tls_with(certificate).start()
}

/// Requires a certificate of its clients.
fn strict() -> RedisServer {
    let builder = RedisServer::builder().tls();
    builder.config("tls-auth-clients", "yes").start()
}

fn reason(error: &DatastoreError) -> TlsReason {
    let source = std::error::Error::source(error).unwrap();
    let error = source.downcast_ref::<TlsError>();
    error.unwrap_or_else(|| panic!("{source:?}")).reason()
}

/// Why neither form gets a connection.
fn failure(url: &str) -> (TlsReason, ErrorKind, String) {
    let mut failures = callers(|| patient(url)).into_iter().map(|caller| {
        let error = caller.acquire(&claim(KEY)).unwrap_err();
        assert!(!error.may_have_executed() && !error.is_transient());
        (reason(&error), error.kind(), whole_text(&error))
    });
    let first = failures.next().unwrap();
    assert!(failures.all(|other| (other.0, other.1) == (first.0, first.1)));
    first
}

#[test]
fn a_client_shows_its_certificate_to_a_server_that_requires_one() {
    let server = strict();
    for caller in callers(|| patient(&with_identity(&server, &server))) {
        assert!(caller.released(&caller.acquired(&claim(KEY))));
    }
    let read = |file| std::fs::read(file).unwrap();
    let by_builder = RedisDatastore::builder(&server.tls_url())
        .unwrap()
        .client_certificate_pem(
            &read(server.client_certificate_file()),
            &read(server.client_key_file()),
        )
        .unwrap()
        .ca_pem(&read(server.ca_file()))
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(LONG)
        .build();
    assert!(released(&by_builder, &acquired(&by_builder, &claim(KEY))));
}

#[test]
fn a_server_that_requires_a_certificate_and_gets_none_is_understood() {
    let server = strict();
    let (reason, kind, text) = failure(&with_ca(&server));
    assert_eq!(reason, TlsReason::ClientCertificateRequired);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("?cert=/path/to/client.crt&key="), "{text}");
}

#[test]
fn a_certificate_that_the_server_does_not_accept_is_understood() {
    let (server, other) = (strict(), strict());
    let (reason, kind, _) = failure(&with_identity(&server, &other));
    assert_eq!(reason, TlsReason::ClientCertificateRefused);
    assert_eq!(kind, ErrorKind::Invalid);
}

#[test]
fn a_self_signed_certificate_is_believed_where_it_is_given() {
    for kind in [
        TlsCertificate::SelfSigned,
        TlsCertificate::SelfSignedAuthority,
    ] {
        let server = server(kind);
        for caller in callers(|| patient(&with_ca(&server))) {
            assert!(caller.released(&caller.acquired(&claim(KEY))));
        }
        let other = self::server(kind);
        let url = format!("{}?ca={}", server.tls_url(), other.ca_file().display());
        let (_, kind, _) = failure(&url);
        assert_eq!(
            kind,
            ErrorKind::Untrusted,
            "another one vouches for nothing"
        );
    }
}

#[test]
fn a_self_signed_certificate_must_be_for_the_host_and_must_not_have_expired() {
    let server = server(TlsCertificate::SelfSignedAuthority);
    let elsewhere = with_ca(&server).replace("localhost", "127.0.0.2");
    // Redis listens on 127.0.0.1 alone.
    let address = server.tls_address().unwrap();
    let other = forwarded("127.0.0.2:0", address);
    let elsewhere = elsewhere.replace(&address.port().to_string(), &other.port().to_string());
    let (reason, kind, text) = failure(&elsewhere);
    assert_eq!((reason, kind), (TlsReason::WrongName, ErrorKind::Untrusted));
    assert!(text.contains("write the host in the URL"), "{text}");

    let expired = self::server(TlsCertificate::SelfSignedExpired);
    let (reason, kind, _) = failure(&with_ca(&expired));
    assert_eq!((reason, kind), (TlsReason::Expired, ErrorKind::Untrusted));
}

#[test]
fn each_fault_of_a_servers_certificate_has_its_reason() {
    let expired = server(TlsCertificate::Expired);
    let (reason, kind, text) = failure(&with_ca(&expired));
    assert_eq!((reason, kind), (TlsReason::Expired, ErrorKind::Untrusted));
    assert!(text.contains("renew it"), "{text}");

    let elsewhere = server(TlsCertificate::ForAnotherHost);
    let (reason, kind, _) = failure(&with_ca(&elsewhere));
    assert_eq!((reason, kind), (TlsReason::WrongName, ErrorKind::Untrusted));

    let url = format!("{}?ca={}", expired.tls_url(), elsewhere.ca_file().display());
    let (reason, kind, _) = failure(&url);
    assert_eq!(kind, ErrorKind::Untrusted);
    assert!(matches!(
        reason,
        TlsReason::UnknownAuthority | TlsReason::Expired
    ));
    let good = server(TlsCertificate::Signed);
    let url = format!("{}?ca={}", good.tls_url(), elsewhere.ca_file().display());
    let (reason, _, text) = failure(&url);
    assert_eq!(reason, TlsReason::UnknownAuthority);
    assert!(
        text.contains("none of the given authorities vouches"),
        "{text}"
    );
}

#[test]
fn a_port_that_does_not_speak_tls_is_no_tls() {
    let error = b"-ERR Protocol error: unauthenticated bulk length\r\n".to_vec();
    let (address, _requests) = scripted(vec![error]);
    let server = RedisServer::builder().tls().start();
    let ca = server.ca_file();
    let url = format!("rediss://{address}/?ca={}", ca.display());
    let (reason, kind, text) = failure(&url);
    assert_eq!((reason, kind), (TlsReason::NotTls, ErrorKind::Unsupported));
    assert!(text.contains("write redis:// in place of rediss://"));

    // Redis itself may also wait for the end of what it takes for a line.
    let url = format!("rediss://{}/?ca={}", server.address(), ca.display());
    let hasty = RedisDatastore::builder(&url).unwrap();
    let hasty = hasty
        .connect_timeout(Duration::from_secs(4))
        .call_timeout(LONG)
        .build();
    let error = hasty.acquire(&claim(KEY), TTL).unwrap_err();
    let reason = self::reason(&error);
    assert!(
        matches!(reason, TlsReason::NotTls | TlsReason::NoAnswer),
        "{error:?}"
    );
    assert!(whole_text(&error).contains("write redis:// in place of rediss://"));
}

#[test]
fn what_is_no_certificate_or_no_key_is_named_at_once_and_not_shown() {
    let server = RedisServer::builder().tls().start();
    let read = |file| std::fs::read(file).unwrap();
    let certificate = read(server.client_certificate_file());
    let key = read(server.client_key_file());
    let other = RedisServer::builder().tls().start();
    let other = read(other.client_key_file());
    let refused = |certificate: &[u8], key: &[u8]| {
        let builder = RedisDatastore::builder("rediss://host").unwrap();
        match builder.client_certificate_pem(certificate, key) {
            Err(UrlError::Certificates(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    for (certificate, key) in [
        (&certificate[..], &b"s3cret"[..]),
        (b"s3cret", &key),
        (&certificate, &other),
        (&certificate, b"-----BEGIN PRIVATE KEY-----\ns3cret"),
    ] {
        let text = refused(certificate, key);
        assert!(!text.contains("s3cret"), "{text}");
    }
    let builder = RedisDatastore::builder("redis://host").unwrap();
    assert!(builder.client_certificate_pem(&certificate, &key).is_err());
    let missing = RedisDatastore::open("rediss://host?cert=/no/such&key=/file").unwrap_err();
    assert!(missing.to_string().contains("/no/such"), "{missing}");
    let store = patient(&with_identity(&server, &server));
    assert!(
        released(&store, &acquired(&store, &claim(KEY))),
        "it may be shown to any server"
    );
    drop(store.acquire(&claim(KEY), TTL));
}
