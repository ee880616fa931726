//! Clusters that speak TLS, and certificates of clients.

use std::time::Duration;

use dlock_core::{Datastore, DatastoreError, ErrorKind};
use dlock_etcd::{EtcdDatastore, TlsError, TlsReason, UrlError};
use dlock_test_servers::{EtcdServer, TlsCertificate};
use serde_json::{Value, json};

use crate::support::{CALL, LONG, ask, base64, call, claim, eventually, key, ours, store_at, take};

fn with_ca(server: &EtcdServer) -> String {
    format!("{}?ca={}", server.tls_url(), server.ca_file().display())
}

/// The URL of `server` with the client's certificate that was made for `of`.
pub(crate) fn with_identity(server: &EtcdServer, of: &EtcdServer) -> String {
    let (certificate, key) = (of.client_certificate_file(), of.client_key_file());
    let (certificate, key) = (certificate.display(), key.display());
    format!("{}&cert={certificate}&key={key}", with_ca(server))
}

fn works(store: &EtcdDatastore) {
    let lease = take(store, &key("tls"), LONG);
    ours(store.release(&call(&lease, 1)));
}

fn text(error: &DatastoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Why there is no connection, where that is a matter of TLS.
#[track_caller]
fn failure(url: &str) -> (TlsReason, ErrorKind, String) {
    let store = store_at(url);
    let error = store.acquire(&claim(&key("tls")), LONG).unwrap_err();
    assert!(
        !error.may_have_executed() && !error.is_transient(),
        "{error:?}"
    );
    let source = std::error::Error::source(&error).unwrap();
    let tls = source.downcast_ref::<TlsError>();
    let tls = tls.unwrap_or_else(|| panic!("{source:?}"));
    (tls.reason(), error.kind(), text(&error))
}

#[test]
fn a_lock_over_tls_is_the_same_lock() {
    let server = EtcdServer::start_with_tls(TlsCertificate::Signed);
    let store = store_at(&with_ca(&server));
    let name = key("same");
    let lease = take(&store, &name, LONG);
    let plain = store_at(&server.url());
    let attempt = plain.acquire(&claim(&name), LONG).unwrap();
    assert!(matches!(attempt, dlock_core::AcquireOutcome::Held(_)));
    ours(store.release(&call(&lease, 1)));
    take(&plain, &name, LONG);
}

#[test]
fn a_server_must_prove_who_it_is() {
    use TlsReason::{Expired, UnknownAuthority, WrongName};
    let good = EtcdServer::start_with_tls(TlsCertificate::Signed);
    let elsewhere = EtcdServer::start_with_tls(TlsCertificate::ForAnotherHost);
    let expired = EtcdServer::start_with_tls(TlsCertificate::Expired);
    let foreign = format!("{}?ca={}", good.tls_url(), elsewhere.ca_file().display());
    for (url, expected) in [
        (with_ca(&elsewhere), WrongName),
        (with_ca(&expired), Expired),
        (foreign, UnknownAuthority),
    ] {
        let (reason, kind, text) = failure(&url);
        assert_eq!((reason, kind), (expected, ErrorKind::Untrusted), "{text}");
    }
    let own = EtcdServer::start_with_tls(TlsCertificate::SelfSignedAuthority);
    works(&store_at(&with_ca(&own)));
}

#[test]
fn a_client_shows_its_certificate_to_nodes_that_require_one() {
    let server = EtcdServer::start_requiring_certificates();
    works(&store_at(&with_identity(&server, &server)));
    let read = |file| std::fs::read(file).unwrap();
    let by_builder = EtcdDatastore::builder(&server.tls_url())
        .unwrap()
        .ca_pem(&read(server.ca_file()))
        .unwrap()
        .client_certificate_pem(
            &read(server.client_certificate_file()),
            &read(server.client_key_file()),
        )
        .unwrap()
        .call_timeout(CALL)
        .connect_timeout(CALL)
        .build();
    works(&by_builder);
    let plain = EtcdDatastore::builder(&server.url()).unwrap();
    let refused = plain.ca_pem(&read(server.ca_file())).unwrap_err();
    assert!(matches!(refused, UrlError::Certificates(_)), "{refused:?}");

    let (reason, kind, text) = failure(&with_ca(&server));
    assert!(
        matches!(
            reason,
            TlsReason::ClientCertificateRequired | TlsReason::ClientCertificateRefused
        ),
        "{text}"
    );
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("?cert=/path/to/client.crt&key="), "{text}");

    let other = EtcdServer::start_requiring_certificates();
    let (reason, kind, _) = failure(&with_identity(&server, &other));
    assert_eq!(reason, TlsReason::ClientCertificateRefused);
    assert_eq!(kind, ErrorKind::Invalid);
}

/// The gateway, through which calls go, hides the certificate of the client from etcd, and refuses
/// one that looks as if it were a login.
#[test]
fn a_certificate_is_no_login_so_users_log_in_with_a_password() {
    let server = EtcdServer::start_requiring_certificates();
    let permission = json!({
        "permType": "READWRITE", "key": base64("dlock:"), "range_end": base64("dlock;"),
    });
    for (path, body) in [
        ("user/add", json!({"name": "root", "password": "r00t"})),
        ("role/add", json!({"name": "root"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("user/add", json!({"name": "app", "password": "s3cret"})),
        ("role/add", json!({"name": "locks"})),
        ("role/grant", json!({"name": "locks", "perm": permission})),
        ("user/grant", json!({"user": "app", "role": "locks"})),
        ("enable", json!({})),
    ] {
        let answer = ask(&server, &format!("/v3/auth/{path}"), &body);
        assert_eq!(answer["error"], Value::Null, "{path}: {answer}");
    }
    let (certificate, key) = (
        server.nameless_certificate_file(),
        server.nameless_key_file(),
    );
    let (certificate, key) = (certificate.display(), key.display());
    let named = with_identity(&server, &server);
    let nameless = format!("{}&cert={certificate}&key={key}", with_ca(&server));
    let named_with_login = named.replace("etcds://", "etcds://app:s3cret@");
    for (url, kind, reason) in [
        (&named, ErrorKind::Invalid, "subjectAltName alone"),
        (
            &named_with_login,
            ErrorKind::Invalid,
            "subjectAltName alone",
        ),
        (&nameless, ErrorKind::Refused, "name a user who may"),
    ] {
        let error = eventually("the server answers", || {
            let claim = claim(&crate::support::key("cn"));
            let error = store_at(url).acquire(&claim, LONG).unwrap_err();
            (error.kind() != ErrorKind::Timeout).then_some(error)
        });
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(text(&error).contains(reason), "{error:?}");
        assert!(!error.may_have_executed());
    }
    works(&store_at(
        &nameless.replace("etcds://", "etcds://app:s3cret@"),
    ));
}

#[test]
fn tls_to_a_plain_port_and_plain_to_a_tls_port_end_in_an_error_that_names_the_other_scheme() {
    let server = EtcdServer::start_with_tls(TlsCertificate::Signed);
    for (url, hint) in [
        (
            format!("etcd://{}", server.tls_address()),
            "write etcds:// in place of etcd://",
        ),
        (
            format!(
                "etcds://{}?ca={}",
                server.address(),
                server.ca_file().display()
            ),
            "write etcd:// in place of etcds://",
        ),
    ] {
        let store = EtcdDatastore::builder(&url).unwrap();
        let store = store.connect_timeout(Duration::from_secs(2)).build();
        let error = store.acquire(&claim(&key("scheme")), LONG).unwrap_err();
        assert!(text(&error).contains(hint), "{url}: {error:?}");
        assert!(!error.may_have_executed());
    }
}

#[test]
fn a_node_that_is_not_believed_does_not_keep_the_others_from_answering() {
    let good = EtcdServer::start_with_tls(TlsCertificate::Signed);
    let elsewhere = EtcdServer::start_with_tls(TlsCertificate::ForAnotherHost);
    let url = format!(
        "etcds://{},{}?ca={}",
        elsewhere.tls_address(),
        good.tls_address(),
        good.ca_file().display()
    );
    works(&store_at(&url));
}
