//! Certificates made for one server and thrown away with it.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

const FILES: [&str; 5] = [
    "ca.crt",
    "server.crt",
    "server.key",
    "client.crt",
    "client.key",
];

/// What a server shows to prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TlsCertificate {
    /// A certificate for `localhost` and 127.0.0.1, signed by an authority of its own.
    #[default]
    Signed,
    /// One that it has signed itself; it is its own authority file.
    SelfSigned,
    /// The same, marked as that of an authority, as `openssl req -x509` makes it.
    SelfSignedAuthority,
    /// The same, and it has expired.
    SelfSignedExpired,
    /// A signed one that has expired.
    Expired,
    /// A signed one for another host.
    ForAnotherHost,
}

/// Copies what [`write_certificates`] wrote for another server.
///
/// # Panics
///
/// If that server has none.
pub(super) fn copy_certificates(from: &Path, folder: &Path) {
    for file in FILES {
        fs::copy(from.join(file), folder.join(file)).expect("the other server speaks TLS");
    }
}

/// Writes `ca.crt`, `server.crt` and `server.key` (PEM) into `folder`: a certificate for
/// `localhost` and 127.0.0.1, signed by an authority that exists for this call only, or one with
/// something wrong. `client.crt` and `client.key` are those of a client; the same authority has
/// signed them.
///
/// # Panics
///
/// If the system has no randomness or the folder cannot be written.
pub(super) fn write_certificates(folder: &Path, certificate: TlsCertificate) {
    use TlsCertificate::{
        Expired, ForAnotherHost, SelfSigned, SelfSignedAuthority, SelfSignedExpired, Signed,
    };
    let names: &[&str] = match certificate {
        ForAnotherHost => &["elsewhere.example"],
        _ => &["localhost", "127.0.0.1"],
    };
    let mut server = params(names);
    if matches!(certificate, Expired | SelfSignedExpired) {
        server.not_before = date_time_ymd(2001, 1, 1);
        server.not_after = date_time_ymd(2002, 1, 1);
    }
    if matches!(certificate, SelfSignedAuthority | SelfSignedExpired) {
        server.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let server_key = key();
    let mut authority = params(&[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "dlock test authority");
    let authority_key = key();
    let own = authority.self_signed(&authority_key).expect(SOUND);
    let issuer = Issuer::new(authority, authority_key);
    let client_key = key();
    let client = params(&["client.example"]).signed_by(&client_key, &issuer);
    let (of_server, of_authority) = match certificate {
        SelfSigned | SelfSignedAuthority | SelfSignedExpired => {
            let own = server.self_signed(&server_key).expect(SOUND);
            (own.pem(), own.pem())
        }
        Signed | Expired | ForAnotherHost => {
            let signed = server.signed_by(&server_key, &issuer).expect(SOUND);
            (signed.pem(), own.pem())
        }
    };
    let texts = [
        of_authority,
        of_server,
        server_key.serialize_pem(),
        client.expect(SOUND).pem(),
        client_key.serialize_pem(),
    ];
    for (file, text) in FILES.into_iter().zip(texts) {
        fs::write(folder.join(file), text).expect("the server's folder is ours");
    }
}

const SOUND: &str = "the parameters are sound";

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).expect("the names are sound")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}
