//! Certificates made for one server and thrown away with it.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    SigningKey, date_time_ymd,
};

const FILES: [&str; 7] = [
    "ca.crt",
    "server.crt",
    "server.key",
    "client.crt",
    "client.key",
    "nameless.crt",
    "nameless.key",
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
    /// One of version 1, without a name or anything else of version 3, as `openssl x509 -req` makes
    /// it; it has signed itself.
    VersionOne,
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
/// signed them. `nameless.crt` and `nameless.key` are the same without a common name.
///
/// # Panics
///
/// If the system has no randomness or the folder cannot be written.
pub(super) fn write_certificates(folder: &Path, certificate: TlsCertificate) {
    use TlsCertificate::{
        Expired, ForAnotherHost, SelfSigned, SelfSignedAuthority, SelfSignedExpired, Signed,
        VersionOne,
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
    let nameless_key = key();
    let mut nameless = params(&["client.example"]);
    nameless.distinguished_name = DistinguishedName::new();
    let nameless = nameless.signed_by(&nameless_key, &issuer);
    let (of_server, of_authority) = match certificate {
        VersionOne => {
            let own = server.self_signed(&server_key).expect(SOUND);
            let own = in_version_one(own.der(), &server_key);
            (own.clone(), own)
        }
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
        nameless.expect(SOUND).pem(),
        nameless_key.serialize_pem(),
    ];
    for (file, text) in FILES.into_iter().zip(texts) {
        fs::write(folder.join(file), text).expect("the server's folder is ours");
    }
}

/// The same certificate in version 1 (PEM): without the number of the version and the extensions.
fn in_version_one(certificate: &[u8], key: &KeyPair) -> String {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    const EXTENSIONS: u8 = 0xa3;
    const BITS: u8 = 0x03;

    let parts = elements(&elements(certificate)[0].1);
    let [signed, algorithm, _] = &parts[..] else {
        panic!("{SOUND}");
    };
    let kept = elements(&signed.1).into_iter();
    let kept = kept.filter(|(tag, _)| !matches!(*tag, VERSION | EXTENSIONS));
    let kept: Vec<u8> = kept
        .flat_map(|(tag, content)| element(tag, &content))
        .collect();
    let signed = element(SEQUENCE, &kept);
    let signature = [vec![0], key.sign(&signed).expect(SOUND)].concat();
    let algorithm = element(algorithm.0, &algorithm.1);
    let whole = [signed, algorithm, element(BITS, &signature)].concat();
    let text = STANDARD.encode(element(SEQUENCE, &whole));
    let lines: Vec<_> = text.as_bytes().chunks(64).collect();
    let lines = String::from_utf8_lossy(&lines.join(&b'\n')).into_owned();
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

/// The elements of DER one after another: their tags and contents.
fn elements(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [tag, first, rest @ ..] = bytes {
        let digits = usize::from(first.saturating_sub(0x80));
        let (number, rest) = rest.split_at(digits);
        let length = match digits {
            0 => usize::from(*first),
            _ => number
                .iter()
                .fold(0, |number, digit| number << 8 | usize::from(*digit)),
        };
        let (content, rest) = rest.split_at(length);
        all.push((*tag, content.to_vec()));
        bytes = rest;
    }
    all
}

/// An element of DER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a certificate is small");
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=0x7f => vec![tag, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, content].concat()
}

const SOUND: &str = "the parameters are sound";

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).expect("the names are sound")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}
