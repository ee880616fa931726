//! Certificates made for one server and thrown away with it.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes `ca.crt`, `server.crt` and `server.key` (PEM) into `folder`: a certificate for `localhost` and 127.0.0.1, signed by an authority
/// that exists for this call only.
///
/// # Panics
///
/// If the system has no randomness or the folder cannot be written.
pub(super) fn write_certificates(folder: &Path) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "dlock test authority");
    let authority_key = KeyPair::generate().expect("the system has randomness");
    let authority_certificate = authority
        .self_signed(&authority_key)
        .expect("the parameters are sound");
    let issuer = Issuer::new(authority, authority_key);

    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).expect("the names are sound");
    let server_key = KeyPair::generate().expect("the system has randomness");
    let server_certificate = server
        .signed_by(&server_key, &issuer)
        .expect("the parameters are sound");

    for (file, text) in [
        ("ca.crt", authority_certificate.pem()),
        ("server.crt", server_certificate.pem()),
        ("server.key", server_key.serialize_pem()),
    ] {
        fs::write(folder.join(file), text).expect("the server's folder is ours");
    }
}
