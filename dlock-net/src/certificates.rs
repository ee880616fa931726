//! The files of certificates that a URL names.

/// The options `ca`, `cert` and `key` of a URL: files (PEM) with the authorities to believe, with
/// the certificate of this side, and with its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The authorities to believe, instead of those that the system trusts.
    pub ca: Option<String>,
    /// The client's certificate.
    pub certificate: Option<String>,
    /// The key of the client's certificate.
    pub key: Option<String>,
}

impl CertificateFiles {
    /// The place of the option with this name; `None` for another name.
    pub fn option(&mut self, name: &str) -> Option<&mut Option<String>> {
        match name {
            "ca" => Some(&mut self.ca),
            "cert" => Some(&mut self.certificate),
            "key" => Some(&mut self.key),
            _ => None,
        }
    }

    /// Returns whether there is a certificate without its key, or the reverse.
    pub fn is_half(&self) -> bool {
        self.certificate.is_some() != self.key.is_some()
    }
}
