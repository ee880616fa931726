//! What a private Redis server is started with.

use std::fmt::Write as _;
use std::path::Path;

use crate::RedisServer;

/// How to start a [`RedisServer`].
///
/// Every server listens on a port of its own on 127.0.0.1 and on a Unix socket in its own folder,
/// keeps nothing on disk by itself, and has no password unless it is given one.
#[derive(Debug, Clone, Default)]
pub struct RedisBuilder {
    pub(super) password: Option<String>,
    pub(super) tls: bool,
    /// Whether it is a sentinel, which writes what it learns into its configuration file.
    pub(super) is_sentinel: bool,
    #[cfg(feature = "tls")]
    pub(super) certificate: crate::TlsCertificate,
    /// The folder of a server whose certificates it uses.
    #[cfg(feature = "tls")]
    pub(super) certificates: Option<std::path::PathBuf>,
    #[cfg(target_os = "linux")]
    pub(super) clock_step: bool,
    pub(super) is_cluster_node: bool,
    users: Vec<(String, String, String)>,
    settings: Vec<(String, String)>,
}

impl RedisBuilder {
    /// With a password for the default user.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// With a further user, who may do what `rules` say (`~dlock:* +evalsha`), and nothing else.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, rules: &str) -> Self {
        self.users
            .push((name.to_owned(), password.to_owned(), rules.to_owned()));
        self
    }

    /// With a TLS port beside the plain one, and a certificate that is made for this server.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With a TLS port, and a certificate of this kind.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_with(mut self, certificate: crate::TlsCertificate) -> Self {
        self.tls = true;
        self.certificate = certificate;
        self
    }

    /// With a TLS port, and the certificates of that server.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_of(mut self, server: &RedisServer) -> Self {
        self.tls = true;
        self.certificates = Some(server.folder().to_owned());
        self
    }

    /// With a wall clock of its own, for [`RedisServer::step_clock_forward`] and
    /// [`step_clock_back`](RedisServer::step_clock_back). Starting it compiles a small C library
    /// with `cc`, and panics if there is no such compiler.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn clock_step(mut self) -> Self {
        self.clock_step = true;
        self
    }

    /// As a node of a cluster, which must be introduced to the others.
    #[must_use]
    pub fn cluster_node(mut self) -> Self {
        self.is_cluster_node = true;
        self
    }

    /// With a line of the server's configuration file: `("appendonly", "yes")`.
    #[must_use]
    pub fn config(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(self) -> RedisServer {
        RedisServer::started(self)
    }

    /// The text of the configuration file. Passwords stand there and not on the command line, which
    /// everybody can read.
    pub(super) fn file(&self, folder: &Path, port: u16, tls_port: Option<u16>) -> String {
        let folder = folder.display();
        let mut file = format!(
            "bind 127.0.0.1\nport {port}\nunixsocket {folder}/socket\nunixsocketperm 700\n\
             dir {folder}\nsave \"\"\nappendonly no\ndaemonize no\n"
        );
        let mut line = |text: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = writeln!(file, "{text}");
        };
        if let Some(port) = tls_port {
            line(format_args!(
                "tls-port {port}\ntls-cert-file {folder}/server.crt\ntls-key-file {folder}/server.key\n\
                 tls-ca-cert-file {folder}/ca.crt\ntls-auth-clients no"
            ));
        }
        if self.is_cluster_node {
            line(format_args!("cluster-enabled yes"));
        }
        if let Some(password) = &self.password {
            line(format_args!("requirepass {password}"));
        }
        for (name, password, rules) in &self.users {
            line(format_args!("user {name} on >{password} {rules}"));
        }
        for (name, value) in &self.settings {
            line(format_args!("{name} {value}"));
        }
        file
    }
}
