//! PgBouncer before a PostgreSQL server.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use super::{PostgresServer, Programs, session};
use crate::process::{self, Ending, Launch, Process, on_a_free_port};

/// A private PgBouncer before a [`PostgresServer`]: it gives each transaction any one of two
/// connections to the server.
///
/// Which binary is run: that in the environment's `DLOCK_PGBOUNCER`, else `pgbouncer`.
pub struct PostgresPooler {
    programs: Programs,
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl PostgresPooler {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn before(server: &PostgresServer) -> Self {
        let programs = server.programs.clone();
        let folder = programs.folder();
        let file = folder.path().join("pgbouncer.ini");
        let users = folder.path().join("users");
        fs::write(&users, "\"postgres\" \"\"\n").expect("the folder is ours");
        let (port, process) = on_a_free_port(folder.path(), |port| {
            let text = format!(
                "[databases]\npostgres = user=postgres host=127.0.0.1 port={}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = any\nauth_file = {}\n\
                 pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n",
                server.port,
                users.display(),
            );
            fs::write(&file, text).expect("the folder is ours");
            let launch = Launch {
                binary: &process::binary("DLOCK_PGBOUNCER", "pgbouncer"),
                install: "apt-get install pgbouncer",
                arguments: vec![file.clone().into()],
                environment: Vec::new(),
                folder: folder.path(),
                user: programs.user,
                ending: Ending::Kill,
            };
            let ready = || session::is_ready(&programs, "127.0.0.1".as_ref(), port);
            Some((port, Process::start(&launch, ready)?))
        });
        PostgresPooler {
            programs,
            port,
            _process: process,
            _folder: folder,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// `postgres://postgres@127.0.0.1:port/postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address())
    }

    /// Runs SQL through it.
    ///
    /// # Panics
    ///
    /// If there is an error.
    pub fn sql(&self, sql: &str) -> String {
        session::answer(&self.programs, "127.0.0.1".as_ref(), self.port, sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
