//! The builder of a store, from a URL and options.

use std::fmt;
use std::path::Path;

use dlock_net::{Endpoint, EndpointError, Limits, UrlParts, percent_decoded};

use crate::error::UrlError;
use crate::tls::{ChannelBinding, Security, SslMode, TlsOptions};
use crate::{ConnectionManager, PostgresDatastore};

/// The default port of PostgreSQL.
const PORT: u16 = 5432;

/// Builds a [`PostgresDatastore`] with other limits than the defaults.
///
/// ```
/// use dlock_postgres::PostgresDatastore;
/// use std::time::Duration;
///
/// let store = PostgresDatastore::builder("postgres://app@127.0.0.1/app")?
///     .connect_timeout(Duration::from_millis(300))
///     .max_connections(4)
///     .build();
/// # Ok::<(), dlock_postgres::UrlError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "build() creates the store"]
pub struct PostgresBuilder {
    manager: ConnectionManager,
    limits: Limits,
}

dlock_net::impl_limit_setters!(PostgresBuilder);

impl PostgresBuilder {
    pub(crate) fn new(url: &str) -> Result<Self, UrlError> {
        Ok(PostgresBuilder {
            manager: ConnectionManager::new(url)?,
            limits: Limits::default(),
        })
    }

    /// How connections over TCP are protected, as `sslmode` in the URL. Default
    /// [`SslMode::Prefer`], and [`SslMode::VerifyFull`] once authorities are given.
    ///
    /// # Errors
    ///
    /// More than [`SslMode::Prefer`], if the crate is built without its feature `tls`.
    pub fn ssl_mode(mut self, mode: SslMode) -> Result<Self, UrlError> {
        self.manager = self.manager.with_ssl_mode(mode)?;
        Ok(self)
    }

    /// Whether a login by a password is bound to the server's certificate, as `channel_binding` in
    /// the URL. Default [`ChannelBinding::Prefer`].
    ///
    /// # Errors
    ///
    /// [`ChannelBinding::Require`], if the crate is built without its feature `tls`.
    pub fn channel_binding(mut self, binding: ChannelBinding) -> Result<Self, UrlError> {
        self.manager = self.manager.with_channel_binding(binding)?;
        Ok(self)
    }

    /// Believes the certificates of these authorities (PEM), and of no others. A server's own
    /// self-signed certificate is an authority too.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it.
    #[cfg(feature = "tls")]
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        self.manager = self.manager.with_ca_pem(pem)?;
        Ok(self)
    }

    /// Shows this certificate (PEM; with those between it and its authority, if there are any) to a
    /// server that asks for one, and proves with the key (PEM) that it is ours.
    ///
    /// # Errors
    ///
    /// If there is no certificate or no key in the texts, or the key is of another certificate.
    #[cfg(feature = "tls")]
    pub fn client_certificate_pem(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, UrlError> {
        self.manager = self.manager.with_client_certificate_pem(certificate, key)?;
        Ok(self)
    }

    /// Creates the store. It connects when it is first used.
    pub fn build(self) -> PostgresDatastore {
        PostgresDatastore::new(self.manager, self.limits)
    }
}

/// Where the servers are, and how to log in.
pub(crate) struct Address {
    pub(crate) hosts: Vec<Endpoint>,
    pub(crate) login: Login,
    pub(crate) security: Security,
}

/// Who logs in, to which database.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) database: String,
}

/// Without the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Address {
    pub(crate) fn of(url: &str) -> Result<Self, UrlError> {
        let parts = UrlParts::of(url).ok_or(UrlError::Scheme)?;
        if !matches!(parts.scheme, "postgres" | "postgresql") {
            return Err(UrlError::Scheme);
        }
        let options = Options::of(&parts)?;
        let hosts = match (parts.host, &options.socket_folder) {
            ("", Some(folder)) => vec![socket(folder, options.port)?],
            ("", None) | (_, Some(_)) => return Err(UrlError::Host),
            (hosts, None) => Endpoint::parse_list(hosts, Some(options.port))?,
        };
        Ok(Address {
            hosts,
            login: Login::of(&parts)?,
            security: Security::new(options.tls)?,
        })
    }
}

impl Login {
    fn of(parts: &UrlParts<'_>) -> Result<Self, UrlError> {
        let decoded = |text: &str| {
            let text = percent_decoded(text).filter(|text| !text.contains('\0'));
            text.ok_or(UrlError::Login)
        };
        let login = parts.login.ok_or(UrlError::Login)?;
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (decoded(user)?, Some(decoded(password)?)),
            None => (decoded(login)?, None),
        };
        if user.is_empty() {
            return Err(UrlError::Login);
        }
        // A login behind the slash would be shown as the name of a database.
        let path = parts.path.strip_prefix('/').unwrap_or(parts.path);
        if path.contains(['/', '@', '#']) {
            return Err(UrlError::Database);
        }
        let database = decoded(path).map_err(|_| UrlError::Database)?;
        Ok(Login {
            database: match database.is_empty() {
                true => user.clone(),
                false => database,
            },
            user,
            password,
        })
    }
}

struct Options {
    socket_folder: Option<String>,
    port: u16,
    tls: TlsOptions,
}

impl Options {
    fn of(parts: &UrlParts<'_>) -> Result<Self, UrlError> {
        let (mut folder, mut port, mut target) = (None, None, None);
        let mut tls = TlsOptions::default();
        for option in parts.options() {
            let (name, value) = option.ok_or(UrlError::Option)?;
            let place = match name {
                "host" => &mut folder,
                "port" => &mut port,
                "target_session_attrs" => &mut target,
                name => tls.option(name).ok_or(UrlError::Option)?,
            };
            if place.replace(value).is_some() {
                return Err(UrlError::Option);
            }
        }
        if !matches!(target.as_deref(), None | Some("read-write" | "primary")) {
            return Err(UrlError::Target);
        }
        let port = match port {
            None => PORT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or(EndpointError::Port)?,
        };
        Ok(Options {
            socket_folder: folder,
            port,
            tls,
        })
    }
}

/// The server's socket in its folder.
fn socket(folder: &str, port: u16) -> Result<Endpoint, UrlError> {
    let folder = Path::new(folder);
    #[cfg(unix)]
    if folder.is_absolute() {
        return Ok(Endpoint::Unix(folder.join(format!(".s.PGSQL.{port}"))));
    }
    let _ = (folder, port);
    Err(UrlError::Host)
}

#[cfg(test)]
mod tests;
