//! The builder of a store, from a URL and options, and what can be wrong with them.

use std::fmt;
use std::path::Path;

use dlock_net::{Endpoint, EndpointError, Limits, UrlParts, percent_decoded};
use thiserror::Error;

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

    /// Creates the store. It connects when it is first used.
    pub fn build(self) -> PostgresDatastore {
        PostgresDatastore::new(self.manager, self.limits)
    }
}

/// What is wrong with the URL of a PostgreSQL server. The text does not repeat the URL, which may
/// contain a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("the URL of a PostgreSQL server starts with postgres:// or postgresql://")]
    Scheme,
    /// A host or a port is invalid.
    #[error("postgres URL: {0}")]
    Endpoint(#[from] EndpointError),
    /// There is no host, or a host and a socket.
    #[error(
        "give a host, or the folder of a Unix socket: postgres://app@/database?host=/run/postgresql"
    )]
    Host,
    /// There is no user, or the login has a malformed escape.
    #[error(
        "the login is user or user:password, with special characters percent-encoded (@ is %40)"
    )]
    Login,
    /// The path is more than the name of a database.
    #[error("the path is the name of a database, like postgres://app@127.0.0.1/database")]
    Database,
    /// An option that is unknown, stands twice or has a malformed escape.
    #[error("the options are host, port and target_session_attrs, each once")]
    Option,
    /// Another value of `target_session_attrs`.
    #[error("locks are written: target_session_attrs is read-write or primary")]
    Target,
    /// TLS was asked for.
    #[error(
        "TLS is not supported yet: sslmode is disable, allow or prefer; use a Unix socket or a tunnel where the network is not trusted"
    )]
    Tls,
}

/// Where the servers are, and how to log in.
pub(crate) struct Address {
    pub(crate) hosts: Vec<Endpoint>,
    pub(crate) login: Login,
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
}

impl Options {
    fn of(parts: &UrlParts<'_>) -> Result<Self, UrlError> {
        let (mut folder, mut port, mut target, mut tls) = (None, None, None, None);
        for option in parts.options() {
            let (name, value) = option.ok_or(UrlError::Option)?;
            let place = match name {
                "host" => &mut folder,
                "port" => &mut port,
                "target_session_attrs" => &mut target,
                "sslmode" => &mut tls,
                _ => return Err(UrlError::Option),
            };
            if place.replace(value).is_some() {
                return Err(UrlError::Option);
            }
        }
        if !matches!(target.as_deref(), None | Some("read-write" | "primary")) {
            return Err(UrlError::Target);
        }
        if !matches!(tls.as_deref(), None | Some("disable" | "allow" | "prefer")) {
            return Err(UrlError::Tls);
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
