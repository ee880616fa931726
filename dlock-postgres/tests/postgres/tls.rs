//! TLS as libpq's options ask for it, on real servers, and what somebody in between can do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, DatastoreError, ErrorKind};
use dlock_postgres::{
    ChannelBinding, ConnectionManager, PostgresDatastore, SslMode, TlsError, TlsReason, UrlError,
};
use dlock_test_servers::{PostgresServer, TlsCertificate};

use crate::support::{LONG, TTL, acquired, claim, patient, released, server, with_schema};

/// A server with TLS and a certificate for its address, and these users: `app` needs nothing,
/// `shown` a client's certificate, `scram` and `md5` a password.
pub(crate) fn tls_server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| with_users(TlsCertificate::Signed))
}

fn with_users(certificate: TlsCertificate) -> PostgresServer {
    let server = with_schema(PostgresServer::start_with_tls(certificate));
    server.sql(
        "CREATE ROLE with_password; CREATE ROLE with_certificate; CREATE ROLE app LOGIN; \
         CREATE ROLE shown LOGIN IN ROLE with_certificate; \
         CREATE ROLE scram LOGIN PASSWORD 's3cret' IN ROLE with_password; \
         GRANT USAGE ON SCHEMA dlock TO PUBLIC; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO PUBLIC",
    );
    server
}

/// The URL for this login, at another address than the server's, say.
fn url_at(address: SocketAddr, login: &str, options: &str) -> String {
    let url = format!("postgres://{login}@{address}/postgres");
    match options.trim_end_matches('&') {
        "" => url,
        options => format!("{url}?{options}"),
    }
}

fn url(server: &PostgresServer, login: &str, options: &str) -> String {
    url_at(server.address(), login, options)
}

fn with_ca(server: &PostgresServer, options: &str) -> String {
    format!("sslrootcert={}&{options}", server.ca_file().display())
}

/// Whether what goes over the network can be read there.
#[track_caller]
fn is_encrypted(server: &PostgresServer, login: &str, options: &str) -> bool {
    // Tests beside this one ask the same server.
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let key = format!("dlock:encrypted-{}", ASKED.fetch_add(1, Ordering::Relaxed));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let store = patient(&url_at(recorded(server.address(), &sent), login, options));
    assert!(released(&store, &acquired(&store, &key)));
    let sent = sent.lock().unwrap();
    !sent.windows(key.len()).any(|part| part == key.as_bytes())
}

/// Passes connections on to `server`, and keeps what clients send.
fn recorded(server: SocketAddr, sent: &Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::clone(sent);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(server).unwrap();
            let (mut back, mut answers) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let sent = Arc::clone(&sent);
            thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(read @ 1..) = client.read(&mut part) {
                    sent.lock().unwrap().extend_from_slice(&part[..read]);
                    if server.write_all(&part[..read]).is_err() {
                        break;
                    }
                }
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[track_caller]
fn failure(url: &str) -> DatastoreError {
    let error = patient(url).acquire(&claim("dlock:tls"), TTL).unwrap_err();
    assert!(!error.may_have_executed(), "{error:?}");
    error
}

fn reason(error: &DatastoreError) -> TlsReason {
    let source = std::error::Error::source(error).unwrap();
    let error = source.downcast_ref::<TlsError>();
    error.unwrap_or_else(|| panic!("{source:?}")).reason()
}

fn text(error: &DatastoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The outcome of one way to ask, with the reason of a failure.
fn outcome(url: &str) -> Result<(), TlsReason> {
    match patient(url).acquire(&claim("dlock:outcome"), TTL) {
        Ok(_) => Ok(()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
            Err(reason(&error))
        }
    }
}

#[test]
fn each_mode_checks_what_libpq_says() {
    use TlsReason::{Expired, UnknownAuthority, WrongName};
    let good = with_schema(PostgresServer::start_with_tls(TlsCertificate::Signed));
    let elsewhere = with_schema(PostgresServer::start_with_tls(
        TlsCertificate::ForAnotherHost,
    ));
    let expired = with_schema(PostgresServer::start_with_tls(TlsCertificate::Expired));
    let own = |server: &PostgresServer| server.ca_file().display().to_string();
    for (server, options, expected) in [
        (&good, "sslmode=disable".to_owned(), Ok(())),
        (&good, "sslmode=prefer".to_owned(), Ok(())),
        (&good, "sslmode=require".to_owned(), Ok(())),
        (&elsewhere, "sslmode=require".to_owned(), Ok(())),
        (&expired, "sslmode=require".to_owned(), Ok(())),
        (&good, format!("sslrootcert={}", own(&good)), Ok(())),
        (
            &good,
            format!("sslmode=verify-full&sslrootcert={}", own(&good)),
            Ok(()),
        ),
        (
            &good,
            format!("sslmode=verify-ca&sslrootcert={}", own(&elsewhere)),
            Err(UnknownAuthority),
        ),
        (
            &good,
            format!("sslmode=require&sslrootcert={}", own(&elsewhere)),
            Err(UnknownAuthority),
        ),
        (
            &good,
            format!("sslmode=prefer&sslrootcert={}", own(&elsewhere)),
            Err(UnknownAuthority),
        ),
        (
            &elsewhere,
            format!("sslmode=verify-ca&sslrootcert={}", own(&elsewhere)),
            Ok(()),
        ),
        (
            &elsewhere,
            format!("sslmode=verify-full&sslrootcert={}", own(&elsewhere)),
            Err(WrongName),
        ),
        (
            &elsewhere,
            format!("sslrootcert={}", own(&elsewhere)),
            Err(WrongName),
        ),
        (
            &expired,
            format!("sslmode=verify-ca&sslrootcert={}", own(&expired)),
            Err(Expired),
        ),
    ] {
        assert_eq!(
            outcome(&url(server, "postgres", &options)),
            expected,
            "{options}"
        );
    }
}

#[test]
fn tls_is_used_where_the_server_has_it_and_not_where_it_is_switched_off() {
    let server = tls_server();
    for (options, expected) in [
        ("", true),
        ("sslmode=prefer", true),
        ("sslmode=require", true),
        ("sslmode=disable", false),
    ] {
        assert_eq!(is_encrypted(server, "app", options), expected, "{options}");
    }
    // A Unix socket has none, whatever is asked.
    let store = patient(&format!("{}&sslmode=verify-full", server.socket_url()));
    assert!(released(&store, &acquired(&store, "dlock:socket")));
}

#[test]
fn a_self_signed_certificate_is_its_own_authority_and_one_of_version_1_is_encrypted() {
    for kind in [
        TlsCertificate::SelfSigned,
        TlsCertificate::SelfSignedAuthority,
    ] {
        let server = with_schema(PostgresServer::start_with_tls(kind));
        let options = with_ca(&server, "sslmode=verify-full");
        assert!(is_encrypted(&server, "postgres", &options));
    }
    let old = with_users(TlsCertificate::VersionOne);
    assert!(is_encrypted(&old, "app", "sslmode=require"));
    assert!(is_encrypted(
        &old,
        "scram:s3cret",
        "channel_binding=require"
    ));
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_required_and_the_error_says_what_to_do() {
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = failure(&url(server(), "postgres", &format!("sslmode={mode}")));
        assert_eq!(reason(&error), TlsReason::NotOffered, "{mode}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!error.is_transient());
        assert!(text(&error).contains("ssl = on"), "{error}");
    }
    assert!(!is_encrypted(server(), "postgres", "sslmode=prefer"));
}

/// Passes one connection on, and answers the question for TLS by itself: with `answer`.
fn in_between(server: SocketAddr, answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || pass_on(client, server, answer));
        }
    });
    address
}

fn pass_on(mut client: TcpStream, server: SocketAddr, answer: &[u8]) {
    let mut question = [0; 8];
    if client.read_exact(&mut question).is_err() || client.write_all(answer).is_err() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server) else {
        return;
    };
    let (mut to, mut from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let up = thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = up.join();
}

#[test]
fn somebody_in_between_who_takes_tls_away_is_refused() {
    let server = tls_server();
    let between = in_between(server.address(), b"N");
    // It works for those who did not ask for more.
    let careless = patient(&url_at(between, "app", "sslmode=prefer"));
    assert!(released(&careless, &acquired(&careless, "dlock:careless")));
    for options in ["sslmode=require", &with_ca(server, "")] {
        let error = failure(&url_at(between, "app", options));
        assert_eq!(reason(&error), TlsReason::NotOffered);
        assert!(text(&error).contains("something in between"), "{error}");
    }
    let error = failure(&url_at(between, "scram:s3cret", "channel_binding=require"));
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert!(text(&error).contains("channel_binding=require"), "{error}");
}

#[test]
fn plain_bytes_behind_the_servers_yes_are_not_taken_for_its_answers() {
    let server = tls_server();
    // AuthenticationOk and ReadyForQuery, which must come through TLS.
    let between = in_between(server.address(), b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
    let error = failure(&url_at(between, "app", "sslmode=require"));
    assert_eq!(reason(&error), TlsReason::NotTls, "{error:?}");
}

#[test]
fn an_answer_to_the_question_for_tls_that_is_none_is_an_error_without_its_text() {
    let between = in_between(server().address(), b"E\0\0\0\x10s3cret advice");
    let error = failure(&url_at(between, "app", "sslmode=require"));
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(!format!("{error:?} {}", text(&error)).contains("s3cret"));
}

#[test]
fn a_login_is_bound_to_the_certificate_where_both_can() {
    let real = tls_server();
    for options in ["", "sslmode=require", "channel_binding=require"] {
        assert!(is_encrypted(real, "scram:s3cret", options), "{options}");
    }
    // Without TLS, and without a password, there is no bound login.
    for (login, options) in [
        ("scram:s3cret", "sslmode=disable&channel_binding=require"),
        ("app", "channel_binding=require"),
    ] {
        let error = failure(&url(real, login, options));
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{login} {options}");
        assert!(!error.is_transient());
    }
    assert!(!is_encrypted(real, "scram:s3cret", "sslmode=disable"));
    assert!(is_encrypted(
        real,
        "scram:s3cret",
        "channel_binding=disable"
    ));
}

#[test]
fn a_wrong_password_is_refused_over_tls_and_not_shown() {
    let url = url(tls_server(), "scram:wr0ng", "");
    let error = failure(&url);
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!format!("{error:?} {}", text(&error)).contains("wr0ng"));
}

#[test]
fn a_client_shows_its_certificate_where_it_is_wanted() {
    let server = tls_server();
    let files = |of: &PostgresServer| {
        let (certificate, key) = (of.client_certificate_file(), of.client_key_file());
        format!("sslcert={}&sslkey={}", certificate.display(), key.display())
    };
    assert!(is_encrypted(server, "shown", &files(server)));
    // Without one the server refuses the user; it says so in its own words.
    let error = failure(&url(server, "shown", ""));
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert!(text(&error).contains("client certificate"), "{error}");
    // One of another authority is refused in the handshake.
    let other = PostgresServer::start_with_tls(TlsCertificate::Signed);
    let error = failure(&url(server, "shown", &files(&other)));
    assert_eq!(reason(&error), TlsReason::ClientCertificateRefused);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(text(&error).contains("?sslcert="), "{error}");

    let read = |file: PathBuf| std::fs::read(file).unwrap();
    let by_builder = PostgresDatastore::builder(&url_at(server.address(), "shown", ""))
        .unwrap()
        .ssl_mode(SslMode::VerifyFull)
        .unwrap()
        .channel_binding(ChannelBinding::Prefer)
        .unwrap()
        .ca_pem(&read(server.ca_file()))
        .unwrap()
        .client_certificate_pem(
            &read(server.client_certificate_file()),
            &read(server.client_key_file()),
        )
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(LONG)
        .build();
    assert!(released(
        &by_builder,
        &acquired(&by_builder, "dlock:by-builder")
    ));
}

#[test]
fn what_is_no_certificate_or_no_key_is_named_at_once_and_not_shown() {
    let manager = || ConnectionManager::new("postgres://app@host").unwrap();
    let error = manager().with_ca_pem(b"s3cret").unwrap_err();
    assert!(matches!(&error, UrlError::Certificates(text) if !text.contains("s3cret")));
    let refused = manager().with_client_certificate_pem(b"s3cret", b"s3cret");
    assert!(!refused.unwrap_err().to_string().contains("s3cret"));
}

#[test]
fn the_schema_is_created_over_tls_too() {
    let server = PostgresServer::start_with_tls(TlsCertificate::Signed);
    let options = with_ca(&server, "sslmode=verify-full");
    let manager = ConnectionManager::new(&url(&server, "postgres", &options)).unwrap();
    manager.with_connect_timeout(LONG).migrate(LONG).unwrap();
    assert!(is_encrypted(&server, "postgres", &options));
}

/// Takes the connection, says yes, and is silent from then on.
#[test]
fn a_silent_server_costs_no_more_than_the_call_may_take() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let silent = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"S").unwrap();
        // Until the client gives up.
        let _ = std::io::copy(&mut client, &mut std::io::sink());
    });
    let hasty = PostgresDatastore::builder(&url_at(address, "app", "sslmode=require"))
        .unwrap()
        .connect_timeout(Duration::from_millis(300))
        .build();
    let error = hasty.acquire(&claim("dlock:silent"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(!error.may_have_executed());
    silent.join().unwrap();
}

/// Accepts any login by SCRAM, without the server's own proof that it knows the password.
#[test]
fn a_server_that_lets_in_without_its_own_proof_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let impostor = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut startup = [0; 1024];
        let _ = client.read(&mut startup).unwrap();
        let sasl = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
        client.write_all(sasl).unwrap();
        let _ = client.read(&mut startup).unwrap();
        let _ = client.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
        let _ = std::io::copy(&mut client, &mut std::io::sink());
    });
    let error = failure(&url_at(address, "app:s3cret", "sslmode=disable"));
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
    impostor.join().unwrap();
}
